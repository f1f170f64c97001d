from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from standing_in import TOKEN, Hub, files_of, served

if TYPE_CHECKING:
    from mdlm_atat import MaskedDiffusionLM
    from mdlm_atat.published.imported import Imported


@dataclass
class Client:
    """The hub's client in this process, as a person has it: its cache, and whether one is logged in."""

    home: Path
    patch: pytest.MonkeyPatch

    def log_in(self, token: str = TOKEN) -> None:
        self.patch.setenv("HF_TOKEN", token)

    def log_out(self) -> None:
        self.patch.delenv("HF_TOKEN", raising=False)

    def go_offline(self) -> None:
        self.patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def ask(self, url: str) -> None:
        self.patch.setattr("huggingface_hub.constants.ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        self.patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of this machine that the real client asks, with a cache of its own for this test, and our cache beside."""
    pytest.importorskip("huggingface_hub")
    with served(Hub()) as found:
        client = Client(tmp_path / "hf", monkeypatch)
        client.ask(found.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "atat"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield found


@pytest.fixture
def client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(tmp_path / "hf", monkeypatch)


@pytest.fixture(scope="session")
def saved(masked: MaskedDiffusionLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's masked model as save_pretrained writes it."""
    return masked.save_pretrained(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="session")
def published(masked: MaskedDiffusionLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in the hub's format, of a family called toy: other names of weights, config.json alone, and a
    pickle and code beside it that nobody is to read."""
    from safetensors.torch import save_file

    from mdlm_atat.data.open_tokenizer import save_tokenizer

    folder = tmp_path_factory.mktemp("published") / "toy"
    save_tokenizer(masked.tokenizer, folder)
    weights = {f"toy.{name}": weight.detach().clone() for name, weight in masked.network.named_parameters()}
    save_file(weights, folder / "model.safetensors")
    config = {"model_type": "toy", "architectures": ["ToyForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_toy.py").write_text("raise SystemExit('this was run')")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Toy\n")
    return folder


@pytest.fixture
def toy_family(masked: MaskedDiffusionLM, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Makes toy a family that is known; the paths that it was read from are in the list."""
    from safetensors.torch import load_file

    from mdlm_atat.data.open_tokenizer import load_tokenizer
    from mdlm_atat.published.imported import Imported, Origin
    from mdlm_atat.published.read import FAMILIES, Family

    read: list[Path] = []

    def is_toy(path: Path) -> bool:
        return json.loads((path / "config.json").read_text()).get("model_type") == "toy"

    def read_toy(path: Path) -> Imported | None:
        if not path.is_dir() or not is_toy(path):
            return None
        read.append(path)
        weights = {name.removeprefix("toy."): value for name, value in load_file(path / "model.safetensors").items()}
        origin = Origin(source=str(path), family="Toy")
        return Imported(config=masked.config, weights=weights, tokenizer=load_tokenizer(path), origin=origin)

    monkeypatch.setitem(FAMILIES, "toy", Family(is_toy, read_toy))
    return read


@pytest.fixture
def on_hub(hub: Hub, saved: Path, published: Path) -> Hub:
    """`me/ours`, which save_pretrained wrote, and `them/toy`, of another family."""
    hub.add("me/ours", files_of(saved))
    hub.add("them/toy", files_of(published))
    return hub

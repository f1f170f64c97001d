"""A .gguf file as the judge of samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from others import make
from test_gguf import SIZE, write

from mdlm_atat.errors import UserError
from mdlm_atat.published import hub
from mdlm_atat.runs.sample_quality import load_judge
from mdlm_atat.scoring import judge as judge_module
from mdlm_atat.scoring.judge import HubJudge

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = make("Llama", vocab_size=SIZE, intermediate_size=64)
    return write(network, tmp_path_factory.mktemp("gguf") / "tiny.gguf", packing="Q8_0", words=True)


def test_a_gguf_file_judges_a_text_by_the_chain_rule_of_its_unpacked_weights(file: Path) -> None:
    judge = load_judge(file, device=torch.device("cpu"), batch_size=4)
    assert isinstance(judge, HubJudge)
    found = judge(["abc", "a cab"])
    (row,) = judge.tokenizer(["a cab"], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = judge.model(torch.tensor([[*judge.bos, *row]])).logits[0].double().log_softmax(-1)
    scored = row if judge.bos else row[1:]
    expected = -sum(logits[place, token].item() for place, token in enumerate(scored))
    assert found.nats[1].item() == pytest.approx(expected, abs=1e-4)
    assert judge.name == str(file)


def test_a_gguf_judge_that_is_missing_too_large_or_needs_a_library_is_one_message(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match=r"there is no folder .*nosuch\.gguf to load a judge from"):
        load_judge(tmp_path / "nosuch.gguf", device=cpu, batch_size=1)
    for part in ("p-00001-of-00002.gguf", "p-00002-of-00002.gguf"):
        (tmp_path / part).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"of-00002\.gguf is in several parts: join them into one file"):
        load_judge(tmp_path / "p-00001-of-00002.gguf", device=cpu, batch_size=1)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(UserError, match=r"bad\.gguf could not be loaded"):
        load_judge(tmp_path / "bad.gguf", device=cpu, batch_size=1)
    monkeypatch.setattr(hub, "machine_memory", lambda: 1024)
    with pytest.raises(UserError, match=r"tiny\.gguf has .* of weights; this machine has 1\.0 KiB of memory"):
        load_judge(file, device=cpu, batch_size=1)
    monkeypatch.setattr(hub, "machine_memory", lambda: None)
    monkeypatch.setattr(judge_module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs the library gguf, an extra: pip install 'mdlm-atat\[hub\]'"):
        load_judge(file, device=cpu, batch_size=1)

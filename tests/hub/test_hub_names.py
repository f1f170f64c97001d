"""Models of the hub by name, wherever a model is named: asked of a stand-in by the real client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from standing_in import OTHER_TOKEN, Hub, files_of

import mdlm_atat
from mdlm_atat.cli.main import main
from mdlm_atat.data.cache import clear_cached, list_cache
from mdlm_atat.errors import UserError
from mdlm_atat.lm import MaskedDiffusionLM, load_lm
from mdlm_atat.model_folder import models_folder
from mdlm_atat.published import hub as hub_module
from mdlm_atat.published.hub import HubName, chosen_files
from mdlm_atat.published.place import find_model


@pytest.mark.parametrize("name", ["hub:me/ours", "hub:them/toy", "hub:me/ours@main"])
def test_a_model_of_the_hub_has_the_weights_of_its_folder(
    name: str, on_hub: Hub, masked: MaskedDiffusionLM, toy_family: list[Path]
) -> None:
    lm = load_lm(name)
    assert lm.fingerprint() == masked.fingerprint()
    assert lm.generate("the", length=8, seed=1) == masked.generate("the", length=8, seed=1)


def test_neither_pickles_nor_code_nor_other_files_are_downloaded(on_hub: Hub, toy_family: list[Path], client) -> None:
    load_lm("hub:them/toy")
    downloaded = {file.name for file in client.home.rglob("*") if file.is_file() and "snapshots" in file.parts}
    assert downloaded >= {"config.json", "model.safetensors"}
    assert not downloaded & {"pytorch_model.bin", "modeling_toy.py", "README.md"}


def test_a_published_model_is_read_once_and_kept_by_its_commit(
    on_hub: Hub, toy_family: list[Path], published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_lm("hub:them/toy")
    told = capsys.readouterr().err
    assert "downloading hub:them/toy: " in told
    assert "reading hub:them/toy as Toy, once" in told
    load_lm("hub:them/toy")
    assert (len(toy_family), capsys.readouterr().err) == (1, "")
    (kept,) = [path for path in models_folder().iterdir() if path.is_dir()]
    origin = json.loads((kept / "origin.json").read_text())
    commit = on_hub.model("them/toy").branches["main"]
    assert (origin["source"], origin["revision"], origin["licence"]) == ("hub:them/toy", commit, "apache-2.0")
    on_hub.add("them/toy", {**files_of(published), "generation_config.json": b"{}"})
    load_lm("hub:them/toy")
    assert len(toy_family) == 2  # another commit
    load_lm(f"hub:them/toy@{commit}")
    assert len(toy_family) == 2


def test_the_cache_lists_and_clears_models_that_were_read(
    on_hub: Hub, toy_family: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    load_lm("hub:them/toy")
    assert main(["cache", "list"]) == 0
    assert "hub:them/toy" in capsys.readouterr().out
    (entry,) = list_cache()
    assert entry.num_bytes > 1000
    assert clear_cached([entry], lambda _: None) == [entry]
    assert list_cache() == []
    load_lm("hub:them/toy")
    assert len(toy_family) == 2


def test_two_at_once_read_a_published_model_once(on_hub: Hub, toy_family: list[Path]) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: load_lm("hub:them/toy").fingerprint(), range(2)))
    assert found[0] == found[1]
    assert len(toy_family) == 1


def test_a_folder_in_the_hubs_format_is_taken_as_one_of_the_hub_and_read_anew_once_it_changes(
    published: Path, toy_family: list[Path], masked: MaskedDiffusionLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "atat"))
    folder = shutil.copytree(published, tmp_path / "toy")
    assert load_lm(folder).fingerprint() == masked.fingerprint()
    assert MaskedDiffusionLM.from_pretrained(str(folder)).fingerprint() == masked.fingerprint()
    assert len(toy_family) == 1
    (folder / "config.json").write_text('{"model_type": "toy", "more": 1}')
    load_lm(folder)
    assert len(toy_family) == 2
    assert not (folder / "config.yaml").exists()


def test_from_pretrained_takes_a_name_a_revision_and_a_place_for_downloads(
    on_hub: Hub, saved: Path, masked: MaskedDiffusionLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_hub.model("me/ours").commit({"README.md": b"gone"}, "other")
    lm = MaskedDiffusionLM.from_pretrained("me/ours", revision="main", cache_dir=tmp_path / "there")
    assert lm.fingerprint() == masked.fingerprint()
    assert (tmp_path / "there/models--me--ours").is_dir()
    with pytest.raises(
        UserError, match=r"^there is no folder me/none, and on the hub: http\S* has no model me/none: check the name"
    ):
        MaskedDiffusionLM.from_pretrained("me/none")
    with pytest.raises(UserError, match=r"^hub:me/ours@other holds no weig"):
        MaskedDiffusionLM.from_pretrained("me/ours", revision="other")
    with pytest.raises(UserError, match=r"^unknown device cdua"):
        MaskedDiffusionLM.from_pretrained("me/ours", device="cdua")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file\S* cannot be used \(Not a directory\); name a folder that can"):
        MaskedDiffusionLM.from_pretrained("me/ours", cache_dir=tmp_path / "file")
    with pytest.raises(UserError, match=r"names a revision already"):
        MaskedDiffusionLM.from_pretrained("hub:me/ours@main", revision="other")
    with pytest.raises(UserError, match=r"`revision='v1'` is for a model of the hub"):
        MaskedDiffusionLM.from_pretrained(saved, revision="v1")
    monkeypatch.chdir(saved.parent)
    (saved.parent / "me").mkdir(exist_ok=True)
    shutil.copytree(saved, saved.parent / "me/ours")  # a folder of this name comes first
    assert MaskedDiffusionLM.from_pretrained("me/ours").home == Path("me/ours")


def test_what_was_downloaded_serves_without_a_network_and_offline(on_hub: Hub, client, toy_family: list[Path]) -> None:
    load_lm("hub:me/ours")
    load_lm("hub:them/toy")
    client.ask("http://127.0.0.1:9")
    asked = len(on_hub.requests)
    assert load_lm("hub:me/ours").fingerprint() == load_lm("hub:them/toy").fingerprint()
    client.go_offline()
    assert load_lm("hub:me/ours").fingerprint() == load_lm("hub:them/toy").fingerprint()
    assert (len(on_hub.requests), len(toy_family)) == (asked, 1)


def test_a_commit_that_was_read_serves_offline_when_its_download_was_cleared(
    on_hub: Hub, client, toy_family: list[Path]
) -> None:
    name = f"hub:them/toy@{on_hub.model('them/toy').branches['main']}"
    load_lm(name)
    shutil.rmtree(client.home)
    client.go_offline()
    load_lm(name)
    assert len(toy_family) == 1


def test_a_commit_that_was_downloaded_is_not_asked_for_again(on_hub: Hub) -> None:
    name = f"hub:me/ours@{on_hub.model('me/ours').branches['main']}"
    load_lm(name)
    asked = len(on_hub.requests)
    load_lm(name)
    assert len(on_hub.requests) == asked


def test_a_commit_of_which_a_part_is_missing_in_the_cache_is_downloaded_again(
    on_hub: Hub, client, toy_family: list[Path]
) -> None:
    parts = {f"model-0000{n}-of-00002.safetensors": b"x" for n in (1, 2)}
    index = json.dumps({"weight_map": dict(zip("ab", parts, strict=True))}).encode()
    commit = on_hub.add(
        "them/parts", {"config.json": b'{"model_type": "toy"}', "model.safetensors.index.json": index, **parts}
    )
    name = f"hub:them/parts@{commit.branches['main']}"
    folder = find_model(name).path
    asked = len(on_hub.requests)
    assert find_model(name).path == folder
    assert len(on_hub.requests) == asked
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert (find_model(name).path / "model-00002-of-00002.safetensors").exists()
    (folder / "model-00002-of-00002.safetensors").unlink()
    client.go_offline()
    with pytest.raises(UserError, match="was not downloaded before"):
        find_model(name)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["generate", "MODEL", "--prompt", "the", "--length", "8"], "the"),
        (["infill", "MODEL", "the [MASK:2] sat"], "the"),
        (["score", "MODEL", "the cat sat"], "nats"),
        (["inspect", "MODEL", "the cat sat", "--times", "0.5"], "token"),
        (["eval", "MODEL", "--data", "TEXT", "--num_draws", "32"], "bits per char"),
        (["eval", "MODEL", "--zero-shot", "TEXT", "--num_draws", "32"], "text"),
        (["classify", "CLASSIFIER", "the cat"], "p_ran"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_name_of_the_hub_goes_where_a_model_is_named(
    words: list[str], printed: str, on_hub: Hub, runs: Path, tmp_path: Path, capsys, monkeypatch, classifier: Path
) -> None:
    on_hub.add("me/classifier", files_of(classifier))
    monkeypatch.chdir(tmp_path)
    shutil.copy(runs / "text.txt", "text.txt")
    named = {"MODEL": "hub:me/ours", "TEXT": "text.txt", "CLASSIFIER": "hub:me/classifier"}
    assert main([named.get(word, word) for word in words]) == 0, capsys.readouterr().err
    assert printed in capsys.readouterr().out
    kept = [
        str(file) for file in (tmp_path / "hf").rglob("*") if file.suffix in (".html", ".png") or "eval" in str(file)
    ]
    assert kept == []  # results are the user's, and lie in the working directory


@pytest.fixture(scope="session")
def classifier(masked: MaskedDiffusionLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    rows = [f"the {animal} {verb}\t{verb}" for animal in ("cat", "dog", "man", "old cat") for verb in ("sat", "ran")]
    (folder / "two.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    out = folder / "out"
    mdlm_atat.finetune(
        masked, task=folder / "two.tsv", seeds=[0], epochs=1, folds=2, out=out, progress=False, probe=True
    )
    (found,) = [file.parent for file in out.rglob("classifier.json")]
    return found


@pytest.mark.parametrize("name", ["hub:me/ours", "hub:them/toy"])
def test_a_run_begins_with_a_model_of_the_hub_and_goes_on_when_the_cache_was_cleared(
    name: str, on_hub: Hub, runs: Path, tmp_path: Path, toy_family: list[Path], no_report: None, client
) -> None:
    flags = ["--data.source", str(runs / "text.txt"), "--eval.num_samples", "0", "--train.log_interval_steps", "1"]
    steps = [
        "--train.num_steps",
        "2",
        "--train.batch_size",
        "2",
        "--eval.final_num_draws",
        "32",
        "--eval.num_draws",
        "32",
    ]
    assert main(["train", "--init", name, "--out", str(tmp_path / "new"), *flags, *steps]) == 0
    record = json.loads((tmp_path / "new/run.json").read_text())["init"]
    commit = on_hub.model(name.removeprefix("hub:")).branches["main"]
    assert record["path"] == f"{name}@{commit}"
    shutil.rmtree(client.home)
    shutil.rmtree(tmp_path / "atat/models", ignore_errors=True)
    from mdlm_atat.runs.initial import reopen

    assert reopen(record).hash == record["checkpoint_hash"]


def test_what_is_found_out_about_models_of_the_hub_lies_side_by_side(
    on_hub: Hub, toy_family: list[Path], saved: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    on_hub.model("me/ours").commit({**files_of(saved), "LICENSE": b"mine"}, branch="v2")
    names = ["hub:me/ours", "hub:me/ours@v2", "hub:them/toy"]
    for name in names:
        command = ["eval", name, "--zero-shot", str(runs / "text.txt"), "--num_draws", "32"]
        assert main(command) == 0
    assert len([*tmp_path.glob("evals/*.json")]) == len(names)


WRONG = {
    "no such name": (
        "hub:me/nosuch",
        r"has no model me/nosuch: check the name; if it is private, log in \(hf auth login",
    ),
    "no name": ("hub:nosuch", r"^hub:nosuch is no name of a model on the hub; expected hub:OWNER/NAME"),
    "two names": ("hub:a/b/c", r"^hub:a/b/c is no name of a model"),
    "no revision": ("hub:me/ours@v9", r"^hub:me/ours has no revision v9 \(there are main\); expected a branch"),
    "no weights": ("hub:me/empty", r"holds no weights as safetensors: name a model that does"),
    "a pickle": ("hub:me/pickle", r"it holds pytorch_model.bin, and pickles are not downloaded"),
    "two .gguf": ("hub:me/ggufs", r"holds 2 .gguf files: download the one that you mean \(hf download me/ggufs a.gguf"),
    "gated": (
        "hub:them/gated",
        r"is gated: its authors ask for terms to be accepted, at http.*/them/gated; do so, and l",
    ),
    "private": ("hub:them/private", r"has no model them/private: check the name; if it is private, log in"),
    "dash": ("hub:-a/b", r"^hub:-a/b is no name of a model on the hub \(.*\); expected OWNER/NAME"),
    "long name": (f"hub:{'a' * 200}/b", r"a/b is no name of a model on the hub \(.*\); expected OWNER/NAME"),
    "unknown": (
        "hub:me/odd",
        r"^hub:me/odd is a model of the architecture OddForCausalLM \(odd\), which cannot be read; kno",
    ),
}


@pytest.mark.parametrize(
    "there",
    [
        ["a.gguf"],
        ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"],
        ["a-00002-of-00002.gguf", "a-00001-of-00002.gguf"],
    ],
)
def test_the_only_gguf_of_a_model_is_taken_with_all_its_parts(there: list[str]) -> None:
    assert chosen_files(HubName("me/a"), [*there, "x.py", "config.json"]) == [*there, "config.json"]


@pytest.mark.parametrize("other", ["b.gguf", "a-00003-of-00003.gguf", "b-00001-of-00001.gguf"])
def test_two_gguf_of_a_model_are_not_chosen_between(other: str) -> None:
    with pytest.raises(UserError, match=r"holds 3 .gguf files: download the one"):
        chosen_files(HubName("me/a"), ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", other])


@pytest.fixture
def wrong_hub(on_hub: Hub, published: Path) -> Hub:
    files = files_of(published)
    on_hub.add("me/empty", {"config.json": b"{}"})
    on_hub.add("me/pickle", {"config.json": b"{}", "pytorch_model.bin": b"."})
    on_hub.add("me/ggufs", {"a.gguf": b".", "b.gguf": b"."})
    on_hub.add("them/gated", files, is_gated=True)
    on_hub.add("them/private", files, is_private=True)
    on_hub.add("me/odd", {**files, "config.json": b'{"model_type": "odd", "architectures": ["OddForCausalLM"]}'})
    return on_hub


@pytest.mark.parametrize("which", WRONG)
def test_a_model_that_cannot_be_had_is_one_message_with_what_to_do(
    which: str, wrong_hub: Hub, capsys: pytest.CaptureFixture[str], toy_family: list[Path]
) -> None:
    name, expected = WRONG[which]
    with pytest.raises(UserError, match=expected):
        load_lm(name)
    assert main(["generate", name]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("what", ["me/odd", "me/sedd", "me/window"])
def test_weights_that_cannot_be_read_are_not_downloaded(what: str, wrong_hub: Hub) -> None:
    odd = dict(wrong_hub.model("me/odd").files)
    for name, config in (("sedd", {"model_type": "sedd"}), ("window", {"model_type": "mistral", "sliding_window": 8})):
        wrong_hub.add(f"me/{name}", {**odd, "config.json": json.dumps(config).encode()})
    with pytest.raises(UserError, match=rf"^hub:{what} .*cannot be read"):
        load_lm(f"hub:{what}")
    assert [path for path in wrong_hub.requests if "/resolve/" in path and "config.json" not in path] == []


def test_a_gated_model_is_told_apart_for_somebody_who_is_logged_in_and_a_refused_token_is_named(
    wrong_hub: Hub, client
) -> None:
    client.log_in(OTHER_TOKEN)
    with pytest.raises(UserError, match=r"is gated: its authors ask for terms to be accepted, at http\S*; do so$"):
        load_lm("hub:them/gated")
    client.log_in("hf_expired")
    with pytest.raises(
        UserError, match=r"refuses the token that you are logged in with \(Invalid credentials.*log in anew"
    ):
        load_lm("hub:them/gated")


def test_no_network_and_an_empty_cache_offline_are_told_apart(on_hub: Hub, client) -> None:
    client.ask("http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"was not downloaded before, and the hub at http://127.0.0.1:9 cannot be reached"
    ):
        load_lm("hub:me/ours")
    client.go_offline()
    with pytest.raises(UserError, match=r"was not downloaded before, and HF_HUB_OFFLINE is set"):
        load_lm("hub:me/ours")


@pytest.mark.parametrize(
    ("file", "about", "bytes_each"),
    [
        ("model.gguf", {"gguf": {"total": 2000, "architecture": "llama"}}, 6),  # unpacked beside what is joined
        ("model.safetensors", {"safetensors": {"parameters": {"F32": 2000}, "total": 2000}}, 4),
        ("model.safetensors", {"safetensors": {"parameters": {"BF16": 2000}, "total": 2000}}, 4),
        (
            "model.safetensors",
            {"safetensors": {"parameters": {"F32": 2000}, "total": 2000}, "config": {"model_type": "mdlm"}},
            6.5,
        ),
    ],
)
def test_a_model_of_the_hub_is_judged_by_the_memory_that_its_reader_takes(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, file: str, about: dict[str, Any], bytes_each: float
) -> None:
    hub.add("them/large", {file: bytes(1000)}, about=about)
    name, needed = HubName("them/large"), int(bytes_each * 2000)
    monkeypatch.setattr(hub_module, "machine_memory", lambda: needed)
    assert hub_module.look_up(name) is not None
    monkeypatch.setattr(hub_module, "machine_memory", lambda: needed - 1)
    with pytest.raises(UserError, match=r"them/large has 2,000 weights, which take .*; this machine has"):
        hub_module.look_up(name)
    assert not any("resolve" in request for request in hub.requests)


def test_a_model_that_does_not_fit_into_memory_or_onto_the_disk_is_refused_before_it_is_downloaded(
    on_hub: Hub, published: Path, monkeypatch: pytest.MonkeyPatch, toy_family: list[Path]
) -> None:
    monkeypatch.setattr(hub_module, "machine_memory", lambda: 1024)
    with pytest.raises(
        UserError, match=r"^hub:them/toy has .* of weights; this machine has 1.0 KiB of memory: take a smaller model"
    ):
        load_lm("hub:them/toy")
    with pytest.raises(UserError, match=r"has [\d,]+ weights, which take .*; this machine has 1.0 KiB of memory"):
        load_lm(published)
    assert toy_family == []
    monkeypatch.setattr(hub_module, "machine_memory", lambda: None)
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 7, 3))
    with pytest.raises(UserError, match=r"^hub:them/toy takes .*, and .* has room for 3 B: make room"):
        load_lm("hub:them/toy")
    assert not any("resolve" in request for request in on_hub.requests)


def test_a_mistyped_name_of_the_hub_is_answered_before_torch_is_imported(on_hub: Hub, tmp_path: Path) -> None:
    script = (
        "import sys; from mdlm_atat.cli.main import main; code = main(['generate', 'hub:me/nosuch']);"
        "print(code, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "HF_ENDPOINT": on_hub.url, "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert "has no model me/nosuch" in done.stderr


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [
        ("hub:a/b", "a/b", None),
        ("hub:a/b@v1", "a/b", "v1"),
        ("hub:a.b-c/d_e@refs/pr/1", "a.b-c/d_e", "refs/pr/1"),
    ],
)
def test_a_name_of_the_hub_is_its_owner_its_name_and_a_revision(
    name: str, repository: str, revision: str | None
) -> None:
    assert HubName.parse(name) == HubName(repository, revision)
    assert str(HubName.parse(Path(name))) == name


@pytest.mark.parametrize("name", ["hub:", "hub:a", "hub:a/b@", "hub:a/b c", "hub:../b", "hub:/a/b", "hub:a/é"])
def test_what_is_no_name_of_the_hub_is_refused_without_asking(name: str, hub: Hub) -> None:
    with pytest.raises(UserError, match="is no name of a model on the hub"):
        HubName.parse(name)
    assert HubName.parse("runs/demo") is None
    assert hub.requests == []

"""Sending models to the hub: by its own client, to a stand-in that speaks its endpoints."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from standing_in import OTHER_TOKEN, Hub, files_of

from mdlm_atat import TextClassifier, finetune
from mdlm_atat.cli.main import main
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.classifier import ClassifierRecord
from mdlm_atat.finetuning.encode import Separator
from mdlm_atat.finetuning.push import card as classifier_card
from mdlm_atat.finetuning.push import without_paths
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM, load_lm
from mdlm_atat.published.push import check_target, plan, send

CARD = "README.md"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # of the hub's client


def test_a_model_that_was_sent_is_the_same_when_it_is_loaded_by_its_name(
    hub: Hub, client, masked: MaskedDiffusionLM
) -> None:
    client.log_in()
    url = masked.push_to_hub("me/new", private=True, message="The first one")
    repository = hub.model("me/new")
    assert url == f"{hub.url}/me/new/commit/{repository.branches['main']}"
    assert (repository.is_private, repository.messages[-1]) == (True, "The first one")
    lm = load_lm("hub:me/new")
    assert lm.fingerprint() == masked.fingerprint()
    assert lm.counts is not None
    assert masked.counts is not None
    assert lm.counts.tolist() == masked.counts.tolist()
    client.log_out()
    with pytest.raises(UserError, match="has no model me/new: check the name; if it is private, log in"):
        load_lm("hub:me/new")


def test_weights_go_as_large_files_and_all_else_as_text(hub: Hub, client, masked: MaskedDiffusionLM) -> None:
    client.log_in()
    masked.push_to_hub("me/new", weights="int8")
    files = hub.model("me/new").files
    assert {"model.safetensors", "config.yaml", "checksums.json", "README.md", "tokenizer/tokenizer_config.json"} <= {
        *files
    }
    assert files["model.safetensors"] in hub.objects.values()
    assert files["config.yaml"] not in hub.objects.values()
    assert b"stored in 8 bits a weight" in files["README.md"]


def test_a_repository_with_files_is_left_alone_until_it_is_told_to_be_replaced(
    hub: Hub, client, masked: MaskedDiffusionLM, causal: CausalLM
) -> None:
    client.log_in()
    theirs = {
        **{f"model-0000{part}-of-00002.safetensors": b"." for part in (1, 2)},
        **{"model.safetensors.index.json": b"{}", "LICENSE": b"mine", "notes.json": b"{}", ".gitattributes": b""},
    }
    hub.add("me/new", theirs)
    with pytest.raises(
        UserError, match=r"holds files already \(LICENSE, model-00001.*and 2 more\): add `replace=True`"
    ):
        masked.push_to_hub("me/new")
    assert {*hub.model("me/new").files} == {*theirs}
    masked.push_to_hub("me/new", replace=True)
    files = hub.model("me/new").files
    assert {name for name in theirs if name in files} == {"LICENSE", "notes.json", ".gitattributes"}
    assert load_lm("hub:me/new").fingerprint() == masked.fingerprint()
    causal.push_to_hub("me/new", replace=True)
    assert load_lm("hub:me/new").fingerprint() == causal.fingerprint()


def test_a_branch_is_made_and_main_stays(hub: Hub, client, masked: MaskedDiffusionLM) -> None:
    client.log_in()
    hub.add("me/new", {"README.md": b"mine"})
    masked.push_to_hub("me/new", revision="v2", replace=True)
    assert {*hub.model("me/new").files} == {"README.md"}
    assert load_lm("hub:me/new@v2").fingerprint() == masked.fingerprint()


def test_what_is_to_be_private_is_not_sent_where_everybody_sees_it(
    hub: Hub, client, masked: MaskedDiffusionLM, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client.log_in()
    hub.add("me/new", {"README.md": b"mine"})
    with pytest.raises(
        UserError, match=r"me/new is there already, for everybody to see: make it private on its page, at"
    ):
        masked.push_to_hub("me/new", private=True, replace=True)
    assert main(["push", str(runs / "masked"), "me/new", "--private", "--replace"]) == 2
    assert "for everybody to see" in capsys.readouterr().err
    assert {*hub.model("me/new").files} == {"README.md"}
    hub.model("me/new").is_private = True
    masked.push_to_hub("me/new", private=True, replace=True)
    assert len(hub.model("me/new").files) > 5


def test_a_branch_that_somebody_made_meanwhile_is_not_written_over(hub: Hub, client, saved: Path) -> None:
    client.log_in()
    hub.add("me/new", {"README.md": b"mine"})
    planned = plan(saved, check_target("me/new", revision="v2", replace=True))
    hub.model("me/new").commit({"README.md": b"of somebody else"}, "v2")
    with pytest.raises(UserError, match=r"answered 412 \(A commit has happened since"):
        send(planned)
    assert hub.model("me/new").find("v2") is not None
    assert {*hub.model("me/new").files} == {"README.md"}


def test_a_branch_begins_where_main_was_when_it_was_looked_at(hub: Hub, client, saved: Path) -> None:
    client.log_in()
    hub.add("me/new", {"README.md": b"mine"})
    planned = plan(saved, check_target("me/new", revision="v2", replace=True))
    hub.model("me/new").commit({"later.txt": b"of somebody else"})
    send(planned)
    repository = hub.model("me/new")
    assert {*repository.files} == {"later.txt"}
    assert {*repository.commits[repository.branches["v2"]]} == {*planned.files}


@pytest.mark.parametrize("revision", [None, "v2"])
def test_a_push_that_broke_off_leaves_no_files_and_is_repeated(
    hub: Hub, client, masked: MaskedDiffusionLM, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionError("the line went dead")

    client.log_in()
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.HfApi.create_commit", broken)
        with pytest.raises(UserError, match=r"does not answer \(the line went dead\)"):
            masked.push_to_hub("me/new", private=True, revision=revision)
    assert {*hub.model("me/new").files} == {".gitattributes"}
    masked.push_to_hub("me/new", private=True, revision=revision)
    assert load_lm(f"hub:me/new{'' if revision is None else '@v2'}").fingerprint() == masked.fingerprint()


@pytest.mark.parametrize("revision", ["", "0" * 40])
def test_what_is_no_name_of_a_branch_is_refused_before_anything_is_asked(hub: Hub, client, revision: str) -> None:
    client.log_in()
    with pytest.raises(UserError, match="expected the name of a branch"):
        check_target("me/new", revision=revision)
    assert hub.requests == []


def test_an_adapter_and_a_template_of_the_model_before_do_not_stay_to_be_laid_over_the_new_one(
    hub: Hub, saved: Path
) -> None:
    left = dict.fromkeys(("adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"), b".")
    hub.add("me/new", {**left, "data.csv": b".", "adapter.py": b"."})
    assert {*plan(saved, check_target("me/new", to_write=False)).removed} == {*left}


def test_a_link_beside_a_saved_model_that_leads_out_of_its_folder_is_not_published(
    hub: Hub, client, masked: MaskedDiffusionLM, tmp_path: Path
) -> None:
    client.log_in()
    folder = masked.save_pretrained(tmp_path / "mine")
    (tmp_path / "secret").write_text("a key")
    (folder / "notes.md").symlink_to(tmp_path / "secret")
    with pytest.raises(
        UserError, match=r"notes\.md is a link to .*secret, and what a folder links to elsewhere is not read"
    ):
        load_lm(folder).push_to_hub("me/new")
    assert "models/me/new" not in hub.repositories


def test_what_somebody_sent_meanwhile_is_not_written_over(hub: Hub, client, saved: Path) -> None:
    client.log_in()
    hub.add("me/new", {".gitattributes": b""})
    planned = plan(saved, check_target("me/new"))
    hub.add("me/new", {"README.md": b"of somebody else"})
    with pytest.raises(UserError, match=r"answered 412 \(A commit has happened since"):
        send(planned)
    assert {*hub.model("me/new").files} == {"README.md"}


def test_what_is_found_out_about_a_saved_model_stays_where_it_is(hub: Hub, saved: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / "evals").mkdir()
    for name in (
        "evals/saved-1.json",
        "samples-saved-2x16-0.json",
        ".hidden",
        ".hidden.md",
        "report.html",
        "notes.txt",
    ):
        (folder / name).write_text("/home/me/secret.txt")
    (folder / "LICENSE").write_text("mine")
    sent = plan(folder, check_target("me/new", to_write=False)).files
    assert {*sent} == {*files_of(saved), "LICENSE"}


def test_a_saved_folder_is_sent_with_the_card_that_somebody_wrote_and_packed_as_it_is(
    hub: Hub, client, masked: MaskedDiffusionLM, tmp_path: Path
) -> None:
    client.log_in()
    folder = masked.save_pretrained(tmp_path / "mine", weights="int8")
    (folder / "LICENSE").write_text("all of it")
    card = (folder / CARD).read_text()
    (folder / CARD).write_text(card.replace("---\n", "---\nlicense: mit\n", 1) + "\nFor cats.\n")
    load_lm(folder).push_to_hub("me/new")
    files = hub.model("me/new").files
    sent = files[CARD].decode()
    assert (files["LICENSE"], len(files["model.safetensors"])) == (
        b"all of it",
        (folder / "model.safetensors").stat().st_size,
    )
    assert sent.startswith("---\nlicense: mit\n")
    assert sent.endswith("For cats.\n")
    assert "atat infill hub:me/new '" in sent
    assert "load_lm('hub:me/new')" in sent
    assert "mine" not in sent.replace("# mine", "")


@pytest.mark.parametrize(
    ("token", "name", "expected"),
    [
        (None, "me/new", r"to send a model you have to be logged in, with a token that may write: hf auth login"),
        ("hf_expired", "me/new", r"refuses the token that you are logged in with \(Invalid credentials"),
        (
            OTHER_TOKEN,
            "me/new",
            r'hub:me/new: You don\'t have the rights to create a model under the namespace "me"; log',
        ),
        (OTHER_TOKEN, "me/ours", r"me/ours holds files already"),
        ("hf_mine", "new", r"^new is no name for a model on the hub; expected OWNER/NAME"),
        ("hf_mine", "me/a b", r"is no name for a model on the hub"),
    ],
)
def test_who_may_not_send_is_told_what_to_do(
    token: str | None, name: str, expected: str, on_hub: Hub, client, masked: MaskedDiffusionLM
) -> None:
    if token is not None:
        client.log_in(token)
    before = {key: repository.files for key, repository in on_hub.repositories.items()}
    with pytest.raises(UserError, match=expected):
        masked.push_to_hub(name)
    assert {key: repository.files for key, repository in on_hub.repositories.items()} == before


def test_offline_nothing_is_sent_and_why_is_said(hub: Hub, client, masked: MaskedDiffusionLM) -> None:
    client.log_in()
    client.go_offline()
    with pytest.raises(UserError, match=r"^HF_HUB_OFFLINE is set, so the hub is not asked for hub:me/new: unset it$"):
        masked.push_to_hub("me/new")


def test_who_may_read_and_not_write_is_told_so(on_hub: Hub, client, masked: MaskedDiffusionLM) -> None:
    client.log_in(OTHER_TOKEN)
    with pytest.raises(
        UserError, match=r"You don't have the rights to write to this repository; log in as somebody who"
    ):
        masked.push_to_hub("me/ours", replace=True)


def test_a_dry_run_shows_every_file_and_sends_none(hub: Hub, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(runs / "masked"), "me/new", "--dry_run", "--weights", "bf16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "to         me/new, a new repository"
    assert [line for line in lines if re.fullmatch(r"send       model\.safetensors  \d[\d.]* KiB", line)]
    assert lines[-1] == "dry run    nothing was sent"
    assert not any(request.startswith(("POST", "PUT")) for request in hub.requests)
    hub.add("me/new", {"model.safetensors": b".", "pytorch_model.bin": b"."})
    assert main(["push", str(runs / "masked"), "me/new", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "\nreplace    model.safetensors" in printed
    assert "\nremove     pytorch_model.bin\n" in printed
    assert "nothing was sent; it would need --replace" in printed


def test_a_hub_whose_answer_never_ends_is_waited_for_no_longer_than_a_minute(
    client, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each byte of it comes in time: a dry run that only asks what is there waited for hours."""
    monkeypatch.setattr("mdlm_atat.published.hub.ANSWER_S", 0.5)
    ended = Event()

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with suppress(OSError):
                while not ended.wait(0.05):
                    self.wfile.write(b" ")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        client.ask(f"http://127.0.0.1:{server.server_port}")
        assert main(["push", str(runs / "masked"), "me/new", "--dry_run"]) == 0
        assert "nothing was sent" in capsys.readouterr().out
        client.log_in()
        assert main(["push", str(runs / "masked"), "me/new"]) == 2
        assert "does not answer (not done after 0.5 s)" in capsys.readouterr().err
        ended.set()
        server.shutdown()


def test_a_run_is_sent_from_the_command_line(
    hub: Hub, client, runs: Path, capsys: pytest.CaptureFixture[str], masked: MaskedDiffusionLM
) -> None:
    assert main(["push", str(runs / "masked"), "me/new"]) == 2
    assert "hf auth login" in capsys.readouterr().err
    client.log_in()
    assert main(["push", str(runs / "masked"), "me/new", "--private", "--message", "One"]) == 0
    printed = capsys.readouterr().out
    assert f"pushed     {hub.url}/me/new/commit/" in printed
    assert "next       atat generate hub:me/new" in printed
    assert main(["push", str(runs / "masked"), "me/new"]) == 2
    assert "add --replace" in capsys.readouterr().err
    assert load_lm("hub:me/new").fingerprint() == masked.fingerprint()


def test_the_card_is_read_by_the_hubs_own_client_and_says_what_the_run_measured(
    runs: Path, masked: MaskedDiffusionLM, tmp_path: Path, cache: None
) -> None:
    from huggingface_hub import ModelCard

    found = __import__("mdlm_atat").evaluate(runs / "masked", progress=False)
    folder = masked.save_pretrained(tmp_path / "my-model", weights="bf16")
    card = ModelCard.load(folder / CARD)
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("mdlm-atat", "fill-mask")
    assert "masked-diffusion" in data["tags"]
    assert "license" not in data
    assert f"at most {found.shown()} | {found.shown_bits()}" in card.text
    assert "before they were stored in bfloat16" in card.text
    assert "150 of 32 sequences" in card.text
    assert "76,800, repeated ones included" in card.text
    sample = json.loads((runs / "masked/samples.jsonl").read_text().splitlines()[0])
    assert f"from nothing (seed {sample['seed']}, {sample['sampler']})" in card.text
    assert sample["text"].splitlines()[0] in card.text
    assert "atat infill my-model '" in card.text


def test_nothing_in_a_saved_folder_says_where_the_text_lies_on_this_machine(
    runs: Path, saved: Path, adaptive: MaskedDiffusionLM, tmp_path: Path
) -> None:
    assert (runs / "masked/config.yaml").read_text().count(str(runs)) == 1
    for folder in (saved, adaptive.save_pretrained(tmp_path / "adaptive")):
        for name, content in files_of(folder).items():
            assert str(runs).encode() not in content, name
        assert "source: text.txt\n" in (folder / "config.yaml").read_text()


def test_a_models_origin_is_named_in_what_is_made_of_it(
    on_hub: Hub, toy_family: list[Path], tmp_path: Path, runs: Path, no_report: None
) -> None:
    from huggingface_hub import ModelCard

    import mdlm_atat

    commit = on_hub.model("them/toy").branches["main"]
    folder = load_lm("hub:them/toy").save_pretrained(tmp_path / "again")
    card = ModelCard.load(folder / CARD)
    assert (card.data.to_dict()["license"], card.data.to_dict()["base_model"]) == ("apache-2.0", "them/toy")
    assert f"at commit {commit}, a model of the Toy family" in card.text
    assert "## Training" not in card.text  # by others, of whose training nothing is known
    run = mdlm_atat.train(
        init="hub:them/toy",
        data=runs / "text.txt",
        out=tmp_path / "tuned",
        num_steps=2,
        progress=False,
        settings={"eval.num_samples": 0, "eval.final_num_draws": 32, "train.batch_size": 2},
    )
    card = ModelCard.load(run.model.save_pretrained(tmp_path / "tuned-saved") / CARD)
    assert card.data.to_dict()["base_model"] == "them/toy"
    assert "Its training began with the weights of [them/toy]" in card.text


@pytest.fixture(scope="module")
def kept(masked: MaskedDiffusionLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of fine-tuning, with the classifier of texts that it kept."""
    folder = tmp_path_factory.mktemp("secret-folder")
    rows = [(f"{first} {second} sat", second[0]) for first in ("the", "a", "so", "to") for second in ("cat", "mat")] * 2
    (folder / "pets.csv").write_text("text,label\n" + "".join(f"{text},{label}/x\n" for text, label in rows))
    found = finetune(
        masked, task=folder / "pets.csv", probe=True, epochs=1, seeds=1, folds=4, out=folder / "results", progress=False
    )
    assert found.classifier_folder is not None
    return folder / "results"


def test_paths_in_a_classifiers_record_lose_their_folders_and_labels_keep_their_slashes() -> None:
    about = {
        "checkpoint": "clients/acme/model",
        "data": {"files": [{"path": "clients/acme/mails.csv"}, {"path": "~mine.csv"}, {"path": "/home/me/a.csv"}]},
        "labels": ["c/x", "/y"],
        "machine": {"cpu": "one/two"},
        "command": "atat finetune clients/acme",
        "note": "~/secret/b",
    }
    record = ClassifierRecord(
        labels=(), is_pair=False, pooling="mean", max_length=8, separator=Separator((), ""), about=about
    )
    assert without_paths(record).about == {
        "checkpoint": "model",
        "data": {"files": [{"path": "mails.csv"}, {"path": "~mine.csv"}, {"path": "a.csv"}]},
        "labels": ["c/x", "/y"],
        "machine": {"cpu": "one/two"},
        "note": "b",
    }


def test_a_metric_that_is_not_defined_has_an_empty_cell_in_the_card(kept: Path) -> None:
    classifier = TextClassifier.from_pretrained(kept)
    about = {**classifier.record.about, "metrics": {"accuracy": 0.5, "matthews": None}, "task": "another"}
    changed = TextClassifier(classifier.lm, classifier.head, replace(classifier.record, about=about))
    assert "| accuracy | 0.5000 |  |  |\n| Matthews |  |  |  |" in classifier_card(changed, "hub:me/pets", "float32")


@pytest.mark.parametrize("name", ["me/ours", "them/toy"])
def test_the_card_of_a_classifier_names_the_model_of_the_hub_that_it_began_with(
    name: str, on_hub: Hub, client, toy_family: list[Path], kept: Path, tmp_path: Path
) -> None:
    client.log_in()
    file = next(kept.parent.glob("pets.csv"))
    how: Any = {"probe": True, "epochs": 1, "seeds": 1, "folds": 4, "progress": False}
    found = finetune(f"hub:{name}", task=file, out=tmp_path / "results", **how)
    assert found.classifier_folder is not None
    TextClassifier.from_pretrained(found.classifier_folder).push_to_hub("me/pets")
    card = on_hub.model("me/pets").files[CARD].decode()
    assert f"\nbase_model: {name}\n" in card
    assert f"the network began as [{name}](https://huggingface.co/{name})." in card


@pytest.mark.parametrize("weights", [None, "int8"])
def test_a_classifier_is_sent_with_its_labels_scores_and_calibration_and_without_paths(
    hub: Hub, client, kept: Path, weights: Any
) -> None:
    client.log_in()
    classifier = TextClassifier.from_pretrained(kept)
    url = classifier.push_to_hub("me/pets", weights=weights)
    repository = hub.model("me/pets")
    assert url.endswith(repository.branches["main"])
    files = repository.files
    assert not [name for name, content in files.items() if b"secret-folder" in content]
    assert json.loads(files["classifier.json"])["about"]["data"]["files"][0]["path"] == "pets.csv"
    sent = TextClassifier.from_pretrained("hub:me/pets")
    assert sent.labels == classifier.labels == ("c/x", "m/x")
    ours, theirs = (each.predict("the cat sat").probabilities["c/x"] for each in (classifier, sent))
    assert theirs == pytest.approx(ours, abs=0 if weights is None else 0.1)
    card = files[CARD].decode()
    assert card.startswith("---\nlibrary_name: mdlm-atat\npipeline_tag: text-classification\n")
    assert "gives one of 2 labels to a text" in card
    assert "- c/x\n- m/x\n" in card
    (result,) = (json.loads(file.read_text()) for file in kept.glob("*-seed*.json"))
    accuracy = result["last_epoch"]["metrics"]["accuracy"]
    error, baseline = (result[name]["accuracy"] for name in ("standard_error", "baseline"))
    assert f"| accuracy | {accuracy:.4f} | {error:.4f} | {baseline:.4f} |" in card
    assert f"On {result['num_dev']} examples" in card
    assert ("Calibration: temperature" in card) == (classifier.record.calibration is not None)
    assert "stored in 8 bits a weight" in card or weights is None
    assert "TextClassifier.from_pretrained('hub:me/pets')" in card


def test_a_classifiers_own_card_is_kept_and_a_repository_with_files_is_left_alone(
    hub: Hub, client, kept: Path, tmp_path: Path
) -> None:
    client.log_in()
    folder = TextClassifier.from_pretrained(kept).save_pretrained(tmp_path / "pets", weights="bf16")
    (folder / CARD).write_text("---\nlicense: mit\n---\n# Mine\n")
    classifier = TextClassifier.from_pretrained(folder)
    classifier.push_to_hub("me/pets")
    files = hub.model("me/pets").files
    assert files[CARD] == b"---\nlicense: mit\n---\n# Mine\n"
    assert len(files["model.safetensors"]) == (folder / "model.safetensors").stat().st_size
    with pytest.raises(UserError, match="holds files already"):
        classifier.push_to_hub("me/pets")


def test_the_command_sends_a_classifier_and_says_how_to_use_it(
    hub: Hub, client, kept: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client.log_in()
    assert main(["push", str(kept), "me/pets", "--dry_run"]) == 0
    assert "send       classifier.json" in capsys.readouterr().out
    assert "me/pets" not in hub.repositories
    (folder,) = kept.glob("*-classifier")
    assert main(["push", str(folder), "me/pets"]) == 0
    assert "next       atat classify hub:me/pets\n" in capsys.readouterr().out
    assert main(["classify", "hub:me/pets", "the cat sat"]) == 0
    for model in ("masked", "masked/checkpoints/last"):
        assert main(["push", str(runs / model), "me/run", "--dry_run"]) == 0
        assert "classifier.json" not in capsys.readouterr().out
    assert main(["push", str(tmp_path), "me/run", "--dry_run"]) == 2
    assert "is neither a run folder" in capsys.readouterr().err

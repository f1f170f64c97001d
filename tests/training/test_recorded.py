"""A recorded step is the step as ever, bit for bit: all that changes from one to the next goes in. Without a GPU the
graph is stood in for by running the work again into the memory of its first time: it reads what a graph would read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mdlm_atat.cli.main import main
from mdlm_atat.core.objective import Draw, TrainingLoss
from mdlm_atat.device import record_cuda_graph
from mdlm_atat.training import loop
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.recorded import Recorded
from tiny_runs import tiny_flags, write_text

CLOCK = {"elapsed_s", "train/tokens_per_s", "train/model_flops_utilisation"}


class Recordings:
    """Counts what was recorded and replayed: by a CUDA graph where there is a GPU, else by what stands in for one."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = self.num_forgotten = 0

    def make(
        self, gradients: Callable[..., TrainingLoss], parameters: list[torch.nn.Parameter], num_warm_up: int
    ) -> Recorded:
        record = record_cuda_graph if torch.cuda.is_available() else partial(stand_in, parameters)

        def counted(work: Callable[[], TrainingLoss]) -> tuple[Callable[[], None], TrainingLoss]:
            self.num_recorded += 1
            replay, loss = record(work)

            def counted_replay() -> None:
                self.num_replayed += 1
                replay()

            return counted_replay, loss

        recorded = Recorded(gradients, parameters, num_warm_up, counted)
        forget = recorded.forget

        def counted_forget() -> None:
            self.num_forgotten += 1
            forget()

        recorded.forget = counted_forget  # pyright: ignore[reportAttributeAccessIssue]
        return recorded


def stand_in(
    parameters: list[torch.nn.Parameter], work: Callable[[], TrainingLoss]
) -> tuple[Callable[[], None], TrainingLoss]:
    """Replaying knows nothing of what `p.grad` names now: it adds to what was there when the work was recorded, and
    fills what it made then."""
    before = [p.grad for p in parameters]
    with torch.random.fork_rng():  # recording does nothing, so it draws nothing
        loss = work()
    gradients = [p.grad for p in parameters]

    def replay() -> None:
        now = [p.grad for p in parameters]
        for p, gradient in zip(parameters, before, strict=True):
            p.grad = gradient
        again = work()
        loss.total.copy_(again.total)
        for kept, new in ((loss.terms, again.terms), (loss.metrics, again.metrics)):
            for name, value in new.items():
                kept[name].copy_(value)
        for gradient, p, named in zip(gradients, parameters, now, strict=True):
            assert (gradient is None) == (p.grad is None)
            if gradient is not None and p.grad is not None:
                gradient.copy_(p.grad)
            p.grad = named

    return replay, loss


pytestmark = [pytest.mark.usefixtures("no_report"), pytest.mark.slow]  # each records graphs anew


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def recordings(monkeypatch):
    recordings = Recordings()
    monkeypatch.setattr(Engine, "can_record", True)
    monkeypatch.setattr(loop, "Recorded", recordings.make)
    return recordings


def lines_of(folder: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


def compare(text: Path, folder: Path, preset: str, method: str | None, **changed: object) -> None:
    """Every step of both is logged, and only the clock differs."""
    flags = tiny_flags(text, train__num_steps=20, model__dropout=0.1, **changed)
    if method is not None:
        flags = ["--method", method, *flags, "--importance.width", "16", "--importance.num_heads", "2"]
    for name, is_recorded in (("plain", "false"), ("recorded", "true")):
        out = folder / name
        assert main(["train", preset, "--out", str(out), *flags, "--train.cuda_graph", is_recorded]) == 0
    assert lines_of(folder / "recorded") == lines_of(folder / "plain")


@pytest.mark.parametrize("method", ["mdlm", "importance_rates", "position_slope", "literal_curriculum"])
def test_a_recorded_run_logs_what_a_plain_one_does(text, tmp_path, recordings, method):
    compare(text, tmp_path, "demo", method)
    # the dry run before training takes three steps that warm up and three that are recorded, and literal_curriculum's
    # stages have times of their own
    expected = (3, 3 + 20 - 2 * 3) if method == "literal_curriculum" else (1, 3 + 20)
    assert (recordings.num_recorded, recordings.num_replayed) == expected
    assert recordings.num_forgotten == 1  # before the last evaluation, which wants the memory


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("importance_rates", {"data__mode": "pad", "data__documents": "line"}),
        ("importance_rates", {"train__num_micro_batches": 2}),
        ("importance_only", {"importance__through_bound": True}),
        ("literal_curriculum", {"curriculum__weight_in_range": 1.3, "curriculum__time_sampling": ["beta"] * 3,
                                "curriculum__weighting": ["flat"] * 3}),
        ("importance_rates", {"curriculum__kind": "dynamic", "curriculum__interval_steps": 1, "curriculum__patience": 2,
                  "curriculum__min_steps": 0, "curriculum__smoothing": 0.5, "curriculum__tolerance": 0.9}),
    ],
    ids=["padding", "micro-batches", "through_bound", "weight_in_range", "dynamic"],
)  # fmt: skip
def test_so_does_one_with(text, tmp_path, recordings, method, changed):
    compare(text, tmp_path, "demo", method, **changed)
    assert (recordings.num_recorded, recordings.num_replayed) == (1, 3 + 20)


def test_stages_with_times_of_their_own_are_recorded_one_by_one(text, tmp_path, recordings):
    """Steps 0 to 3, 4 to 15 and 16 to 19; the window of the second moves with every step, so it is not recorded."""
    stages = {"curriculum__time_sampling": ("beta", "window", "uniform"), "curriculum__progress": "linear"}
    compare(text, tmp_path, "demo", "importance_rates", **stages)
    assert (recordings.num_recorded, recordings.num_replayed) == (2, 3 + 4 + 1)


def test_so_does_a_causal_model_s(text, tmp_path, recordings):
    compare(text, tmp_path, "causal-char", None)
    assert (recordings.num_recorded, recordings.num_replayed) == (1, 3 + 20)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_setting_changes_nothing(text, tmp_path):
    compare(text, tmp_path, "demo", "mdlm")


def test_what_cannot_be_recorded_says_so_in_one_message(text, tmp_path, monkeypatch, capsys):
    def refuse(_: object) -> Any:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    monkeypatch.setattr(Engine, "can_record", True)
    monkeypatch.setattr(loop, "Recorded", partial(Recorded, record=refuse))
    assert main(["train", "demo", "--out", str(tmp_path / "run"), *tiny_flags(text)]) == 2
    message = capsys.readouterr().err
    assert "(operation not permitted when stream is capturing); set --train.cuda_graph false" in message
    assert "Traceback" not in message
    assert "and more" not in message


@pytest.mark.parametrize("error", [KeyboardInterrupt(), torch.OutOfMemoryError("out of memory")])
def test_an_interruption_and_a_lack_of_memory_while_recording_stay_what_they_are(error):
    def fail(_: object) -> Any:
        try:
            raise error
        except BaseException:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    recorded = Recorded(lambda *_: TrainingLoss(torch.zeros(()), {}), [], 0, record=fail)
    with pytest.raises(type(error)):
        recorded(None, torch.zeros(2, 3), None, Draw(torch.zeros(2), torch.zeros(2, 3)), 6.0, False)


def test_a_run_that_cannot_be_recorded_goes_on_without(text, tmp_path, recordings):
    out = tmp_path / "run"
    assert main(["train", "demo", "--out", str(out), *tiny_flags(text, train__num_steps=4)]) == 0
    recorded = recordings.num_recorded
    more = ["--train.num_steps", "8", "--train.cuda_graph", "false"]
    assert main(["train", "--resume", str(out), *more]) == 0
    assert recordings.num_recorded == recorded > 0

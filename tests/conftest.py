from __future__ import annotations

import gc
import os
import random
import signal
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mdlm_atat import CausalLM, MaskedDiffusionLM

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: threads of one would wait for the other's

# The package is imported in the fixtures, not here: the help and the tests of the browser do without it.

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell has started the tests in the background: they and their processes are to hear Ctrl-C all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules and tests are no garbage: they are not looked through for it, now or while the tests run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    what = "of N equal shares of the tests only the K-th"
    parser.addoption("--share", type=_share, metavar="K/N", default="1/1", help=what)


def _share(text: str) -> tuple[int, int]:
    which, number = map(int, text.split("/"))
    if not 1 <= which <= number:
        raise ValueError
    return which, number


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is none, and what is not of the `--share` that was asked for is left
    out: which tests are depends on their names alone."""
    which, number = config.option.share
    items[:] = [item for item in items if zlib.crc32(item.nodeid.encode()) % number == which - 1]
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs trained for a second each, once a worker, for reading: `masked` and `causal`, which have learned something
    of text.txt, and `adaptive`, whose rates and importance are its own. Their data is prepared in cache/."""
    from tiny_runs import leave_out_reports, train, train_method, write_text

    folder = tmp_path_factory.mktemp("runs")
    longer = {"train__batch_size": 32, "train__eval_interval_steps": 75, "train__checkpoint_interval_steps": 75}
    learned = {**longer, "train__num_steps": 150, "optim__lr": 2e-2, "model__width": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATAT_CACHE", str(folder / "cache"))
        leave_out_reports(patch)
        text = write_text(folder / "text.txt")
        assert train(text, folder / "masked", **learned) == 0
        assert train(text, folder / "causal", **learned, model__kind="causal") == 0
        adaptive = {**longer, "train__num_steps": 60, "optim__lr": 1e-2}
        assert train_method("importance_rates", text, folder / "adaptive", **adaptive) == 0
    return folder


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """What a test draws without a seed of its own is the same whatever ran before it."""
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def a_cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests prepare in no cache of their own, and the processes that they start, is not left in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATAT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """A flush takes the disk milliseconds, and a run of a second asks for dozens. That it is asked for is what the
    fixture `disk` sees; the processes that tests start wait for it, as a user's do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.fstat(descriptor) and None)  # which raises for no descriptor
        yield


class Disk:
    """What was flushed to the disk and what was renamed, in order, by inode."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, int]] = []

    def note(self, what: str, found: os.stat_result) -> None:
        self.events.append((what, found.st_ino, found.st_size))

    def is_synced_before_it_is_renamed(self, renamed: Path, *paths: Path) -> bool:
        """Whether `paths` were flushed as they are now, before `renamed` got its name, and its folder after that."""
        when = next(n for n, (what, inode, _) in enumerate(self.events) if (what, inode) == ("rename", _inode(renamed)))
        before = {(inode, size) for what, inode, size in self.events[:when] if what == "sync"}
        after = {inode for what, inode, _ in self.events[when:] if what == "sync"}
        return all((_inode(path), path.stat().st_size) in before for path in paths) and _inode(renamed.parent) in after


def _inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    rename, replace, fsync = os.rename, os.replace, os.fsync
    monkeypatch.setattr(os, "rename", lambda old, new: (found.note("rename", Path(old).lstat()), rename(old, new)))
    monkeypatch.setattr(os, "replace", lambda old, new: (found.note("rename", Path(old).lstat()), replace(old, new)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (found.note("sync", os.fstat(descriptor)), fsync(descriptor)))
    return found


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are trained or evaluated here are without their report, whose pictures take longer than that, and
    without what is measured for it alone."""
    from tiny_runs import leave_out_reports

    leave_out_reports(monkeypatch)


@pytest.fixture
def cache(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For commands that need the runs' data."""
    monkeypatch.setenv("ATAT_CACHE", str(runs / "cache"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text for a module's own runs."""
    from tiny_runs import write_text

    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture
def cache_beside_text(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For commands that read that text."""
    monkeypatch.setenv("ATAT_CACHE", str(text.parent / "cache"))


@pytest.fixture(scope="session")
def masked(runs: Path) -> MaskedDiffusionLM:
    from mdlm_atat import MaskedDiffusionLM

    return MaskedDiffusionLM.from_pretrained(runs / "masked")


@pytest.fixture(scope="session")
def adaptive(runs: Path) -> MaskedDiffusionLM:
    from mdlm_atat import MaskedDiffusionLM

    return MaskedDiffusionLM.from_pretrained(runs / "adaptive")


@pytest.fixture(scope="session")
def causal(runs: Path) -> CausalLM:
    from mdlm_atat import CausalLM

    return CausalLM.from_pretrained(runs / "causal")

"""What a run is asked to be: a preset or another run, a method, settings. Read and checked without importing torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import is_unfinished_start

if TYPE_CHECKING:
    from mdlm_atat.runs.initial import Initial

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The arguments of `train` that decide a run's configuration and folder; see there. Raises UserError for arguments
    that contradict each other."""

    config: RunConfig | AnyPath | None = None
    method: AnyPath | None = None
    out: AnyPath | None = None
    resume: AnyPath | None = None
    init: AnyPath | None = None
    settings: Mapping[str, Any]
    """By dotted path, with the types of Python."""
    has_texts: bool = False
    """Whether the text to train on is an object, which no setting names."""

    def __post_init__(self) -> None:
        begins = self.config is not None or self.init is not None
        if self.resume is None:
            if not begins:
                raise UserError(
                    "name a preset (e.g. `train('demo')`), a run to begin with (`init=`) or one to `resume=`"
                )
            if self.init is not None and isinstance(self.config, RunConfig):
                raise UserError("`init=` brings the model's settings: name a preset, or leave the configuration out")
            return
        if begins:
            raise UserError("a preset or `init=` begins a run, `resume=` continues one: leave out one of them")
        if self.method is not None:
            raise UserError("a resumed run keeps its method: leave out `method=`")
        if self.out is not None:
            raise UserError("a resumed run stays in its folder: leave out `out=`")
        if not Path(self.resume).is_dir():
            raise UserError(f"`resume=`: there is no run folder {os.fspath(self.resume)}")
        if is_unfinished_start(Path(self.resume)):
            raise UserError(
                f"`resume=`: the run in {os.fspath(self.resume)} ended before its first step, so there is nothing to "
                "go on with: start it again as it was started, in the same folder"
            )
        if not (Path(self.resume) / "config.yaml").exists():
            raise UserError(f"`resume=`: {os.fspath(self.resume)} is no run folder: it holds no config.yaml")

    @cached_property
    def initial(self) -> Initial | None:
        """Whose weights a new run begins with; None for random ones."""
        if self.init is None:
            return None
        from mdlm_atat.runs.initial import Initial  # which imports torch

        return Initial.open(Path(self.init))

    @cached_property
    def resumed_config(self) -> RunConfig | None:
        """The configuration of the run that goes on, as it is so far; None for a new run."""
        return None if self.resume is None else load_config(os.fspath(self.resume))

    def run_config(self) -> RunConfig:
        """The configuration that is asked for. Raises UserError with every mistake in it."""
        method = None if self.method is None else os.fspath(self.method)
        before = self.resumed_config
        if self.initial is not None:
            named = {*self.settings, "data.source"} if self.has_texts else self.settings
            before, method = self.initial.run_config(self._name, method, named), None
        given = self.config if isinstance(self.config, RunConfig) else self._name
        config = read_config(before or given or "", method, self.settings, self.call, from_folder=before is not None)
        if config.lora.rank and self.init is None and self.resume is None:
            raise UserError(
                f"lora.rank = {config.lora.rank} trains a few weights beside those of a trained network, and this run "
                "begins with random ones: name a run or a model to begin with by `init=`, or set `lora.rank=0`"
            )
        return config

    @property
    def folder(self) -> Path:
        """The run's folder: that of the run that goes on, `out`, or runs/PRESET-METHOD-DATE-TIME."""
        if self.resume is not None or self.out is not None:
            return Path(self.resume or self.out or "")
        names = [] if self.method is None else [Path(self.method).stem]
        if self.initial is not None:
            names.append("init")
        first = self._name or (self.initial.found.home.resolve().name if self.initial else "run")
        return Path("runs") / f"{'-'.join([Path(first).stem, *names])}-{time.strftime('%Y%m%d-%H%M%S')}"

    @property
    def folders(self) -> Iterator[Path]:
        """`folder`, and where nobody has named it the same with -2, -3 and so on, for runs that are started in the same
        second."""
        first = self.folder
        yield first
        if self.resume is None and self.out is None:
            yield from (first.with_name(f"{first.name}-{number}") for number in count(2))

    @property
    def label(self) -> str:
        """What run.json calls it: "demo --method atat"; the folder of a run that goes on."""
        if self.resume is not None:
            return os.fspath(self.resume)
        first = "run" if isinstance(self.config, RunConfig) else self._name
        words = [] if first is None else [first]
        words += [] if self.method is None else ["--method", os.fspath(self.method)]
        return " ".join([*words, *([] if self.init is None else ["--init", os.fspath(self.init)])])

    @property
    def call(self) -> str:
        """The call of `train`, without its settings, for messages."""
        words = [] if self.config is None else ["..." if self._name is None else repr(self._name)]
        for name in ("method", "init", "resume"):
            value = getattr(self, name)
            words += [] if value is None else [f"{name}={os.fspath(value)!r}"]
        return f"`train({', '.join(words)})`"

    @property
    def _name(self) -> str | None:
        """The preset's name, file or folder."""
        return None if self.config is None or isinstance(self.config, RunConfig) else os.fspath(self.config)

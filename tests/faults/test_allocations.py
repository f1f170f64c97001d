"""Memory runs out once in every phase of a command: one message says so, and the same command again comes to the same
as without that, bit for bit."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from importlib import import_module

import pytest
import torch

from faults.commands import Undisturbed

ERRORS: list[Callable[[], Exception]] = [
    MemoryError,
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
]

PHASES = {  # command: what runs out of memory when it is called
    "train": [
        "mdlm_atat.runs.train.prepare",
        "mdlm_atat.runs.train.build_model",
        "mdlm_atat.training.dry_run.forward_backward",
        "mdlm_atat.training.loop.clip_gradients",
        "mdlm_atat.scoring.likelihood.denoised_nll",
        "mdlm_atat.training.checkpoint.save_tensors",
        "mdlm_atat.runs.train.measure",
        "mdlm_atat.runs.train.write_samples",
        "mdlm_atat.runs.train.write_report",
    ],
    "prepare": ["mdlm_atat.data.prepare.encoded", "mdlm_atat.data.prepare.save_tokenizer"],
    "experiment": ["mdlm_atat.studies.planning.open_data", "mdlm_atat.studies.run.write_results"],
    "generate": ["mdlm_atat.cli.generate.load_model", "mdlm_atat.samplers.loop.inverse_cdf"],
    "finetune": [
        "mdlm_atat.runs.finetune.encode_texts",
        "mdlm_atat.finetuning.training.make_optimizer",
        "mdlm_atat.finetuning.classifier.save_tensors",
        "mdlm_atat.finetuning.results.standard_error",
    ],
}


@pytest.mark.torture
@pytest.mark.parametrize(("name", "phase"), [(name, phase) for name, phases in PHASES.items() for phase in phases])
def test_memory_that_runs_out_once_is_one_message_and_the_same_again_comes_to_the_same(
    undisturbed: Callable[[str], Undisturbed], name: str, phase: str
):
    rng = random.Random(phase)
    module, function = phase.rsplit(".", 1)
    error = rng.choice(ERRORS)

    def fail(*_: object, **__: object) -> None:
        raise error()

    found = undisturbed(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module(module), function, fail)
        ended, told = found.begin(f"{phase}, {error()!r}")
    assert ended.code == 2, told
    assert "out of memory" in ended.errors, told
    assert len(re.findall(r"^error: ", ended.errors, re.MULTILINE)) == 1, told
    found.check_rest(ended, told)

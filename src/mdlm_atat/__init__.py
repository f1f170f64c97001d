"""Masked diffusion language models: training, likelihood, sampling."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing's own takes 40 ms to import, before `atat` hears Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from mdlm_atat.config.schema import RunConfig
    from mdlm_atat.core.curriculum import CurriculumScheduler, DynamicCurriculumScheduler
    from mdlm_atat.core.strategies.by_importance import AdaptiveMaskingScheduler
    from mdlm_atat.core.strategies.by_position import PositionAwareMaskingScheduler
    from mdlm_atat.data.corpus import Corpus
    from mdlm_atat.data.prepare import prepare
    from mdlm_atat.data.request import DataRequest
    from mdlm_atat.errors import UserError
    from mdlm_atat.finetuning.classifier import Prediction, TextClassifier
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM, load_lm
    from mdlm_atat.nets.causal_transformer import CausalTransformer
    from mdlm_atat.nets.dit import ATATDiT
    from mdlm_atat.nets.estimator import AdaptiveImportanceEstimator, ImportanceEstimator
    from mdlm_atat.runs.evaluate import evaluate
    from mdlm_atat.runs.finetune import finetune
    from mdlm_atat.runs.run import Run
    from mdlm_atat.runs.train import train
    from mdlm_atat.samplers.canvas import Canvas
    from mdlm_atat.samplers.confidence import ConfidenceBasedSampler
    from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler
    from mdlm_atat.scoring.records import Evaluation

    __version__: str

__all__ = [
    "ATATDiT",
    "AdaptiveImportanceEstimator",
    "AdaptiveMaskingScheduler",
    "Canvas",
    "CausalLM",
    "CausalTransformer",
    "ConfidenceBasedSampler",
    "Corpus",
    "CurriculumScheduler",
    "DataRequest",
    "DynamicCurriculumScheduler",
    "Evaluation",
    "ImportanceEstimator",
    "MaskedDiffusionLM",
    "PositionAwareMaskingScheduler",
    "Prediction",
    "Run",
    "RunConfig",
    "TextClassifier",
    "UncertaintyGuidedSampler",
    "UserError",
    "__version__",
    "evaluate",
    "finetune",
    "load_lm",
    "prepare",
    "train",
]

_HOMES = {
    "ATATDiT": "mdlm_atat.nets.dit",
    "AdaptiveImportanceEstimator": "mdlm_atat.nets.estimator",
    "AdaptiveMaskingScheduler": "mdlm_atat.core.strategies.by_importance",
    "Canvas": "mdlm_atat.samplers.canvas",
    "CausalLM": "mdlm_atat.lm",
    "CausalTransformer": "mdlm_atat.nets.causal_transformer",
    "ConfidenceBasedSampler": "mdlm_atat.samplers.confidence",
    "Corpus": "mdlm_atat.data.corpus",
    "CurriculumScheduler": "mdlm_atat.core.curriculum",
    "DataRequest": "mdlm_atat.data.request",
    "DynamicCurriculumScheduler": "mdlm_atat.core.curriculum",
    "Evaluation": "mdlm_atat.scoring.records",
    "ImportanceEstimator": "mdlm_atat.nets.estimator",
    "MaskedDiffusionLM": "mdlm_atat.lm",
    "PositionAwareMaskingScheduler": "mdlm_atat.core.strategies.by_position",
    "Prediction": "mdlm_atat.finetuning.classifier",
    "Run": "mdlm_atat.runs.run",
    "RunConfig": "mdlm_atat.config.schema",
    "TextClassifier": "mdlm_atat.finetuning.classifier",
    "UncertaintyGuidedSampler": "mdlm_atat.samplers.uncertainty",
    "UserError": "mdlm_atat.errors",
    "evaluate": "mdlm_atat.runs.evaluate",
    "finetune": "mdlm_atat.runs.finetune",
    "load_lm": "mdlm_atat.lm",
    "prepare": "mdlm_atat.data.prepare",
    "train": "mdlm_atat.runs.train",
}


def __getattr__(name: str) -> Any:
    # importing torch takes seconds, so a name's module is loaded when the name is first asked for
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("mdlm-atat")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

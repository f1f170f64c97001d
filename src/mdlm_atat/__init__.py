"""Masked diffusion language models: training, likelihood, sampling."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdlm_atat.data.corpus import Corpus
    from mdlm_atat.data.prepare import prepare
    from mdlm_atat.data.request import DataRequest
    from mdlm_atat.errors import UserError
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
    from mdlm_atat.nets.causal_transformer import CausalTransformer
    from mdlm_atat.nets.dit import ATATDiT
    from mdlm_atat.runs.finetune import finetune

    __version__: str

__all__ = [
    "ATATDiT",
    "CausalLM",
    "CausalTransformer",
    "Corpus",
    "DataRequest",
    "MaskedDiffusionLM",
    "UserError",
    "__version__",
    "finetune",
    "prepare",
]

_HOMES = {
    "ATATDiT": "mdlm_atat.nets.dit",
    "CausalLM": "mdlm_atat.lm",
    "CausalTransformer": "mdlm_atat.nets.causal_transformer",
    "Corpus": "mdlm_atat.data.corpus",
    "DataRequest": "mdlm_atat.data.request",
    "MaskedDiffusionLM": "mdlm_atat.lm",
    "UserError": "mdlm_atat.errors",
    "finetune": "mdlm_atat.runs.finetune",
    "prepare": "mdlm_atat.data.prepare",
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

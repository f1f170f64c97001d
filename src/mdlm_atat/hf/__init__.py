"""Models of this package as models of transformers.

Importing this package registers their classes, so that the Auto classes load saved folders without
`trust_remote_code=True`:

>>> import mdlm_atat.hf
>>> from transformers import AutoModelForMaskedLM
>>> network = AutoModelForMaskedLM.from_pretrained("my-model")

Where this package is not installed, the file `modeling_mdlm_atat.py`, which every saved folder holds, does the same.
"""

from __future__ import annotations

from mdlm_atat.errors import UserError

try:
    import transformers
except ImportError as error:
    raise UserError("this needs transformers: pip install 'mdlm-atat[hub]'") from error

from mdlm_atat.hf.modeling_mdlm_atat import (
    MdlmAtatConfig,
    MdlmAtatForCausalLM,
    MdlmAtatForMaskedLM,
    MdlmAtatForSequenceClassification,
    MdlmAtatModel,
)

__all__ = [
    "MdlmAtatConfig",
    "MdlmAtatForCausalLM",
    "MdlmAtatForMaskedLM",
    "MdlmAtatForSequenceClassification",
    "MdlmAtatModel",
]

transformers.AutoConfig.register(MdlmAtatConfig.model_type, MdlmAtatConfig)
for auto, kind in (
    (transformers.AutoModel, MdlmAtatModel),
    (transformers.AutoModelForMaskedLM, MdlmAtatForMaskedLM),
    (transformers.AutoModelForCausalLM, MdlmAtatForCausalLM),
    (transformers.AutoModelForSequenceClassification, MdlmAtatForSequenceClassification),
):
    auto.register(MdlmAtatConfig, kind)
    kind.register_for_auto_class(auto.__name__)  # what is saved again has the modelling file, too
MdlmAtatConfig.register_for_auto_class()

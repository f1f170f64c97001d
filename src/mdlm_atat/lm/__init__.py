"""The Python interface: load a trained model, generate, infill, score, save."""

from mdlm_atat.lm.model import CausalLM, LanguageModel, MaskedDiffusionLM, load_lm
from mdlm_atat.lm.results import Frame, Generated, Infilled, Score, TextTrace
from mdlm_atat.lm.sampling import Guide, How

__all__ = [
    "CausalLM",
    "Frame",
    "Generated",
    "Guide",
    "How",
    "Infilled",
    "LanguageModel",
    "MaskedDiffusionLM",
    "Score",
    "TextTrace",
    "load_lm",
]

"""The Python interface: load a trained model, generate, infill, score, save.

>>> lm = MaskedDiffusionLM.from_pretrained("runs/demo")
>>> lm.generate("ROMEO:", max_new_tokens=200, seed=1).text
>>> lm.score("To be, or not to be").nats

A str is one text and gives one result; a sequence of str gives a list.
"""

from mdlm_atat.lm.base import LanguageModel
from mdlm_atat.lm.causal import CausalLM
from mdlm_atat.lm.how import Guide, How, HowOptions, TextOptions
from mdlm_atat.lm.load import load_lm
from mdlm_atat.lm.masked import MaskedDiffusionLM
from mdlm_atat.lm.results import Frame, Generated, Infilled, LengthCosts, Score, TextTrace

__all__ = [
    "CausalLM",
    "Frame",
    "Generated",
    "Guide",
    "How",
    "HowOptions",
    "Infilled",
    "LanguageModel",
    "LengthCosts",
    "MaskedDiffusionLM",
    "Score",
    "TextOptions",
    "TextTrace",
    "load_lm",
]

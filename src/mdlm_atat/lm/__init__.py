"""The Python interface: load a trained model, generate, infill, score, save.

>>> lm = MaskedDiffusionLM.from_pretrained("runs/demo")
>>> lm.generate(["ROMEO:"], length=200, seed=1)[0].text
>>> lm.score(["To be, or not to be"])[0].nats
"""

from mdlm_atat.lm.base import LanguageModel
from mdlm_atat.lm.causal import CausalLM
from mdlm_atat.lm.load import load_lm
from mdlm_atat.lm.masked import MaskedDiffusionLM
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

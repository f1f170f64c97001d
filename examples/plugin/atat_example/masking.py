"""A masking strategy that reads token ids."""

import torch
from torch import Tensor

from mdlm_atat.core.schedules import Schedule
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking
from mdlm_atat.data.tokenizers import Tokenizer


class VowelsLast(ExponentMasking):
    """Tokens with a vowel are masked early, and revealed last: log w_i = -strength for them, 0 for the others."""

    needs_importance = False

    def __init__(
        self, schedule: Schedule, tokenizer: Tokenizer, *, strength: float = 1.0, vowels: str = "aeiou"
    ) -> None:
        self.schedule, self.strength = schedule, strength
        texts = [tokenizer.decode([token]).lower() for token in range(tokenizer.vocab_size)]
        self.has_vowel = torch.tensor([bool(set(text) & set(vowels)) for text in texts])  # (V,)

    def log_exponent(self, clean: Clean) -> Tensor:
        assert clean.tokens is not None
        self.has_vowel = self.has_vowel.to(clean.tokens.device)  # moved once: a step never waits for the device
        return -self.strength * self.has_vowel[clean.tokens].double()  # (B, L)

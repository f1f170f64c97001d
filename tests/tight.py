"""A network on a machine with little memory: in training, more sequences at once than `TIGHT_ROWS` do not fit."""

import os

import torch

from mdlm_atat.nets.dit import ATATDiT


class Tight(ATATDiT):
    num_calls = 0

    def hidden(self, z_t, t, lengths=None):
        # TIGHT_RANK: in this process only; TIGHT_AFTER: only after so many calls
        Tight.num_calls += 1
        here = os.environ.get("TIGHT_RANK", "") in ("", os.environ.get("RANK"))
        is_full = Tight.num_calls > int(os.environ.get("TIGHT_AFTER", "0"))
        if self.training and here and is_full and len(z_t) > int(os.environ["TIGHT_ROWS"]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().hidden(z_t, t, lengths)

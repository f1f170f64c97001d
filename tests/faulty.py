"""Networks with faults in training, set by the environment, so that processes of a run have them too."""

import os
from typing import ClassVar

import torch

from mdlm_atat.nets.dit import ATATDiT


def is_here() -> bool:
    """Whether this process has the fault: FAULTY_RANK, or each."""
    return os.environ.get("FAULTY_RANK", "") in ("", os.environ.get("RANK"))


class Tight(ATATDiT):
    """Short of memory: more sequences at once than TIGHT_ROWS do not fit, after TIGHT_AFTER calls."""

    num_calls = 0

    def hidden(self, z_t, t, lengths=None):
        Tight.num_calls += self.training
        is_full = Tight.num_calls > int(os.environ.get("TIGHT_AFTER", "0"))
        if self.training and is_here() and is_full and len(z_t) > int(os.environ.get("TIGHT_ROWS", "1000")):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().hidden(z_t, t, lengths)


class Unstable(ATATDiT):
    """Gives NaN in training in the calls with the numbers in NAN_CALLS; the first three belong to the dry run."""

    num_calls = 0
    times: ClassVar[list[list[float]]] = []
    """What t was in each call in training."""

    def hidden(self, z_t, t, lengths=None):
        Unstable.num_calls += self.training
        if self.training:
            Unstable.times.append(t.tolist())
        is_bad = self.training and is_here() and str(Unstable.num_calls) in os.environ.get("NAN_CALLS", "").split()
        return super().hidden(z_t, t, lengths) * (float("nan") if is_bad else 1.0)

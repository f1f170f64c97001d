import torch
from torch import Tensor

from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import sample
from samplers.enumerated import CHANCE, JOINT, MASK, chi_square_per_degree, drawn, how_often


def exact_causal(x: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
    """log p(x_i | x_<i) of the joint, for every position at once."""
    logits = []
    for i in range(x.shape[1]):
        hidden_from_i = torch.where(torch.arange(x.shape[1]) >= i, MASK, x)
        logits.append(JOINT.denoise(hidden_from_i, torch.zeros(len(x)))[:, i])
    return torch.stack(logits, dim=1)


def test_left_to_right_sampling_reproduces_the_joint_in_exactly_3_evaluations():
    assert chi_square_per_degree(how_often(LeftToRight(), denoise=exact_causal), JOINT.probs) < CHANCE
    trace = drawn(LeftToRight(), 20, exact_causal).trace
    assert (trace.nfe == 3).all()
    assert (trace.revealed_at_step == torch.tensor([1, 2, 3])).all()


def test_a_prefix_is_kept_and_costs_no_evaluations():
    canvas = Canvas.with_prefixes([[1, 0], [0]], 3, MASK)
    result = sample(exact_causal, canvas, LeftToRight(), mask_id=MASK, seeds=[0, 1])
    assert result.tokens[0, :2].tolist() == [1, 0]
    assert result.tokens[1, 0] == 0
    assert result.trace.nfe.tolist() == [1, 2]

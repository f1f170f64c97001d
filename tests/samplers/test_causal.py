import torch
from torch import Tensor

from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.causal import LeftToRight, as_denoiser
from mdlm_atat.samplers.loop import sample
from toys import Joint


def exact_causal(joint: Joint):
    """log p(x_i | x_<i) of a joint, for every position at once."""

    def model(x: Tensor) -> Tensor:
        logits = []
        for i in range(x.shape[1]):
            hidden_from_i = torch.where(torch.arange(x.shape[1]) >= i, joint.mask_id, x)
            logits.append(joint.denoise(hidden_from_i, torch.zeros(len(x)))[:, i])
        return torch.stack(logits, dim=1)

    return model


def test_left_to_right_sampling_reproduces_the_joint_in_exactly_3_evaluations():
    joint = Joint.random(length=3, vocab=2, seed=3)
    result = sample(
        as_denoiser(exact_causal(joint)),
        Canvas.blank(4000, 3, joint.mask_id),
        LeftToRight(3),
        mask_id=joint.mask_id,
        seeds=range(4000),
    )
    index = result.tokens @ torch.tensor([4, 2, 1])
    expected = joint.probs * 4000
    likely = expected > 0
    statistic = ((index.bincount(minlength=8) - expected)[likely] ** 2 / expected[likely]).sum().item()
    assert statistic / (int(likely.sum()) - 1) < 3.5
    assert (result.trace.nfe == 3).all()
    assert result.trace.revealed_at_step[0].tolist() == [1, 2, 3]


def test_a_prefix_is_kept_and_costs_no_evaluations():
    joint = Joint.random(length=3, vocab=2, seed=3)
    canvas = Canvas.with_prefixes([[1, 0], [0]], 3, joint.mask_id)
    result = sample(as_denoiser(exact_causal(joint)), canvas, LeftToRight(3), mask_id=joint.mask_id, seeds=[0, 1])
    assert result.tokens[0, :2].tolist() == [1, 0]
    assert result.tokens[1, 0] == 0
    assert result.trace.nfe.tolist() == [1, 2]

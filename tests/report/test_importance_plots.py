import numpy as np
import pytest

from mdlm_atat.report.importance_plots import importance_heatmap, mask_rate_by_importance


def test_easy_and_hard_tokens_are_the_10th_and_90th_percentile():
    importance = np.arange(100) / 100
    mask_rate = np.array([0.5]) ** (1 + importance)[None]
    axes = mask_rate_by_importance(importance=importance, times=np.array([0.5]), mask_rate=mask_rate).axes[0]
    easy, median, hard, uniform = (np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines)
    assert [line[0] for line in (easy, median, hard)] == [0, 0, 0]
    assert [line[-1] for line in (easy, median, hard, uniform)] == [1, 1, 1, 1]
    assert easy[1] == pytest.approx(mask_rate[0, 5:15].mean())
    assert hard[1] == pytest.approx(mask_rate[0, 85:95].mean())
    assert easy[1] > median[1] > hard[1]
    assert axes.get_legend_handles_labels()[1][2] == "hard tokens, importance 0.89"


def test_constant_numbers_are_a_picture_too():
    ones = np.ones((2, 3))
    figure = importance_heatmap(
        labels=["a", "b", "c"], importance=ones[0], times=np.array([0.1, 0.9]), masked_importance=ones, nll=0 * ones
    )
    assert len(figure.axes) == 4

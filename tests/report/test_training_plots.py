import numpy as np

from mdlm_atat.report.figure import MAX_DRAWN_POINTS, Series
from mdlm_atat.report.training_plots import curriculum_progress, training_curves


def series(values: list[float]) -> Series:
    return Series(x=np.arange(len(values)), y=np.array(values))


def test_the_band_is_2_standard_errors_to_either_side():
    bound = Series(x=np.array([1, 2]), y=np.array([2.0, 1.5]), standard_error=np.array([0.1, 0.05]))
    axes = training_curves(bound_nats=bound).axes[0]
    corners = axes.collections[0].get_paths()[0].vertices
    assert np.isclose(np.asarray(corners)[:, 1].max(), 2.2)
    assert np.isclose(np.asarray(corners)[:, 1].min(), 1.4)


def test_one_loss_of_1000_does_not_flatten_the_other_999_and_is_counted():
    losses = [4.0 - step / 500 for step in range(1000)]
    losses[500] = 1000.0
    axes = training_curves(loss_nats=series(losses)).axes[0]
    assert axes.get_ylim()[1] < 5
    assert axes.get_xlabel() == "step\n1 of 1000 logged losses are outside the picture"
    assert not axes.texts  # which would lie over points


def test_the_unigram_line_is_inside_the_picture_at_3_3_nats():
    axes = training_curves(loss_nats=series([1.5, 1.4, 1.3]), unigram_nats=3.3).axes[0]
    assert axes.get_ylim()[0] < 1.3 < 3.3 < axes.get_ylim()[1]


def test_100000_points_are_drawn_with_at_most_1500():
    axes = training_curves(loss_nats=series(list(np.linspace(4, 2, 100_000)))).axes[0]
    assert max(len(np.asarray(line.get_xdata())) for line in axes.lines) <= MAX_DRAWN_POINTS


def test_no_data_is_an_empty_picture_of_1_plot():
    assert len(training_curves().axes) == 1
    assert len(training_curves(loss_nats=series([])).axes) == 1


def test_the_progress_has_a_panel_for_each_thing_that_was_logged():
    step = np.array([10, 20, 30])

    def series(*values: float) -> Series:
        return Series(x=step, y=np.array(values, dtype=np.float64))

    stage = series(0, 1, 2)
    importance = (series(0.1, 0.1, 0.2), series(0.3, 0.3, 0.4), series(0.5, 0.7, 0.8))
    whole = curriculum_progress(
        stage=stage,
        temperature=series(2, 1.5, 1),
        importance=importance,
        correlation=series(0.1, float("nan"), 0.5),
        stage_names=("easy", "medium", "hard"),
    )
    assert len(whole.axes) == 4  # the temperature has an axis of its own
    assert [tick.get_text() for tick in whole.axes[0].get_yticklabels()] == ["easy", "medium", "hard"]
    assert len(curriculum_progress(stage=stage).axes) == 1
    assert len(curriculum_progress(importance=importance).axes) == 1
    assert len(curriculum_progress().axes) == 0

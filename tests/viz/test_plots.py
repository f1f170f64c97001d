import numpy as np

from mdlm_atat.viz.plots import (
    MAX_DRAWN_POINTS,
    Series,
    mask_rate_profile,
    running_mean,
    svg,
    training_curves,
)


def series(values: list[float]) -> Series:
    return Series(x=np.arange(len(values)), y=np.array(values))


def test_a_running_mean_of_3_leaves_a_straight_line_straight_to_its_ends():
    line = np.linspace(0.0, 9.0, 10)
    assert np.allclose(running_mean(line, 3), line)
    assert np.allclose(running_mean(np.array([0.0, 3.0, 0.0, 3.0]), 3), [0, 1, 2, 3])


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
    assert axes.texts[0].get_text() == "1 of 1000 logged losses lie outside the picture"


def test_the_unigram_line_is_inside_the_picture_at_3_3_nats():
    axes = training_curves(loss_nats=series([1.5, 1.4, 1.3]), unigram_nats=3.3).axes[0]
    assert axes.get_ylim()[0] < 1.3 < 3.3 < axes.get_ylim()[1]


def test_100000_points_are_drawn_with_at_most_1500():
    axes = training_curves(loss_nats=series(list(np.linspace(4, 2, 100_000)))).axes[0]
    assert max(len(np.asarray(line.get_xdata())) for line in axes.lines) <= MAX_DRAWN_POINTS


def test_no_data_is_an_empty_picture_of_1_plot():
    assert len(training_curves().axes) == 1
    assert len(training_curves(loss_nats=series([])).axes) == 1


def test_an_svg_has_no_fixed_size_1_label_and_text_that_is_text():
    figure = mask_rate_profile(
        mask_rate=np.array([0.25, 0.75]), nats_per_masked_token=np.array([1.0, 2.0]), unigram_nats=3.0
    )
    picture = svg(figure, name="p", title="A < B")
    head = picture[: picture.index(">")]
    assert head.startswith('<svg role="img" aria-label="A &lt; B"')
    assert "viewBox" in head
    assert "width" not in head
    assert "height" not in head
    assert ">nats per masked token</text>" in picture
    assert "var(--accent, #0072b2)" in picture
    assert picture == svg(figure, name="p", title="A < B")

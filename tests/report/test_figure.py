import numpy as np

from mdlm_atat.report.figure import running_mean, svg
from mdlm_atat.report.training_plots import mask_rate_profile


def test_a_running_mean_of_3_leaves_a_straight_line_straight_to_its_ends():
    line = np.linspace(0.0, 9.0, 10)
    assert np.allclose(running_mean(line, 3), line)
    assert np.allclose(running_mean(np.array([0.0, 3.0, 0.0, 3.0]), 3), [0, 1, 2, 3])


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

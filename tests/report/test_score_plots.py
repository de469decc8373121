import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from rnp_jax.report import palette
from rnp_jax.report.score_plots import plot_score_histogram, plot_scores_by_layer

SCORES = {"a": np.array([0.0, 1, 2, 4, 100]), "b": np.array([0.0, 0, 30, np.inf])}
PRUNED = {"a": np.array([False, False, False, False, True]), "b": np.array([False, False, False, True])}


def ticks(ax: Axes) -> dict[str, float]:
    labels = [text.get_text() for text in ax.get_xticklabels()]
    return dict(zip(labels, map(float, ax.get_xticks()), strict=True))


def dots(ax: Axes, color: str) -> np.ndarray:
    """Places [n, 2] of every dot of a colour, transparent or not."""
    found = [c for c in ax.collections if tuple(c.get_facecolor()[0][:3]) == to_rgba(color)[:3]]
    return np.concatenate([np.asarray(each.get_offsets()) for each in found])


def test_histogram_counts_every_filter_once_and_sets_zeros_and_infinities_apart():
    ax = plot_score_histogram(SCORES, PRUNED, threshold=50.0).axes[0]
    cut, kept = ax.containers
    assert [int(sum(bar.get_height() for bar in bars)) for bars in (cut, kept)] == [2, 7]
    heights = [int(bar.get_height()) for bar in kept]
    assert heights[0] == 3, "zeros have the first bin"
    assert heights[1:3] == [0, 0], "and nothing beside them"
    assert int(cut[-1].get_height()) == 1, "the infinity has the last bin"
    marks = ticks(ax)
    assert marks["0"] < min(place for name, place in marks.items() if name not in ("0", "\N{INFINITY}"))
    assert marks["\N{INFINITY}"] > marks["100"] == pytest.approx(2)
    (line,) = ax.lines
    assert list(line.get_xdata()) == pytest.approx([np.log10(50)] * 2)
    figure = ax.get_figure()
    assert figure
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(texts) == ["kept (7)", "pruned (2)", "threshold 50"]


def test_every_filter_is_a_dot_at_its_score_over_the_median_of_its_layer():
    figure = plot_scores_by_layer(SCORES, PRUNED, {})
    ax = figure.axes[0]
    kept, cut = dots(ax, palette.ACC), dots(ax, palette.ASR)
    marks = ticks(ax)
    # Of layer a, 1, 2, 4 and 100 have the median 3; of b, 30 is the only usable score.
    expected = [marks["0"], *np.log10([1 / 3, 2 / 3, 4 / 3]), marks["0"], marks["0"], 0]
    np.testing.assert_allclose(kept[:, 0], expected, atol=1e-9)
    np.testing.assert_allclose(cut[:, 0], [np.log10(100 / 3), marks["\N{INFINITY}"]], atol=1e-9)
    assert np.rint(kept[:, 1]).tolist() == [0] * 4 + [1] * 3
    assert np.rint(cut[:, 1]).tolist() == [0, 1]
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == ["1 / 5", "1 / 4"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pruned", "kept"]


def test_a_bar_marks_the_threshold_of_each_layer_that_has_one():
    figure = plot_scores_by_layer(SCORES, PRUNED, {"a": 6.0, "b": None})
    bars = [line for line in figure.axes[0].lines if line.get_color() == palette.INK]
    assert [list(bar.get_xdata()) for bar in bars] == [pytest.approx([np.log10(2)] * 2)]
    assert figure.legends[0].get_texts()[-1].get_text() == "threshold of its layer"


@pytest.mark.parametrize("scores", [np.zeros(3), np.full(3, 2.5), np.full(2, np.inf), np.array([1e-30, 1e30])])
def test_degenerate_scores_are_drawn(scores):
    values, marks = {"$x": scores}, {"$x": np.zeros(scores.size, bool)}
    for figure in (plot_score_histogram(values, marks, 0.0), plot_scores_by_layer(values, marks, {"$x": 0.0})):
        figure.draw_without_rendering()
        low, high = figure.axes[0].get_xlim()
        assert np.isfinite([low, high]).all()
        assert low < high
    assert len(dots(figure.axes[0], palette.ACC)) == scores.size


def test_a_deep_network_has_a_line_a_layer():
    scores = {f"layer{i}": np.linspace(1, 9, 512) for i in range(54)}
    figure = plot_scores_by_layer(scores, {name: value > 8.9 for name, value in scores.items()}, {})
    assert figure.get_figheight() < 12
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(scores)

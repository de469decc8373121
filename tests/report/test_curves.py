import numpy as np
import pytest
from matplotlib.lines import Line2D

from rnp_jax.report import palette
from rnp_jax.report.curves import MAX_PHASES, find_used, knows_more, plot_phases, plot_ranking, plot_sweeps
from rnp_jax.report.schema import Oracle, Phase, Result


def curves(ax, color: str) -> list[Line2D]:
    return [line for line in ax.lines if line.get_color() == color and len(np.asarray(line.get_xdata())) > 2]


def test_the_ranking_that_was_used_fills_its_figure(result: Result):
    release, damage = result.sweeps
    assert result.choice
    assert find_used(result.sweeps, result.choice) == release
    chosen = result.choice.model_copy(update={"ranking": "damage"})
    assert find_used(result.sweeps, chosen) == damage
    (ax,) = plot_ranking(damage, chosen, result.oracle).axes
    points = [point.pruned for point in damage.points]
    for color in (palette.ACC, palette.HOLDOUT):
        (line,) = curves(ax, color)
        assert list(line.get_xdata()) == points
    low, high = ax.get_xlim()
    assert (points[-1] - points[0]) / (high - low) > 0.95
    assert [line.get_fillstyle() for line in ax.lines if line.get_marker() == "v"] == ["full"], "another ranking's"


def test_the_other_rankings_are_drawn_only_where_there_are_any(result: Result):
    release, damage = result.sweeps
    assert knows_more([release, damage])
    assert knows_more([release]), "thresholds"
    assert not knows_more([damage])
    assert find_used([], None) is None
    assert find_used([damage], None) == damage


def test_sweeps_are_drawn_against_threshold_and_number_pruned(result: Result):
    figure = plot_sweeps(result.sweeps, result.choice, result.oracle)
    threshold, pruned = figure.axes
    release, damage = result.sweeps
    (asr,) = curves(threshold, palette.ASR)
    assert list(asr.get_xdata()) == [p.threshold for p in release.points]
    assert list(asr.get_ydata()) == [p.asr.value for p in release.points if p.asr]
    assert len(curves(threshold, palette.ACC)) == 1, "the other ranking has no thresholds"
    first, second = curves(pruned, palette.ACC)
    assert list(second.get_xdata()) == [p.pruned for p in damage.points]
    assert first.get_linestyle() != second.get_linestyle()


def test_chosen_and_oracle_points_are_marked_in_each_panel(result: Result):
    assert result.choice
    figure = plot_sweeps(result.sweeps, result.choice, result.oracle)
    for ax, chosen, best in zip(figure.axes, (0.1, result.choice.pruned), (0.2, 40), strict=True):
        marks = {line.get_fillstyle(): list(line.get_xdata()) for line in ax.lines if line.get_marker() == "v"}
        assert marks == {"full": [chosen], "none": [best]}
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-2:] == ["chosen from clean data", "oracle: best by ASR"]


def test_bands_show_the_intervals(result: Result):
    (band, *_), points = plot_sweeps(result.sweeps[:1], None, None).axes[0].collections, result.sweeps[0].points
    heights = band.get_paths()[0].vertices[:, 1]
    assert points[0].asr
    assert heights.max() == points[0].asr.high
    assert heights.min() == min(p.asr.low for p in points if p.asr)


def test_a_sweep_without_thresholds_has_one_panel(result: Result):
    figure = plot_sweeps(
        result.sweeps[1:], None, Oracle(ranking="damage", threshold=None, pruned=8, metrics=result.after)
    )
    assert len(figure.axes) == 1


def test_a_loss_that_explodes_is_logarithmic_and_others_are_not(result: Result):
    figure = plot_phases(result.phases)
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "linear", "linear", "linear"]
    assert [ax.get_title(loc="left") for ax in figure.axes][::2] == ["unlearn: loss", "recover: loss"]


def test_an_iterative_defense_has_its_first_phases_drawn(result: Result):
    assert len(plot_phases(result.phases * 200).axes) == 2 * MAX_PHASES


def test_a_loss_that_reaches_zero_stays_linear():
    phase = Phase(name="unlearn", series={"loss": [0.0, 1.0, 1000.0]}, stopped="")
    assert plot_phases([phase]).axes[0].get_yscale() == "linear"


def test_epochs_count_from_one_and_unknown_values_are_gaps():
    series = {"train_loss": [1.0, None, 3.0], "test_acc": [0.5] * 3, "learning_rate": [0.1] * 3, "extra": [1.0] * 3}
    loss, share = plot_phases([Phase(name="x", series=series, stopped="")]).axes
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [1, np.nan, 3])
    assert [line.get_label() for line in loss.lines + share.lines] == ["train", "test"]


@pytest.mark.parametrize("series", [{}, {"loss": []}, {"loss": [0.5]}, {"loss": [None, None]}, {"acc": [1.0]}])
def test_short_histories_are_drawn(series: dict):
    figure = plot_phases([Phase(name="unlearn", series=series, stopped="")])
    words = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert words == ["not recorded"] * (2 - len(series))


def test_one_epoch_has_one_tick():
    figure = plot_phases([Phase(name="head", series={"loss": [0.5], "kept_share": [0.9]}, stopped="")])
    figure.draw_without_rendering()
    assert [ax.get_xlim() for ax in figure.axes] == [(0.5, 1.5)] * 2
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1"]

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from rnp_jax.defenses import METHODS as REGISTERED
from rnp_jax.report import palette
from rnp_jax.report.comparison import summarise
from rnp_jax.report.comparison_plots import MAX_PANELS, label_method, plot_outcomes, plot_seconds
from rnp_jax.report.schema import Stage
from rnp_jax.report.sweep_row import SweepRow
from tests.report.examples import METHODS, make_rows


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_method_lies_at_its_means_with_its_own_look(rows: list[SweepRow]):
    figure = plot_outcomes(rows)
    assert figure
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["sig, 10 % poisoned", "badnets, 10 % poisoned"]
    bars = [each for each in figure.axes[0].containers if isinstance(each, ErrorbarContainer)]
    summaries = [each for each in summarise(rows) if each.keys["attack"] == "sig"]
    assert len(bars) == len(summaries) == len(METHODS)
    looks = set()
    for bar, summary in zip(bars, summaries, strict=True):
        assert summary.acc
        assert summary.asr
        line = bar.lines[0]
        assert (*line.get_xdata(), *line.get_ydata()) == (summary.acc.value, summary.asr.value)
        looks.add((line.get_color(), line.get_marker()))
        (horizontal,) = [each for each in bar.lines[2] if np.ptp(each.get_segments()[0][:, 0]) > 0]
        assert horizontal.get_segments()[0][:, 0].tolist() == pytest.approx([summary.acc.low, summary.acc.high])
    assert len(looks) == len(METHODS), "colour and marker tell every method apart"
    assert legend(figure)[0] == "No defense"
    assert legend(figure)[-1] == "Oracle (sees the trigger)"


def test_a_pruned_head_is_hollow(rows: list[SweepRow]):
    head = [row.model_copy(update={"mode": "head"}) for row in rows]
    figure = plot_outcomes([*rows, *head])
    assert figure
    faces = [each.lines[0].get_markerfacecolor() for each in figure.axes[0].containers]
    assert faces.count(palette.PAPER) == len(faces) / 2
    assert legend(figure)[-1] == "hollow: head only"


def test_at_most_so_many_attacks_are_drawn():
    rows = make_rows(attacks=[f"$attack{i}" for i in range(15)], seeds=(0,))
    figure = plot_outcomes(rows)
    assert figure
    assert sum(bool(ax.get_title(loc="left")) for ax in figure.axes) == MAX_PANELS
    figure.draw_without_rendering()


def test_rows_without_both_figures_are_not_drawn(rows: list[SweepRow]):
    bare = [row.model_copy(update={"asr": None}) for row in rows]
    assert plot_outcomes(bare) is None
    figure = plot_outcomes([*bare[:27], *rows[27:]])
    assert figure
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["badnets, 10 % poisoned"]


def test_shares_that_are_close_have_whole_percents_on_their_axis():
    rows = make_rows(attacks=("sig",), seeds=(0,))[:1]
    figure = plot_outcomes(rows)
    assert figure
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    assert high - low == pytest.approx(0.05)
    ticks = figure.axes[0].get_xticks()
    np.testing.assert_allclose(100 * ticks, np.round(100 * ticks), atol=1e-9)


MANY = [f"{'long' * 5}{i}" for i in range(14)]


@pytest.mark.parametrize("names", [list(METHODS), [*REGISTERED, "my_own_defense"], MANY])
def test_a_legend_is_never_cut_off(names: list[str]):
    """However many methods there are, and with heads among them."""
    (row, *_) = make_rows(attacks=("sig",), seeds=(0,))
    row = row.model_copy(update={"timing": tuple(Stage(stage=name, seconds=1) for name in names)})
    rows = [row.model_copy(update={"method": name, "mode": mode}) for name in names for mode in ("network", "head")]
    for figure in (plot_outcomes(rows), plot_seconds(rows)):
        assert figure
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_seconds_are_totals_and_shares_of_them(rows: list[SweepRow]):
    figure = plot_seconds(rows)
    assert figure
    total, split = figure.axes
    names = [text.get_text() for text in total.get_yticklabels()]
    assert names[0] == "Hölder", "what took no time has no bar"
    ends = [bar.get_x() + bar.get_width() for bar in total.patches]
    assert ends == pytest.approx([4.0] * len(names))  # scoring takes 1, 2 and 3 seconds, the other stage 2
    widths = np.asarray([bar.get_width() for bar in split.patches]).reshape(len(names), 2)
    np.testing.assert_allclose(widths, 0.5)
    assert legend(figure) == ["scoring", "a"]
    assert [text.get_text() for text in total.texts] == ["4 s"] * len(names)


def test_without_times_there_is_no_figure(rows: list[SweepRow]):
    assert plot_seconds([row.model_copy(update={"timing": ()}) for row in rows]) is None


def test_names_of_methods_can_always_be_drawn():
    assert label_method("holder") == "Hölder"
    assert label_method("\u732b", "head") == "\\u732b, head"
    assert label_method("oracle", "head") == "Oracle, head (sees the trigger)"

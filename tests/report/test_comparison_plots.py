import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from rnp_jax.report import palette
from rnp_jax.report.comparison import Comparison, summarise
from rnp_jax.report.comparison_plots import MAX_PANELS, label_method, plot_outcomes, plot_seconds
from tests.report.examples import METHODS, make_rows


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_method_lies_at_its_means_with_its_own_look(comparison: Comparison):
    figure = plot_outcomes(comparison.rows)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["sig, 10 % poisoned", "badnets, 10 % poisoned"]
    bars = [each for each in figure.axes[0].containers if isinstance(each, ErrorbarContainer)]
    summaries = [each for each in summarise(comparison.rows) if each.keys["attack"] == "sig"]
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
    assert legend(figure)[-1] == "Oracle (no defender has it)"


def test_a_pruned_head_is_hollow(comparison: Comparison):
    head = [row.model_copy(update={"mode": "head"}) for row in comparison.rows]
    figure = plot_outcomes([*comparison.rows, *head])
    faces = [each.lines[0].get_markerfacecolor() for each in figure.axes[0].containers]
    assert faces.count(palette.PAPER) == len(faces) / 2
    assert legend(figure)[-1] == "hollow: head only"


def test_at_most_so_many_attacks_are_drawn():
    rows = make_rows(attacks=[f"$attack{i}" for i in range(15)], seeds=(0,))
    figure = plot_outcomes(rows)
    assert sum(bool(ax.get_title(loc="left")) for ax in figure.axes) == MAX_PANELS
    figure.draw_without_rendering()


def test_seconds_are_totals_and_shares_of_them(comparison: Comparison):
    figure = plot_seconds(comparison.rows)
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


def test_without_times_there_is_no_figure(comparison: Comparison):
    assert plot_seconds([row.model_copy(update={"timing": ()}) for row in comparison.rows]) is None


def test_names_of_methods_can_always_be_drawn():
    assert label_method("holder") == "Hölder"
    assert label_method("\u732b", "head") == "\\u732b, head"
    assert label_method("oracle", "head") == "Oracle, head (no defender has it)"

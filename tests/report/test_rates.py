import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from rnp_jax.errors import ResultError
from rnp_jax.report.comparison import summarise
from rnp_jax.report.rates import MAX_FIGURES, find_several_rates, plot_all_rates, plot_rates
from tests.report.examples import METHODS, make_rows

RATES = (0.0, 0.005, 0.01, 0.1)


def test_curves_run_through_the_means_with_their_intervals():
    rows = make_rows(attacks=("sig",), rates=RATES)
    figure = plot_rates(rows)
    assert len(figure.axes) == 12, "nine methods on a grid of four columns"
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    assert len(titles) == len(METHODS)
    assert (titles[0], titles[-1]) == ("No defense", "Oracle\n(sees the trigger)")
    ax = figure.axes[titles.index("CLP")]
    bars = [each for each in ax.containers if isinstance(each, ErrorbarContainer)]
    summaries = [each for each in summarise(rows, ("method", "poison_rate")) if each.keys["method"] == "clp"]
    for bar, field in zip(bars, ("acc", "asr", "ra"), strict=True):
        estimates = [getattr(summary, field) for summary in summaries]
        x, y = bar.lines[0].get_data()
        np.testing.assert_allclose(np.asarray(x, float)[1:], np.log10(RATES[1:]))
        assert x[0] == pytest.approx(np.log10(0.005) - 0.5), "no poison stands apart"
        assert list(y) == [each.value for each in estimates]
        ends = np.asarray([segment[:, 1] for segment in bar.lines[2][0].get_segments()])
        np.testing.assert_allclose(ends, [(each.low, each.high) for each in estimates], atol=1e-12)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0%", "0.5%", "1%", "10%"]


def test_crowded_rates_are_ticked_but_not_all_named():
    figure = plot_rates(make_rows(attacks=("sig",), rates=(0.01, 0.0101, 0.1), seeds=(0,)))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1%", "", "10%"]


def test_head_and_network_have_their_own_panels():
    rows = make_rows(attacks=("sig",), rates=RATES, seeds=(0,))
    rows = [row for row in rows if row.method == "clp"]
    figure = plot_rates([*rows, *(row.model_copy(update={"mode": "head"}) for row in rows)])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["CLP", "CLP, head"]


def test_an_attack_a_figure_where_there_are_rates_to_compare():
    rows = make_rows(attacks=("A/../$b", "sig"), rates=(0.01, 0.1), seeds=(0,))
    rows += make_rows(attacks=("wanet",), seeds=(0,))
    rows += [row.model_copy(update={"attack": "x", "poison_rate": None}) for row in rows]
    assert list(plot_all_rates(rows)) == ["rates_1_a_b", "rates_2_sig"]
    with pytest.raises(ResultError, match=r"shows one attack; these rows have A/\.\./\$b, sig, wanet"):
        plot_rates(rows)
    with pytest.raises(ResultError, match="these rows have none"):
        plot_rates([])


def test_the_first_attacks_are_drawn():
    rows = make_rows(attacks=[f"a{i}" for i in range(MAX_FIGURES + 1)], rates=(0.01, 0.1), seeds=(0,))
    rows = [row for row in rows if row.method == "clp"]
    assert list(plot_all_rates(rows)) == [f"rates_{i + 1}_a{i}" for i in range(MAX_FIGURES)]
    assert len(find_several_rates(rows)) == MAX_FIGURES + 1

import re

import pytest

from rnp_jax.defenses import METHODS
from rnp_jax.report.comparison import Estimate, summarise
from rnp_jax.report.comparison_plots import MAX_PANELS
from rnp_jax.report.leaderboard_sections import (
    MAX_COVARIATES,
    share_cell,
    show_covariates,
    show_figures,
    show_matrix,
    show_methods,
)
from rnp_jax.report.rates import MAX_FIGURES
from rnp_jax.report.sweep_row import SweepRow
from tests.report.examples import make_rows

TITLES = ["No defense", "Hölder", "CLP", "ANP", "FP", "RNP", "mine", "Random", "Oracle"]


def tables_of(rows: list[SweepRow]) -> dict[str, list[list[str]]]:
    """By heading, the lines of the matrix, small type left out."""
    found = {}
    for heading, table in re.findall("<h3>(.*?)</h3>.*?<table[^>]*>(.*?)</table>", show_matrix(rows) or "", re.DOTALL):
        lines = re.findall("<tr>(.*?)</tr>", re.sub("<small>.*?</small>", "", table), re.DOTALL)
        found[heading] = [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]
    return found


def test_the_matrix_has_the_summaries_figures(rows: list[SweepRow]):
    tables = tables_of(rows)
    assert list(tables) == ["ACC", "ASR", "RA", "DER", "Pruned"]
    assert tables["ACC"][0] == tables["ASR"][0] == tables["Pruned"][0] == ["Attack", *TITLES]
    assert tables["DER"][0] == ["Attack", *TITLES[1:]], "no defense has no rating"
    for line, attack in zip(tables["ASR"][1:], ("sig", "badnets"), strict=True):
        summaries = [each for each in summarise(rows) if each.keys["attack"] == attack]
        assert line == [f"{attack}, 10 % poisoned", *(f"{each.asr.value:.2%}" for each in summaries if each.asr)]
    assert tables["DER"][1][1] == "0.910 ± 0.025"
    assert tables["Pruned"][1][2] == "11 ± 2.48"


def test_who_sees_the_trigger_is_said_once(rows: list[SweepRow]):
    words = "Oracle sees the trigger, which no defender knows: a bound, not a defense."
    assert (show_matrix(rows) or "").count(words) == 1
    assert "sees the trigger" not in (show_matrix([row for row in rows if row.method != "oracle"]) or "")


def test_a_share_has_its_interval_in_small_type():
    shown = share_cell(Estimate(0.93214, 0.9204, 0.94021, 5))
    assert shown == "93.21%<small>92.0\N{EN DASH}94.0%</small>"
    assert share_cell(Estimate(0.93214, None, None, 1)) == "93.21%"
    assert share_cell(None) == "unknown"


def test_without_results_there_are_no_sections(rows: list[SweepRow]):
    lost = [row.model_copy(update={"status": "failed", "method": "mine", "covariates": {"x": None}}) for row in rows]
    assert show_matrix(lost) is None
    assert show_methods(lost) is None
    assert show_covariates(lost) is None
    assert show_figures(lost, {}) is None


def test_methods_say_what_they_rest_on_in_a_tables_order(rows: list[SweepRow]):
    shown = show_methods(rows) or ""
    assert re.findall('<th scope="row">(.*?)</th>', shown) == [name for name in TITLES[1:] if name != "mine"]
    assert METHODS["holder"].basis in shown.replace("&#x27;", "'")


def test_covariates_have_their_range_by_attack(rows: list[SweepRow]):
    shown = show_covariates(rows) or ""
    assert shown.count("<td>0.5</td><td>1.5</td><td>2.5</td>") == 2
    assert "badnets, 10 % poisoned" in shown
    (first, *_) = rows
    many = [first.model_copy(update={"attack": f"a{i}"}) for i in range(MAX_COVARIATES + 3)]
    assert "3 further lines are in rows.csv." in (show_covariates(many) or "")
    assert (show_covariates(many) or "").count("<tr>") == MAX_COVARIATES + 1


@pytest.mark.parametrize("extra", [0, 3])
def test_attacks_that_are_not_drawn_are_counted(extra: int):
    rows = make_rows(attacks=[f"a{i}" for i in range(MAX_PANELS + extra)], seeds=(0,))
    shown = show_figures(rows, {"outcomes": b""}) or ""
    assert ("3 further attacks are in the tables." in shown) == bool(extra)
    rows = make_rows(attacks=[f"a{i}" for i in range(MAX_FIGURES + extra)], rates=(0.1, 0.2), seeds=(0,))
    shown = show_figures(rows, {"rates_1_a0": b""}) or ""
    assert ("3 further attacks are in the tables." in shown) == bool(extra)


def test_figures_are_embedded_in_their_order(rows: list[SweepRow]):
    shown = show_figures(rows, {"outcomes": b"<svg/>", "rates_1_x": b"<svg/>", "rates_2_y": b"<svg/>"}) or ""
    assert re.findall("<h3>(.*?)</h3>", shown) == ["Means by attack", "Poison rates", "Poison rates"]
    assert shown.count("<img") == shown.count('src="data:image/svg+xml;base64,PHN2Zy8+"') == 3

import re

import pytest

from rnp_jax.report.comparison import Comparison, Estimate, read_comparison, summarise
from rnp_jax.report.comparison_page import plot_comparison, render_comparison, share_cell, write_comparison
from tests.report.browsing import assert_sound, show
from tests.report.examples import make_comparison, make_rows

HOSTILE = "</title></style><script>document.title='owned'</script><img src=x onerror=1>&'\u202e"


def test_everything_is_written_and_read_back(comparison: Comparison, tmp_path):
    path = write_comparison(tmp_path / "out", comparison)
    assert path == tmp_path / "out" / "comparison.html"
    names = ["comparison.csv", "comparison.html", "comparison.json", "comparison.md", "figures"]
    assert sorted(each.name for each in path.parent.iterdir()) == names
    assert read_comparison(path.parent / "comparison.json") == comparison
    figures = ["outcomes.png", "outcomes.svg", "seconds.png", "seconds.svg"]
    assert sorted(each.name for each in (path.parent / "figures").iterdir()) == figures
    assert path.read_text("utf-8").count("<img ") == 2


def test_a_table_an_attack_with_the_summaries_figures(comparison: Comparison):
    page = render_comparison(comparison, {})
    sections = dict(re.findall(r"<section><h2>([^<]*)</h2>(.*?)</section>", page, re.DOTALL))
    for attack in ("sig", "badnets"):
        rows = re.findall(
            r'<th scope="row">([^<]*)(?:<small>([^<]*)</small>)?</th>(.*?)</tr>', sections[f"{attack}, 10 % poisoned"]
        )
        assert [row[0] for row in rows] == [
            "No defense", "Hölder", "CLP", "ANP", "FP", "RNP", "mine", "Random", "Oracle",
        ]  # fmt: skip
        assert rows[-1][1] == "not available to a defender: it sees the trigger"
        summaries = [each for each in summarise(comparison.rows) if each.keys["attack"] == attack]
        for (_, _, cells), summary in zip(rows, summaries, strict=True):
            assert summary.asr
            shown = [re.sub("<small>.*", "", cell) for cell in re.findall("<td>(.*?)</td>", cells)]
            assert shown[0] == f"{summary.n}"
            assert shown[2] == f"{summary.asr.value:.2%}"
    assert "Mean" in sections["Covariates"]
    assert "<td>0.5</td><td>1.5</td><td>2.5</td>" in sections["Covariates"]
    assert "Hölder Pruning, ICLR 2025 submission" in sections["What the choices rest on"]
    assert "Notes" not in sections


def test_every_string_is_escaped_and_nothing_asks_a_network(result):
    rows = [
        row.model_copy(
            update={"attack": HOSTILE, "method": HOSTILE + row.method, "note": HOSTILE, "checkpoint": HOSTILE}
        )
        for row in make_rows(seeds=(0,))
    ]
    rows = [row.model_copy(update={"covariates": {HOSTILE: 1.0}}) for row in rows]
    page = render_comparison(make_comparison(result, rows), {"outcomes": b"<svg/>", "rates_1_x": b"<svg/>"})
    assert "<script" not in page
    assert "\u202e" not in page
    assert page.count("<img") == page.count('src="data:image/svg+xml;base64,PHN2Zy8+"') == 2
    assert page.count("<title>") == page.count("</title>") == page.count("</style>") == 1
    assert "default-src &#x27;none&#x27;" in page
    assert page.count("&lt;script&gt;document.title=&#x27;owned&#x27;") > 9


def test_runs_without_attack_figures_or_times_have_their_page(comparison: Comparison, result):
    bare = [row.model_copy(update={"asr": None, "ra": None, "timing": (), "covariates": {}}) for row in comparison.rows]
    page = render_comparison(make_comparison(result, bare), {})
    assert plot_comparison(make_comparison(result, bare)) == {}
    assert "<h2>Figures</h2>" not in page
    assert "<h2>Covariates</h2>" not in page
    assert "<td>unknown</td>" in page


def test_a_share_has_its_interval_in_small_type():
    shown = share_cell(Estimate(0.93214, 0.9204, 0.94021, 5))
    assert shown == "93.21%<small>92.0\N{EN DASH}94.0%</small>"
    assert share_cell(Estimate(0.93214, None, None, 1)) == "93.21%"
    assert share_cell(None) == "unknown"


@pytest.mark.parametrize("extra", [0, 3])
def test_attacks_that_are_not_drawn_are_counted(result, extra: int):
    rows = make_rows(attacks=[f"a{i}" for i in range(12 + extra)], seeds=(0,))
    page = render_comparison(make_comparison(result, rows), {"outcomes": b""})
    assert ("3 further attacks are in the tables." in page) == bool(extra)


@pytest.mark.slow
def test_page_in_chromium(browser, result, tmp_path):
    rows = make_rows(rates=(0.01, 0.1), seeds=(0, 1))
    rows[0] = rows[0].model_copy(update={"note": HOSTILE, "attack": HOSTILE})
    page = write_comparison(tmp_path, make_comparison(result, rows))
    for width in (400, 1200):
        show(browser, page, width)
        assert_sound(browser, width)
    assert browser.title.startswith("Defenses compared")
    assert browser.execute_script("return document.scripts.length") == 0
    assert len(browser.find_elements("css selector", "table.compared")) == 5
    headings = [each.text for each in browser.find_elements("css selector", "h2")]
    assert headings[0] == HOSTILE.replace("\u202e", "\\u202e") + ", 1 % poisoned"

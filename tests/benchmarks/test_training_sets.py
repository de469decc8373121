"""The tables over methods and poisoned sets, from runs that are made up."""

from types import SimpleNamespace

import pytest

from benchmarks.marked_pages import fill
from benchmarks.training_sets import Kept, make_overview, make_table
from rnp_jax.evaluation.metrics import Metrics, Proportion

TRUTH = {
    "Round 1: share of the poisoned images kept (for evaluation only)": 0.5,
    "Round 2: share of the poisoned images kept (for evaluation only)": 0.25,
    "Isolated images: share that is poisoned (precision) (for evaluation only)": 0.75,
    "AUROC of the method's scores of images (for evaluation only)": 0.9,
}


def kept(asr: int, truth: dict[str, float], seconds: float = 10.0) -> Kept:
    acc, asr_, ra = (Proportion.of(count, 100) for count in (90, asr, 100 - asr))
    return Kept(SimpleNamespace(after=Metrics(acc=acc, asr=asr_, ra=ra), covariates=truth), seconds)  # pyright: ignore


FOUND = {
    ("badnets", "none"): [kept(100, {})],
    ("badnets", "abl"): [kept(10, TRUTH), kept(20, {**TRUTH, list(TRUTH)[2]: 0.25}, 30.0)],
    ("sig", "ep"): [kept(5, {})],
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_a_line_has_means_ranges_the_number_of_seeds_and_the_last_round():
    rows = {tuple(row[:2]): row[2:] for row in map(cells, make_table(FOUND).splitlines()[2:])}
    assert rows["badnets", "ABL"] == [
        *("2", "90.0", "15.0 (10.0–20.0)", "85.0 (80.0–90.0)"),
        *("50 (25–75)", "–", "25", "0.90", "20"),
    ]
    assert rows["badnets", "plain training"][-1] == "–"


def test_the_overview_has_methods_by_attacks_and_says_what_is_missing():
    first, second = make_overview(FOUND).split("\n\n")
    rows = {row[0]: row[1:] for row in map(cells, first.splitlines())}
    assert rows["method"] == ["badnets", "sig"]
    assert rows["ABL"] == ["90.0 / 15.0 / 85.0 (2)", "–"]
    assert [cells(line)[0] for line in second.splitlines()[2:]] == ["ABL"]
    assert cells(second.splitlines()[2])[1] == "50 / – / 0.90"


def test_the_text_goes_between_the_marks_of_a_page_as_often_as_one_likes(tmp_path):
    page, text = tmp_path / "page.md", "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n"
    page.write_text(text)
    for new in ("new", "newer"):
        fill(page, "a", new)
        assert page.read_text() == text.replace("old", new)
    with pytest.raises(SystemExit, match="lacks the marks"):
        fill(page, "b", "new")

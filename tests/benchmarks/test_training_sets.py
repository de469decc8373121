"""The tables over methods and poisoned sets, from runs that are made up."""

import pytest

from benchmarks.marked_pages import fill
from benchmarks.training_sets import Kept, group, make_overview, make_table

TRUTH = {
    "Round 1: share of the poisoned images kept (for evaluation only)": 0.5,
    "Round 2: share of the poisoned images kept (for evaluation only)": 0.25,
    "Isolated images: share that is poisoned (precision) (for evaluation only)": 0.75,
    "AUROC of the method's scores of images (for evaluation only)": 0.9,
}


def kept(attack: str, method: str, asr: float, truth: dict[str, float], seconds: float = 10.0, seed: int = 0) -> Kept:
    return Kept(attack=attack, method=method, seed=seed, acc=0.9, asr=asr, ra=1 - asr, truth=truth, seconds=seconds)


FOUND = group([
    kept("sig", "ep", 0.05, {}),
    kept("badnets", "abl", 0.2, {**TRUTH, list(TRUTH)[2]: 0.25}, 30.0, seed=1),
    kept("badnets", "abl", 0.1, TRUTH),
    kept("badnets", "none", 1.0, {}),
])  # fmt: skip


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

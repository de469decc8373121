"""The tables over verdicts, from verdicts that are made up."""

import json
from dataclasses import asdict

import pytest

from benchmarks import detection_verdicts
from benchmarks.detection_verdicts import Judged, is_developers, list_auroc, list_rates, read, report

BUNDLED = ["digits_b", "digits_a", "digits_c"]


def row(name: str, attack: str | None, grade: str, label: int | None = None, **scores: float) -> Judged:
    return Judged(name, attack, None if attack is None else 3, grade, label, "", {"search": "strong"}, scores)


ROWS = [
    row("digits_a", "badnets", "likely backdoored", 3, labels=0.9),
    row("digits_b", "blend", "suspicious", 4, labels=0.5),
    row("digits_c", None, "no evidence", labels=0.4),
    row("other", None, "suspicious", 1, labels=0.6),
]


@pytest.mark.parametrize(
    ("name", "chosen"), [("digits_a", True), ("digits_b", False), ("digits_c", True), ("cifar10_x", True), ("x", False)]
)
def test_halves(name, chosen):
    assert is_developers(name, BUNDLED) == chosen


def test_rates_are_counted_by_kind():
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in list_rates({"all": ROWS}).splitlines()]
    rates = {line[1]: line[2:] for line in lines}
    assert rates["likely backdoored"] == ["1 of 2 (9%–91%)", "0 of 2 (0%–66%)"]
    assert rates["suspicious"] == ["1 of 2 (9%–91%)", "1 of 2 (9%–91%)"]
    assert rates["label right, of those suspicious or worse"][0].startswith("1 of 2")


def test_auroc_of_the_grades_and_of_the_scores(monkeypatch):
    assert list_auroc(ROWS).count("\n") == 1, "of so few, nothing"
    monkeypatch.setattr(detection_verdicts, "FEWEST", 2)
    table = list_auroc(ROWS)
    assert "| the verdict (four grades) | 2 + 2 | 0.88 " in table  # 3 > 2, 3 > 1, 2 = 2, 2 > 1
    assert "| unlearning alone (largest share) | 2 + 2 | 0.75 " in table
    assert "Neural Cleanse" not in table, "no model has such a score"


def test_kept_verdicts_are_read_and_reported(tmp_path):
    for each in ROWS:
        (tmp_path / f"{each.name}.json").write_text(json.dumps(asdict(each)))
    assert read(tmp_path) == ROWS
    text = report(ROWS, BUNDLED)
    assert "2 backdoored and 2 clean checkpoints" in text
    assert text.index("## Verdicts, developers' half") < text.index("## Verdicts, reported half")

import pytest

from rnp_jax.report.outcome import REMOVED, Outcome, judge_row, judge_rows
from rnp_jax.report.sweep_row import SweepRow
from tests.report.examples import share


def make_row(acc=990, asr=0, ra=980, before=(995, 1000), **fields) -> SweepRow:
    known = {"checkpoint": "a.pt", "attack": "sig", "method": "rnp", "key": "0" * 64, "status": "ok"}
    figures = {"acc": acc, "asr": asr, "ra": ra, "acc_before": before[0], "asr_before": before[1]}
    shares = {name: None if count is None else share(count, 1000) for name, count in figures.items()}
    return SweepRow.model_validate(known | shares | fields)


@pytest.mark.parametrize(
    ("row", "word", "level"),
    [
        (make_row(), "removed", "ok"),
        (make_row(asr=80), "removed", "ok"),
        (make_row(asr=90), "too few images", "warning"),  # its interval ends above 10 %
        (make_row(asr=110), "weakened", "warning"),
        (make_row(asr=6, classes=100), "too few images", "warning"),  # above 1 %
        (make_row(asr=3, classes=100), "removed", "ok"),
        (make_row(asr=80, classes=2), "removed", "ok"),
        (make_row(before=(995, 15), classes=100), "removed", "ok"),  # 1.5 % were more than chance there
        (make_row(asr=501), "still works", "bad"),
        (make_row(ra=700), "leads elsewhere", "warning"),
        (make_row(ra=None), "removed", "ok"),
        (make_row(acc=940), "removed, ACC lost", "warning"),
        (make_row(acc=490, asr=501), "destroyed", "bad"),
        (make_row(asr=None, before=(995, None)), "trigger unknown", "unknown"),
        (make_row(acc=900, asr=None, before=(995, None)), "ACC lost", "warning"),
        (make_row(asr=None, before=(995, None), evidence="still there"), "still there", "bad"),
        (make_row(asr=None, before=(995, None), evidence="traces"), "traces left", "warning"),
        (make_row(asr=None, before=(995, None), evidence="none found"), "trigger unknown", "unknown"),
        (make_row(before=(995, 90)), "never worked", "unknown"),
        (make_row(doubt="at chance"), "in doubt", "unknown"),
    ],
)
def test_green_only_where_the_backdoor_is_gone_and_accuracy_kept(row: SweepRow, word: str, level: str):
    assert judge_row(row) == (word, level)


def test_what_was_not_measured_or_not_changed_has_no_outcome():
    assert judge_row(make_row(acc=None)) is None
    assert judge_row(make_row(method="none")) is None
    assert judge_rows([make_row(method="none")]) is None


def test_items_that_share_a_cell_are_as_good_as_the_worst_of_them():
    assert judge_rows([make_row(), make_row(acc=995)]) == REMOVED
    assert judge_rows([make_row(), make_row(asr=200), make_row()]) == Outcome("2 of 3 removed", "warning")
    assert judge_rows([make_row(), make_row(asr=999), make_row(asr=200)]) == Outcome("1 of 3 removed", "bad")

from rnp_jax.report.leaderboard_matrix import (
    MAX_ATTACKS,
    count_statuses,
    make_matrix,
    metric_table,
    say_doubts,
    say_verdict,
    sort_rows,
)
from rnp_jax.report.sweep_row import SweepRow
from tests.report.examples import share


def make_row(checkpoint: str, **fields) -> SweepRow:
    known = {"attack": "sig", "poison_rate": 0.1, "seed": 0, "method": "rnp", "key": "0" * 64, "status": "ok"}
    return SweepRow.model_validate({"checkpoint": checkpoint} | known | fields)


def test_counts_add_up_and_the_verdict_follows_failures_alone():
    rows = [make_row(f"{i}", status=status) for i, status in enumerate(["ok", "ok", "failed", "skipped", "rejected"])]
    assert count_statuses(rows) == {"ok": 2, "rejected": 1, "failed": 1, "skipped": 1}
    assert say_verdict(count_statuses(rows)) == "1 of 5 items failed, so the sweep's exit code is not zero."
    assert say_verdict(count_statuses(rows[-1:])) == "None of 1 item failed: the sweep's exit code is zero."
    assert say_verdict(count_statuses([])) == "The sweep has no items."


def test_items_in_doubt_are_counted():
    rows = [make_row("a"), make_row("b", doubt="at chance"), make_row("c", doubt="under the stated accuracy")]
    assert say_doubts(rows[:1]) == []
    (text,) = say_doubts(rows)
    assert text.startswith("2 items in doubt: the accuracy is hardly better than guessing, or far under what the file")
    assert say_doubts(rows[:2])[0].startswith("1 item in doubt")


def test_rows_are_sorted_by_path_then_method():
    rows = [make_row("b"), make_row("a", method="rnp"), make_row("a", method="clp")]
    assert [(row.checkpoint, row.method) for row in sort_rows(rows)] == [("a", "clp"), ("a", "rnp"), ("b", "rnp")]


def test_means_are_over_rows_with_a_result_and_checkpoints_count_once_undefended():
    rows = [
        make_row("a", acc=share(90, 100), acc_before=share(96, 100)),
        make_row("b", acc=share(80, 100), acc_before=share(92, 100)),
        make_row("a", method="clp", acc=share(70, 100), acc_before=share(96, 100), der=0.5),
        make_row("c", status="failed", acc=share(0, 100), acc_before=share(0, 100)),
    ]
    names, ((attack, estimates),) = metric_table(make_matrix(rows), "acc")
    assert attack == "sig, 10 % poisoned"
    assert names == ["No defense", "CLP", "RNP"]
    assert [(round(each.value, 9), each.n) for each in estimates if each] == [(0.94, 2), (0.7, 1), (0.85, 2)]
    names, ((_, estimates),) = metric_table(make_matrix(rows), "der")
    assert names == ["CLP"]
    assert [each.value for each in estimates if each] == [0.5]
    assert metric_table(make_matrix(rows), "ra") == ([], [("sig, 10 % poisoned", [])])


def test_an_undefended_row_of_the_sweep_itself_is_not_doubled():
    rows = [
        make_row("a", acc=share(90, 100), acc_before=share(96, 100)),
        make_row("a", method="none", acc=share(95, 100)),
    ]
    _, ((_, estimates),) = metric_table(make_matrix(rows), "acc")
    assert [(each.value, each.n) for each in estimates if each] == [(0.95, 1), (0.9, 1)]


def test_heads_have_their_own_columns_after_the_networks():
    rows = [make_row("a", mode="head", method="clp", acc=share(9, 10)), make_row("b", acc=share(8, 10))]
    assert make_matrix(rows).methods == ("RNP", "CLP, head")


def test_attacks_that_are_not_shown_are_counted_and_the_clean_are_named():
    rows = [make_row(f"{i}", attack=f"a{i}", acc=share(9, 10)) for i in range(MAX_ATTACKS + 3)]
    matrix = make_matrix([make_row("clean", attack="none", poison_rate=None, acc=share(9, 10)), *rows])
    assert (len(matrix.lines), matrix.further, matrix.lines[0][0]) == (MAX_ATTACKS, 4, "no known trigger")
    assert make_matrix([make_row("x", status="failed")]) == ((), (), 0)

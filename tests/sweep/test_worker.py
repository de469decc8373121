import errno
import os
from dataclasses import replace

import pytest

from rnp_jax.errors import ChangedError, CheckpointError, DiskFullError, OutsideError, UnusableDataError
from rnp_jax.sweep.ledger import MOST_CRASHES, Ledger
from rnp_jax.sweep.worker import work
from tests.sweep.light import LightJob, expected, items_of


def run(tmp_path, items, job=None, **options):
    ledger = Ledger(tmp_path)
    with ledger.join() as member:
        count = work(ledger, items, job or LightJob(), member, **options)
    return ledger, count


def test_every_item_has_its_row(tmp_path):
    items = items_of(*map(str, range(20)))
    ledger, count = run(tmp_path, items)
    assert count == 20
    assert [ledger.row(item.key) for item in items] == [expected(item) for item in items]
    assert run(tmp_path, items)[1] == 0, "nothing is left"
    assert not [*(tmp_path / "claims").iterdir()]


def test_what_goes_wrong_with_an_item_is_its_row_and_the_others_go_on(tmp_path):
    items = items_of("a", "bad", "wild", "hard", "b")
    ledger, count = run(tmp_path, items)
    rows = [ledger.row(item.key) for item in items]
    assert count == 5
    assert [row.status for row in rows] == ["ok", "rejected", "failed", "failed", "ok"]
    assert [row.reason for row in rows] == [
        "",
        "bad: no checkpoint",
        "ValueError: something else",
        "nothing to prune",
        "",
    ]


def test_the_next_item_is_read_while_one_is_computed(tmp_path):
    order = []

    class Watching(LightJob):
        def run(self, item, loaded, attempt):
            order.append((item.path, tuple(self.loaded)))
            return super().run(item, loaded, attempt)

        def load(self, item):
            return super().load(item)

    run(tmp_path, items_of("a", "b", "c"), Watching(0.3))
    assert [path for path, _ in order] == ["a", "b", "c"]
    assert [len(loaded) for _, loaded in order][1:] == [2, 3] or [len(loaded) for _, loaded in order][1:] == [3, 3]


def test_an_item_that_crashed_is_alone_and_after_two_crashes_in_quarantine(tmp_path):
    items = items_of("a", "once", "b", "twice", "c")
    ledger = Ledger(tmp_path)
    for item, crashes in ((items[1], 1), (items[3], MOST_CRASHES)):
        for number in range(1, crashes + 1):
            (tmp_path / "crashes" / f"{item.key}.{number}").touch()
    seen = {}

    class Watching(LightJob):
        def run(self, item, loaded, attempt):
            claims = [path.name for path in (tmp_path / "claims").iterdir()]
            seen[item.path] = (attempt, claims)
            return super().run(item, loaded, attempt)

    run(tmp_path, items, Watching())
    assert seen["once"] == (2, [items[1].key])
    assert "twice" not in seen
    row = ledger.row(items[3].key)
    assert (row.status, "quarantined" in row.reason) == ("failed", True)
    assert {ledger.row(item.key).status for item in items if item.path != "twice"} == {"ok"}


def test_told_to_stop_it_ends_what_it_has(tmp_path):
    items = items_of(*map(str, range(10)))
    ledger = Ledger(tmp_path)
    _, count = run(tmp_path, items, may_go_on=lambda: len(ledger.done()) < 3)
    assert 3 <= count <= 4
    assert len(ledger.done()) == count
    assert not [*(tmp_path / "claims").iterdir()]


def wrapped(code):
    """An error of the item's that another caused, as a library makes it."""
    error = CheckpointError("cleaned.pt", "cannot be written")
    error.__cause__ = OSError(code, os.strerror(code))
    return error


@pytest.mark.parametrize("step", ["load", "run"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/tmp"), "/tmp: No space left on device; free some space"),
        (DiskFullError("cleaned.pt: no room; free some space"), "^cleaned.pt: no room; free some space$"),
        (wrapped(errno.EDQUOT), "Disk quota exceeded; free some space"),
        (wrapped(errno.EMFILE), "Too many open files; mend this and run the same command again"),
    ],
)
def test_what_no_item_is_to_blame_for_ends_it_without_a_part_of_a_row(tmp_path, step, fault, told):
    class Unlucky(LightJob):
        def load(self, item):
            if (item.path, step) == ("c", "load"):
                raise fault
            return super().load(item)

        def run(self, item, loaded, attempt):
            if (item.path, step) == ("c", "run"):
                raise fault
            return super().run(item, loaded, attempt)

    items = items_of("a", "b", "c", "d")
    with pytest.raises(OutsideError, match=told):
        run(tmp_path, items, Unlucky())
    ledger = Ledger(tmp_path)
    assert ledger.done() == {items[0].key, items[1].key}
    assert not [*(tmp_path / "claims").iterdir()]
    assert run(tmp_path, items)[1] == 2


@pytest.mark.parametrize("step", ["load", "run"])
def test_what_is_missing_sets_an_item_aside_until_the_next_command(tmp_path, step):
    class Unlucky(LightJob):
        def load(self, item):
            if (item.path, step) == ("b", "load"):
                raise UnusableDataError("no data set 'cifar10'")
            return super().load(item)

        def run(self, item, loaded, attempt):
            if (item.path, step) == ("b", "run"):
                raise ChangedError(item.path, "changed")
            return super().run(item, loaded, attempt)

    items = items_of("a", "b", "c")
    ledger, count = run(tmp_path, items, Unlucky())
    assert count == 2
    assert ledger.row(items[1].key) is None
    assert ledger.why_aside(items[1].key) == {"load": "no data set 'cifar10'", "run": "b: changed"}[step]
    assert not [*(tmp_path / "claims").iterdir()]
    assert run(tmp_path, items)[1] == 0
    ledger.forget([item.key for item in items])
    assert run(tmp_path, items)[1] == 1


class Together(LightJob):
    """Up to three at once; remembers each hand and what was claimed while it ran."""

    def __init__(self, ledger):
        super().__init__(together=3)
        self.hands, self.claims = [], []
        self._folder = ledger.out / "claims"

    def run_hand(self, items, loaded, attempt):
        self.hands.append(([item.path for item in items], attempt))
        self.claims.append({path.name for path in self._folder.iterdir()})
        return super().run_hand(items, loaded, attempt)


def run_together(tmp_path, items):
    job = Together(Ledger(tmp_path))
    ledger, count = run(tmp_path, items, job)
    assert count == len(items)
    assert not [*(tmp_path / "claims").iterdir()]
    return job, [ledger.row(item.key) for item in items]


def test_a_hand_is_of_one_group_and_method(tmp_path):
    one, other = items_of("a", "b", "c", "d"), items_of("e", "f", "g")
    other = [replace(item, group="other") for item in other]
    other[2] = replace(other[2], method="clp")
    items = [*one, *other]
    job, rows = run_together(tmp_path, items)
    assert [hand for hand, _ in job.hands] == [["a", "b", "c"], ["d"], ["e", "f"], ["g"]]
    assert rows == [expected(item) for item in items]


def test_the_next_hand_is_claimed_while_one_is_computed(tmp_path):
    items = items_of("a", "b", "c", "d", "e", "f", "g")
    job, _ = run_together(tmp_path, items)
    keys = [item.key for item in items]
    assert job.claims == [set(keys[:6]), set(keys[3:]), set(keys[6:])]


def test_an_item_of_a_hand_that_cannot_be_read_leaves_the_others_together(tmp_path):
    items = items_of("a", "bad", "b", "c")
    job, rows = run_together(tmp_path, items)
    assert [row.status for row in rows] == ["ok", "rejected", "ok", "ok"]
    assert [hand for hand, _ in job.hands] == [["a", "b"], ["c"]]


def test_where_a_hand_goes_wrong_each_of_it_is_run_by_itself(tmp_path):
    items = items_of("a", "wild", "b", "hard", "c")
    job, rows = run_together(tmp_path, items)
    assert [row.reason for row in rows] == ["", "ValueError: something else", "", "nothing to prune", ""]
    assert [hand for hand, _ in job.hands] == [
        ["a", "wild", "b"], ["a"], ["wild"], ["b"], ["hard", "c"], ["hard"], ["c"],
    ]  # fmt: skip
    assert rows[0] == expected(items[0])


def test_an_item_that_crashed_is_in_no_hand(tmp_path):
    items = items_of("a", "once", "b", "c")
    Ledger(tmp_path)
    (tmp_path / "crashes" / f"{items[1].key}.1").touch()
    job, rows = run_together(tmp_path, items)
    assert job.hands == [(["a"], 1), (["once"], 2), (["b", "c"], 1)]
    assert job.claims[:2] == [{items[0].key}, {items[1].key}]
    assert [row.attempt for row in rows] == [1, 2, 1, 1]

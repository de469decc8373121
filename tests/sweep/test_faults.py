"""Whose fault it is that a worker ended, and what becomes of its items."""

import os
import signal
import subprocess
import sys

import pytest

from rnp_jax.sweep import faults
from rnp_jax.sweep.faults import TERMINATED, Consequences, Patience, count_memory_kills, is_from_outside, is_stopped
from rnp_jax.sweep.ledger import Ledger
from tests.sweep.light import items_of


@pytest.mark.parametrize(
    ("status", "before", "now", "outside"),
    [
        (0, 3, 3, False),
        (1, 3, 3, False),
        (75, 3, 3, False),
        (-signal.SIGSEGV, 3, 3, False),
        (-signal.SIGABRT, 3, 3, False),
        (-signal.SIGXCPU, 3, 3, False),
        (-signal.SIGKILL, 3, 3, True),
        (-signal.SIGKILL, 3, 4, False),  # memory ran out meanwhile
        (-signal.SIGKILL, None, None, False),  # nobody can tell
        (-signal.SIGTERM, None, None, True),
        (-signal.SIGHUP, 3, 4, True),
        (TERMINATED, 3, 3, True),
    ],
)
def test_a_signal_that_only_others_send_is_from_outside(status, before, now, outside, monkeypatch):
    monkeypatch.setattr(faults, "count_memory_kills", lambda: now)
    assert is_from_outside(status, before) == outside


def test_what_this_machine_says():
    assert count_memory_kills() is None or count_memory_kills() >= 0
    assert not is_stopped(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert is_stopped(process.pid)
        process.kill()
    assert not is_stopped(process.pid)


def test_patience_ends_with_the_time_for_one_item_and_with_a_long_stop(monkeypatch):
    now = 0.0
    monkeypatch.setattr(faults.time, "monotonic", lambda: now)
    limited, endless = Patience(10.0), Patience(None)
    assert not limited.is_due()
    found = []
    for now, held, stopped in [  # noqa: B007 (the clock above reads it)
        (1.0, (), False), (50.0, (), False),  # it has nothing in its hands
        (60.0, ("a", "b"), False), (69.0, ("b", "a"), False), (70.0, ("b",), False), (80.5, ("b",), False),
        (90.0, ("c",), True), (140.0, ("c",), True), (146.0, ("d",), False), (147.0, ("d",), True),
        (207.0, ("e",), True),
    ]:  # fmt: skip
        assert limited.is_due()
        found.append((limited.look(held, stopped), endless.look(held, stopped)))
    assert found == [
        *[(None, None)] * 5, ("late", None), (None, None), ("late", None), (None, None), (None, None),
        ("stopped", "stopped"),
    ]  # fmt: skip


def test_items_of_an_ended_worker_are_run_again_alone_and_then_free_set_aside_or_failed(tmp_path):
    ledger, items = Ledger(tmp_path), items_of("a", "b")
    keys = [item.key for item in items]
    consequences = Consequences(ledger, items, 5.0)
    with ledger.join() as supervisor, ledger.join(supervisor.name) as worker:
        for end in (consequences.killed, consequences.late):
            assert all(ledger.claim(key, worker) for key in keys)
            end(supervisor, os.getpid())
            assert [(ledger.attempts(key), ledger.crashes(key)) for key in keys] == [(1, 0), (1, 0)]
            assert not ledger.claims_of(supervisor)
        for kills in range(1, faults.MOST_KILLS + 1):
            assert ledger.claim(keys[0], worker)
            consequences.killed(supervisor)
            assert ledger.done() == ({keys[0]} if kills == faults.MOST_KILLS else set())
        assert ledger.why_aside(keys[0]) == "its worker was killed or stopped from outside 5 times"
        assert ledger.claim(keys[1], worker)
        consequences.late(supervisor)
        row = ledger.row(keys[1])
        assert row is not None
        assert (row.status, row.reason, row.attempt) == ("failed", "took more than 5 seconds (--item-seconds)", 2)
        assert not ledger.claims_of(supervisor)

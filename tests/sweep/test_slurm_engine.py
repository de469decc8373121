import os
import signal
import sys
from pathlib import Path

import pytest

from rnp_jax.errors import SweepError
from rnp_jax.sweep.items import write_plan
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.slurm_engine import run_slurm
from tests.sweep.light import BAD, COMMAND, POISON, expected, items_of

STEP = {"LIGHT_SECONDS": "0.2"}


@pytest.fixture
def sweep(tmp_path):
    """Makes a planned sweep of items of these names."""

    def plan(*names):
        ledger, items = Ledger(tmp_path / "out"), items_of(*names)
        write_plan(ledger.out, items)
        return ledger, items

    return plan


@pytest.fixture
def submitit(monkeypatch):
    library = pytest.importorskip("submitit")
    monkeypatch.setattr(library.core.core.Job, "_results_timeout_s", 1)  # how late a file server may be
    return library


class Once:
    """A watch that acts once, when so many items are done."""

    def __init__(self, ledger, after, action):
        self.ledger, self.after, self.action, self.at = ledger, after, action, None

    def __call__(self):
        done = len(self.ledger.done())
        if self.at is None and done >= self.after:
            self.at = done
            self.action()


def nothing():
    """A watch without eyes."""


def rows_of(ledger, items):
    """The rows, once it is sure that there is one each and nothing else is left."""
    assert {path.name for path in ledger.rows_folder.iterdir()} == {f"{item.key}.json" for item in items}
    assert not list((ledger.out / "claims").iterdir())
    return [ledger.row(item.key) for item in items]


def job_ids(ledger) -> list[int]:
    """The processes of the jobs, which submitit's local jobs are named by."""
    return sorted({int(path.name.split("_")[0]) for path in (ledger.out / "slurm").glob("*_submitted.pkl")})


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
def test_jobs_share_a_sweep_and_end(sweep, submitit):
    ledger, items = sweep("a.pt", f"{POISON}.pt", f"{BAD}.pt", "b.pt", "c.pt")
    run_slurm(ledger, items, COMMAND, 2, None, nothing, {})
    a, poison, bad, b, c = rows_of(ledger, items)
    assert [row.model_copy(update={"attempt": 1}) for row in (a, b, c)] == [expected(items[i]) for i in (0, 3, 4)]
    assert (poison.status, poison.attempt, bad.status) == ("failed", 2, "rejected")
    assert len(job_ids(ledger)) == 2
    assert not [process for process in job_ids(ledger) if Path(f"/proc/{process}").exists()]
    assert os.environ.get("PYTHONPATH") is None or str(ledger.out) not in os.environ["PYTHONPATH"]


@pytest.mark.slow
def test_no_job_runs_what_lies_in_the_current_folder(sweep, submitit, tmp_path, monkeypatch):
    ledger, items = sweep("a.pt")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "cloudpickle.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path / "here")
    run_slurm(ledger, items, COMMAND, 1, None, nothing, {})
    assert rows_of(ledger, items) == [expected(items[0])]
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_job_told_to_leave_is_queued_again(sweep, submitit):
    ledger, items = sweep(*(f"m{i}.pt" for i in range(12)))

    def preempt():
        [job] = job_ids(ledger)
        [task] = children(job)
        os.kill(task, signal.SIGUSR2)  # as submitit asks SLURM to do before it takes the node away

    watch = Once(ledger, 2, preempt)
    run_slurm(ledger, items, COMMAND, None, None, watch, STEP)
    assert 2 <= watch.at < 12
    assert rows_of(ledger, items) == [expected(item) for item in items]
    assert len(job_ids(ledger)) == 1
    [log] = (ledger.out / "slurm").glob("*_log.err")
    assert "preempted" in log.read_text()


@pytest.mark.slow
def test_a_job_that_vanishes_is_submitted_again(sweep, submitit):
    ledger, items = sweep(*(f"m{i}.pt" for i in range(12)))

    def kill():
        [job] = job_ids(ledger)
        [task] = children(job)
        os.kill(job, signal.SIGSTOP)  # so that it starts nothing in between
        for process in (*children(task), task, job):
            os.kill(process, signal.SIGKILL)

    watch = Once(ledger, 2, kill)
    run_slurm(ledger, items, COMMAND, None, None, watch, STEP)
    assert 2 <= watch.at < 12
    assert rows_of(ledger, items) == [expected(item) for item in items]
    assert len(job_ids(ledger)) == 2


@pytest.mark.slow
def test_a_job_leaves_when_the_others_hold_what_is_left(sweep, submitit):
    """Three items for two workers, each of which claims two while it can: one has the last for itself."""
    ledger, items = sweep("a.pt", "b.pt", "c.pt")
    alone = []

    def watch():
        if len(ledger.done()) == 2 and len(job_ids(ledger)) == 2:
            alone.append([job for job in job_ids(ledger) if Path(f"/proc/{job}").exists()])

    run_slurm(ledger, items, COMMAND, 2, None, watch, {"LIGHT_SECONDS": "3"})
    assert len(alone[-1]) == 1
    assert rows_of(ledger, items) == [expected(item) for item in items]
    assert len(job_ids(ledger)) == 2


@pytest.mark.slow
def test_what_others_let_go_of_when_the_jobs_have_left_is_run(sweep, submitit):
    ledger, items = sweep("a.pt", "b.pt")

    def watch():
        [first, *more] = job_ids(ledger)
        if not more and not Path(f"/proc/{first}").exists():
            assert ledger.done() == {items[0].key}
            ledger.release(items[1].key)

    with ledger.join() as other:
        assert ledger.claim(items[1].key, other)
        run_slurm(ledger, items, COMMAND, None, None, watch, {})
    assert rows_of(ledger, items) == [expected(item) for item in items]
    assert len(job_ids(ledger)) == 2


@pytest.mark.slow
def test_jobs_that_keep_vanishing_end_the_sweep(sweep, submitit):
    ledger, items = sweep("a.pt")
    killed = set()

    def watch():
        for job in set(job_ids(ledger)) - killed:
            os.kill(job, signal.SIGKILL)
            killed.add(job)

    long = {"LIGHT_SECONDS": "30"}  # so that no worker whose job was killed gets to write a row
    with pytest.raises(SweepError, match=r"jobs end without an error message, the last one \d+; its log: /.*log\.err"):
        run_slurm(ledger, items, COMMAND, None, None, watch, long)
    assert len(killed) == 4
    assert not ledger.done()


@pytest.mark.slow
def test_a_job_that_fails_ends_the_sweep_and_names_its_log(sweep, submitit):
    ledger, items = sweep("a.pt")
    broken = (sys.executable, "-c", "raise SystemExit('nothing works here')")
    with pytest.raises(SweepError, match=r"job \d+ failed: workers die.*nothing works here; its log: /.*log\.err") as e:
        run_slurm(ledger, items, broken, 1, None, nothing, {})
    assert Path(str(e.value).split("its log: ")[1]).is_file()


def test_a_sweep_that_is_done_submits_nothing(sweep):
    ledger, items = sweep("a.pt")
    ledger.commit(expected(items[0]))
    run_slurm(ledger, items, COMMAND, 1, None, nothing, {})
    assert not (ledger.out / "slurm").exists()


def test_without_submitit_it_says_what_to_install(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    ledger, items = sweep("a.pt")
    with pytest.raises(SweepError, match=r"pip install 'rnp-jax\[slurm\]'"):
        run_slurm(ledger, items, COMMAND, 1, None, nothing, {})

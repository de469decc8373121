import os
import signal
import subprocess
import sys
import time

import pytest

from rnp_jax.errors import SweepError
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep import ray_engine
from rnp_jax.sweep.items import write_plan
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.ray_engine import run_ray
from tests.sweep.light import BAD, HARD, POISON, expected, items_of, serve

real = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # Ray leaves its processes' pipes
]

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
STEP = {"LIGHT_SECONDS": "0.3"}


@pytest.fixture
def sweep(tmp_path):
    """Makes a planned sweep of items of these names."""

    def plan(*names):
        ledger, items = Ledger(tmp_path / "out"), items_of(*names)
        write_plan(ledger.out, items)
        return ledger, items

    return plan


@pytest.fixture(scope="module")
def head():
    """A cluster without room for workers."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def cluster(head):
    """That cluster with a machine of one CPU; those that a test adds leave with it."""
    head.add_node(**NODE)
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node)


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


def rows_of(ledger, items) -> list[SweepRow | None]:
    """The rows, once it is sure that there is one each and nothing else is left."""
    assert {path.name for path in ledger.rows_folder.iterdir()} == {f"{item.key}.json" for item in items}
    assert not list((ledger.out / "claims").iterdir())
    return [ledger.row(item.key) for item in items]


class TestCluster:
    pytestmark = real

    @pytest.mark.parametrize("graceful", [False, True])
    def test_machines_that_die_and_join_change_no_row(self, sweep, cluster, graceful):
        ledger, items = sweep(*(f"m{i}.pt" for i in range(20)), f"{BAD}.pt", f"{HARD}.pt")
        doomed = cluster.add_node(**NODE)

        def change():
            cluster.remove_node(doomed, allow_graceful=graceful)
            cluster.add_node(**NODE)

        watch = Once(ledger, 4, change)
        run_ray(ledger, items, serve, None, cluster.address, watch, STEP)
        assert 4 <= watch.at < 15  # in the midst of it
        *well, bad, hard = rows_of(ledger, items)
        assert well == [expected(item) for item in items[:20]]  # at the first attempt: no item crashed
        assert (bad.status, hard.status) == ("rejected", "failed")
        assert not list((ledger.out / "crashes").iterdir())
        assert len(list((ledger.out / "logs").glob("ray-*.log"))) == 3  # the machine that joined had its worker

    def test_what_kills_its_worker_twice_is_quarantined(self, sweep, cluster):
        ledger, items = sweep("a.pt", f"{POISON}.pt", "b.pt", "c.pt")
        run_ray(ledger, items, serve, None, cluster.address, nothing, {})
        a, poison, b, c = rows_of(ledger, items)
        assert (poison.status, poison.attempt) == ("failed", 2)
        assert "died 2 times" in poison.reason
        assert [row.model_copy(update={"attempt": 1}) for row in (a, b, c)] == [expected(items[i]) for i in (0, 2, 3)]

    def test_no_actor_runs_what_lies_in_the_current_folder(self, sweep, cluster, tmp_path, monkeypatch):
        ledger, items = sweep("a.pt")
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "pydantic.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        monkeypatch.chdir(tmp_path / "here")
        run_ray(ledger, items, serve, None, cluster.address, nothing, {})
        assert rows_of(ledger, items) == [expected(items[0])]
        assert not (tmp_path / "ran").exists()

    def test_a_sweep_that_is_done_starts_nothing(self, sweep):
        ledger, items = sweep("a.pt")
        ledger.commit(expected(items[0]))
        run_ray(ledger, items, serve, None, "192.0.2.1:1", nothing, {})

    def test_another_version_on_the_machines_is_refused(self, sweep, cluster, monkeypatch):
        ledger, items = sweep("a.pt")
        monkeypatch.setattr(ray_engine, "code_version", lambda: "another")
        with pytest.raises(SweepError, match="a different rnp_jax"):
            run_ray(ledger, items, serve, None, cluster.address, nothing, {})
        assert not ledger.done()

    def test_a_folder_that_the_machines_do_not_see_is_refused(self, tmp_path, cluster):
        with pytest.raises(SweepError, match="cannot see"):
            run_ray(Ledger(tmp_path), items_of("a.pt"), serve, None, cluster.address, nothing, {})

    @pytest.mark.parametrize(
        ("broken", "message"),
        [
            ("full", "disk: make room"),
            ("raises", "before they start an item: a bug"),
            ("exits", "before they start an item"),
        ],
    )
    def test_workers_that_cannot_work_end_the_sweep(self, sweep, cluster, broken, message):
        ledger, items = sweep("a.pt")
        with pytest.raises(SweepError, match=message):
            run_ray(ledger, items, BROKEN[broken], None, cluster.address, nothing, {})
        assert not any(ledger.is_held(item.key) for item in items)


def full(out, supervisor):
    raise SweepError("disk: make room")


def raises(out, supervisor):
    raise ValueError("a bug")


def exits(out, supervisor):
    os._exit(3)


BROKEN = {"full": full, "raises": raises, "exits": exits}

DRIVER = """
import signal
import sys
from pathlib import Path
from rnp_jax.sweep.items import read_plan
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.ray_engine import run_ray
from tests.sweep.light import serve

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    out = Path(sys.argv[1])
    run_ray(Ledger(out), read_plan(out), serve, int(sys.argv[2]), None, lambda: None, {"LIGHT_SECONDS": sys.argv[3]})
"""


def drive(ledger, workers, seconds):
    """A sweep in a process of its own, with a Ray of its own."""
    pytest.importorskip("ray")
    command = [sys.executable, "-c", DRIVER, str(ledger.out), str(workers), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class TestLocal:
    pytestmark = real

    def test_ray_starts_here_ends_here_and_keeps_off_the_screen(self, sweep):
        ledger, items = sweep("a.pt", f"{POISON}.pt", "b.pt")
        process = drive(ledger, 2, 0.01)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0
        assert [row.status for row in rows_of(ledger, items)] == ["ok", "failed", "ok"]

    def test_an_interrupt_stops_the_workers_and_lets_their_items_go(self, sweep):
        ledger, items = sweep(*(f"m{i}.pt" for i in range(8)))
        process = drive(ledger, 1, 0.5)
        end = time.monotonic() + 120
        while len(ledger.done()) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1].strip().endswith("KeyboardInterrupt")
        done = ledger.done()
        assert 2 <= len(done) < 8
        assert not any(ledger.is_held(item.key) for item in items)
        assert ledger.done() == done


def test_without_ray_it_says_what_to_install(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    ledger, items = sweep("a.pt")
    with pytest.raises(SweepError, match=r"pip install 'rnp-jax\[ray\]'"):
        run_ray(ledger, items, serve, None, None, nothing, {})
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ

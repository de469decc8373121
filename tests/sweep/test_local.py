"""Real processes, real kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rnp_jax.errors import SweepError
from rnp_jax.sweep import faults, local
from rnp_jax.sweep.items import write_plan
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.local import device_environment, find_devices, run_local
from tests.sweep.light import COMMAND, HALTED, KILLED, expected, items_of

SUPERVISE = """
import sys, pathlib
from rnp_jax.sweep.items import read_plan
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.local import run_local
from tests.sweep.light import COMMAND
out = pathlib.Path(sys.argv[1])
run_local(Ledger(out), read_plan(out), COMMAND, 2, lambda: None, {"LIGHT_SECONDS": "0.02", "JAX_PLATFORMS": "cpu"})
"""


def planned(out, *names):
    items = items_of(*names)
    write_plan(out, items)
    return items


def run(out, items, workers=2, seconds="0.01", watch=lambda: None):
    ledger = Ledger(out)
    run_local(ledger, items, COMMAND, workers, watch, {"LIGHT_SECONDS": seconds})
    return [ledger.row(item.key) for item in items]


def test_every_item_has_its_row_and_nothing_is_left_behind(tmp_path):
    items, looks = planned(tmp_path, *map(str, range(12)), "bad"), []
    rows = run(tmp_path, items, watch=lambda: looks.append(1))
    assert rows[:-1] == [expected(item) for item in items[:-1]]
    assert rows[-1].status == "rejected"
    assert looks
    assert not [*(tmp_path / "claims").iterdir()]
    assert not [*(tmp_path / "members").iterdir()]


def test_a_poison_item_kills_two_workers_and_is_quarantined(tmp_path):
    items = planned(tmp_path, "a", "poison", "b", "c")
    rows = run(tmp_path, items, workers=1)
    assert [row.status for row in rows] == ["ok", "failed", "ok", "ok"]
    assert "quarantined" in rows[1].reason
    assert len([*(tmp_path / "crashes").glob(f"{items[1].key}.*")]) == 2


def test_a_poison_item_takes_its_hand_along_once(tmp_path):
    """Three more are in the dead worker's hands; each is tried again by itself, so that only one is quarantined."""
    items = planned(tmp_path, "a", "poison", "b", "c")
    ledger = Ledger(tmp_path)
    run_local(ledger, items, COMMAND, 1, lambda: None, {"LIGHT_TOGETHER": "2"}, whole_machine=True)
    rows = [ledger.row(item.key) for item in items]
    assert [row.status for row in rows] == ["ok", "failed", "ok", "ok"]
    assert [row.attempt for row in rows] == [2, 2, 2, 2]
    assert "quarantined" in rows[1].reason


def test_workers_that_cannot_start_end_the_sweep(tmp_path):
    items, ledger = planned(tmp_path, "a"), Ledger(tmp_path)
    with pytest.raises(SweepError, match="die before they start an item: oh no"):
        run_local(ledger, items, (sys.executable, "-c", "raise SystemExit('oh no')"), 1, lambda: None, {})


def test_no_room_for_rows_ends_the_sweep_which_goes_on_later(tmp_path):
    """A limit on the size of files, as a quota: rows do not fit, claims do."""
    items = planned(tmp_path, *map(str, range(6)))
    limited = ("bash", "-c", 'ulimit -f 0; exec "$@"', "_", *COMMAND)
    with pytest.raises(SweepError):
        run_local(Ledger(tmp_path), items, limited, 1, lambda: None, {})
    assert not Ledger(tmp_path).done()
    assert run(tmp_path, items) == [expected(item) for item in items]


def test_one_device_of_several():
    assert find_devices()[0] == "cpu"
    assert device_environment("cpu", 3) == {}
    assert device_environment("gpu", 1)["CUDA_VISIBLE_DEVICES"] == "1"
    assert device_environment("tpu", 2)["TPU_VISIBLE_CHIPS"] == "2"


@pytest.mark.parametrize(("workers", "shares"), [(2, [None, None]), (4, ["0.450"] * 4)])
def test_workers_on_one_gpu_share_its_memory(workers, shares, tmp_path, monkeypatch):
    """Two GPUs, and one worker on each or two."""
    monkeypatch.setattr(local, "find_devices", lambda: ("gpu", 2))
    given = []

    def note(*arguments):
        given.extend(arguments[4])
        raise KeyError

    monkeypatch.setattr(local, "_Crew", note)
    with pytest.raises(KeyError):
        run_local(Ledger(tmp_path), planned(tmp_path, *"abcd"), COMMAND, workers, lambda: None, {})
    assert [each.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for each in given] == shares
    assert [each["CUDA_VISIBLE_DEVICES"] for each in given] == [str(i % 2) for i in range(workers)]


def test_no_process_runs_what_lies_in_the_current_folder(tmp_path, monkeypatch):
    """Modules beside the checkpoints, named as those that the device probe and the workers import."""
    out, here = tmp_path / "out", tmp_path / "here"
    items = planned(out, "a")
    here.mkdir()
    for module in ("jax", "json", "hashlib"):
        (here / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(here)
    code = f"import hashlib, runpy; runpy.run_path({COMMAND[-1]!r}, run_name='__main__')"
    run_local(Ledger(out), items, (sys.executable, "-c", code), 1, lambda: None, {})
    assert Ledger(out).row(items[0].key) == expected(items[0])
    assert not (tmp_path / "ran").exists()


def test_a_platform_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nosuch")
    with pytest.raises(SweepError, match=r"^JAX finds no device: RuntimeError: .*nosuch[^\n]*$"):
        find_devices()


@pytest.mark.parametrize(("statuses", "asked"), [([-9, -15, 0], 3), ([-11], 1), ([-9] * 9, faults.MOST_KILLS)])
def test_a_probe_for_devices_that_somebody_kills_is_made_again(statuses, asked, monkeypatch):
    left = list(statuses)
    monkeypatch.setattr(
        "rnp_jax.sweep.local.subprocess.run",
        lambda command, **_: subprocess.CompletedProcess(command, left.pop(0), b'["cpu", 2]', b""),
    )
    if 0 in statuses:
        assert find_devices() == ("cpu", 2)
    else:
        with pytest.raises(SweepError, match=f"its process ended with status {statuses[0]}"):
            find_devices()
    assert len(statuses) - len(left) == asked


def test_workers_that_somebody_kills_are_no_fault_of_the_items(tmp_path):
    """The watch kills whoever holds the first item, as often as would be one crash too many."""
    items, ledger, killed = planned(tmp_path, "a", "b"), Ledger(tmp_path), []

    def kill():
        holder = ledger.holder(items[0].key)
        if len(killed) < 2 and holder is not None and holder.name not in killed:
            killed.append(holder.name)
            sent = signal.SIGTERM if len(killed) == 1 else signal.SIGKILL
            os.kill(int(holder.name.split(":")[1]), sent)

    rows = run(tmp_path, items, workers=1, seconds="0.5", watch=kill)
    assert len(killed) == 2
    assert [row.status for row in rows] == ["ok", "ok"]
    assert [path.name for name in ("members", "claims", "crashes") for path in (tmp_path / name).iterdir()] == []


@pytest.mark.parametrize("name", [pytest.param(KILLED, marks=pytest.mark.slow), HALTED])
def test_an_item_over_which_workers_are_killed_or_stopped_again_and_again_is_left_to_the_next_command(
    tmp_path, monkeypatch, name
):
    monkeypatch.setattr(faults, "MOST_KILLS", 2)
    monkeypatch.setattr(faults, "STOPPED_SECONDS", 0.5)
    items = planned(tmp_path, name, "a")
    rows = run(tmp_path, items, workers=1)
    assert (rows[0], rows[1].status) == (None, "ok")
    ledger = Ledger(tmp_path)
    assert ledger.why_aside(items[0].key) == "its worker was killed or stopped from outside 2 times"
    assert not [*(tmp_path / "crashes").glob("*.[1-9]")]


def test_an_item_that_takes_too_long_has_failed_and_no_other(tmp_path):
    items = planned(tmp_path, "a", "long", "b", "c")
    ledger = Ledger(tmp_path)
    run_local(ledger, items, COMMAND, 1, lambda: None, {}, item_seconds=4)
    rows = [ledger.row(item.key) for item in items]
    assert [row.status for row in rows] == ["ok", "failed", "ok", "ok"]
    assert rows[1].reason == "took more than 4 seconds (--item-seconds)"


def test_workers_end_with_their_supervisor(tmp_path):
    """It is killed while one of them is at work for minutes."""
    planned(tmp_path, "long", "long too")
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 120
    while len(pids := claimants(tmp_path)) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    supervisor.kill()
    supervisor.wait()
    while any(is_running(pid) for pid in pids | claimants(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def claimants(out) -> set[int]:
    return {int(json.loads(path.read_bytes())[0].split(":")[1]) for path in (out / "claims").glob("[!.]*")}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_rows(tmp_path):
    """Everything is killed at random instants, two dozen times; no row is lost, changed or doubled."""
    items, draw, kills = planned(tmp_path, *map(str, range(300))), random.Random(0), 0
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    while len(Ledger(tmp_path).done()) < len(items):
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, str(tmp_path)], env=environment, start_new_session=True
        )
        if kills < 24:
            done = len(Ledger(tmp_path).done())
            while len(Ledger(tmp_path).done()) < done + 2 and process.poll() is None:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.15))
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        assert process.wait() == (0 if kills == 24 and process.returncode == 0 else -signal.SIGKILL)
    assert kills >= 20
    assert [Ledger(tmp_path).row(item.key) for item in items] == [expected(item) for item in items]
    assert len([*(tmp_path / "rows").glob("[!.]*")]) == len(items)

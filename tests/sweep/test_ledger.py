import errno
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from rnp_jax.errors import DiskFullError, SweepError
from rnp_jax.sweep.ledger import MOST_CRASHES, Ledger, Participant
from rnp_jax.sweep.worker import failed_row
from tests.sweep.light import expected, items_of

ITEM = items_of("a")[0]
KEY = ITEM.key


def dead_member(ledger: Ledger, supervisor: str = "") -> tuple[Participant, int]:
    """A process that claims the item and is killed."""
    code = (
        "import sys, pathlib\nfrom rnp_jax.sweep.ledger import Ledger\nledger = Ledger(pathlib.Path(sys.argv[1]))\n"
        "with ledger.join(sys.argv[3]) as member:\n"
        "    assert ledger.claim(sys.argv[2], member)\n    print(member.name, flush=True)\n    sys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", code, str(ledger.out), KEY, supervisor]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    name = process.stdout.readline().strip()
    with ledger.join() as other:
        assert not ledger.claim(KEY, other), "it lives"
    process.kill()
    process.communicate()
    return Participant(name, supervisor), process.pid


def test_one_of_many_gets_an_item(tmp_path):
    ledger, got = Ledger(tmp_path), []
    with ExitStack() as stack:
        members = [stack.enter_context(ledger.join()) for _ in range(8)]
        threads = [threading.Thread(target=lambda m=m: got.append(ledger.claim(KEY, m))) for m in members]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert sorted(got) == [False] * 7 + [True]


def test_a_row_is_made_once_and_ends_the_claim(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.join() as member:
        assert ledger.claim(KEY, member)
        assert ledger.row(KEY) is None
        assert ledger.commit(expected(ITEM))
        assert not ledger.commit(expected(ITEM).model_copy(update={"attempt": 7}))
        assert ledger.row(KEY) == expected(ITEM)
        assert ledger.done() == {KEY}
        assert not ledger.claim(KEY, member)
    assert not [*(tmp_path / "claims").iterdir()]


def test_a_released_item_is_free_again(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.join("its supervisor") as one, ledger.join() as other:
        assert ledger.holder(KEY) is None
        assert ledger.claim(KEY, one)
        assert ledger.holder(KEY) == Participant(one.name, "its supervisor")
        assert not ledger.claim(KEY, other)
        ledger.release(KEY)
        assert ledger.holder(KEY) is None
        assert ledger.claim(KEY, other)
        assert ledger.holder(KEY) == other


def test_a_row_waits_for_the_disk_and_a_claim_does_not(tmp_path, monkeypatch):
    synced = []
    wait = os.fsync

    def record(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        wait(descriptor)

    ledger = Ledger(tmp_path)
    monkeypatch.setattr(os, "fsync", record)
    with ledger.join() as member:
        assert synced == [str(tmp_path / "members" / member.name)]
        assert ledger.claim(KEY, member)
        assert len(synced) == 1
        assert ledger.commit(expected(ITEM))
    _, draft, folder = synced
    assert draft.startswith(f"{tmp_path}/rows/.")
    assert folder == f"{tmp_path}/rows"


def test_a_row_that_is_not_whole_yet_is_none(tmp_path):
    ledger = Ledger(tmp_path)
    (tmp_path / "rows" / ".0123456789abcdef.part").write_text("{")
    assert ledger.done() == set()


def test_without_room_nobody_takes_part(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ledger = Ledger(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", refuse)
        with pytest.raises(DiskFullError, match="No space left on device; free some space"), ledger.join():
            raise AssertionError
    assert not [*(tmp_path / "members").iterdir()]
    with ledger.join() as member:
        assert ledger.claim(KEY, member)


def test_a_member_whose_file_somebody_removed_claims_nothing(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.join() as member:
        (tmp_path / "members" / member.name).unlink()
        with pytest.raises(SweepError, match="was removed while the sweep ran; run the same command again"):
            ledger.claim(KEY, member)
    assert not [*(tmp_path / "claims").iterdir()]


def test_what_a_killed_process_held_is_free_and_no_crash(tmp_path):
    ledger = Ledger(tmp_path)
    dead, _ = dead_member(ledger)
    assert not ledger.is_alive(dead.name)
    assert (tmp_path / "claims" / KEY).exists()
    assert ledger.holder(KEY) is None
    with ledger.join() as member:
        assert ledger.claim(KEY, member)
    assert ledger.crashes(KEY) == 0


def test_what_killed_processes_left_is_tidied_and_what_the_living_hold_stays(tmp_path):
    ledger, other = Ledger(tmp_path), items_of("b")[0]
    with ledger.join() as member:
        dead_member(ledger)
        (tmp_path / "rows" / f"{KEY}.json").write_text(expected(ITEM).model_dump_json())
        for folder in ("members", "claims"):
            (tmp_path / folder / ".0123456789abcdef").touch()
        assert ledger.claim(other.key, member)
        ledger.tidy()
        assert [path.name for path in (tmp_path / "members").iterdir()] == [member.name]
        assert [path.name for path in (tmp_path / "claims").iterdir()] == [other.key]
        assert ledger.holder(other.key) == member


def test_an_item_that_is_done_is_suspect_no_more(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.suspect(KEY)
    assert (ledger.attempts(KEY), ledger.crashes(KEY)) == (1, 0)
    ledger.commit(expected(ITEM))
    ledger.suspect(KEY)
    assert not [*(tmp_path / "crashes").iterdir()]


def test_what_a_supervised_worker_held_stays_until_its_supervisor_says_so(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.join() as supervisor, ledger.join() as other:
        for count in range(1, MOST_CRASHES + 2):
            _, process = dead_member(ledger, supervisor.name)
            assert not ledger.claim(KEY, other), "its supervisor will tell"
            assert ledger.record_crashes(other, process) == []
            assert ledger.record_crashes(supervisor, process) == [KEY]
            assert ledger.crashes(KEY) == min(count, MOST_CRASHES)
        assert ledger.claim(KEY, other)


def test_a_machine_that_is_silent_for_the_lease_is_dead(tmp_path):
    ledger = Ledger(tmp_path, lease=5.0)
    name = "elsewhere:1:00"
    (tmp_path / "members" / name).touch()
    assert ledger.is_alive(name)
    os.utime(tmp_path / "members" / name, (time.time() - 6, time.time() - 6))
    assert not ledger.is_alive(name)
    assert not ledger.is_alive("elsewhere:2:00")


def test_a_member_gives_signs_of_life(tmp_path):
    ledger = Ledger(tmp_path, lease=0.2)
    with ledger.join() as member:
        path = tmp_path / "members" / member.name
        first = path.stat().st_mtime_ns
        deadline = time.monotonic() + 20
        while path.stat().st_mtime_ns == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not path.exists()


def test_damaged_files_are_named(tmp_path):
    ledger = Ledger(tmp_path)
    (tmp_path / "rows" / f"{KEY}.json").write_text("{")
    with pytest.raises(SweepError, match="remove it"):
        ledger.row(KEY)
    (tmp_path / "claims" / "other").write_text("x")
    with ledger.join() as member, pytest.raises(SweepError, match="remove it"):
        ledger.claim("other", member)


@pytest.mark.parametrize(
    "content",
    ["x", "[]", "3", "null", '["a", 3]', '{"a": 1, "b": 2}', '["../../x", ""]', '["a:1:b", "x\\u0000"]', "[" * 100_000],
)
def test_a_tampered_claim_is_told_of(content, tmp_path):
    ledger = Ledger(tmp_path)
    (tmp_path / "claims" / KEY).write_text(content)
    with pytest.raises(SweepError, match=r"not a valid claim file: .*; remove it"):
        ledger.is_held(KEY)
    with ledger.join() as member, pytest.raises(SweepError, match="not a valid claim file"):
        ledger.claim(KEY, member)


def _claim_all(out, queue, all_ready):
    ledger = Ledger(out)
    with ledger.join() as member:
        queue.put([item.path for item in items_of(*map(str, range(60))) if ledger.claim(item.key, member)])
        all_ready.wait(60)  # the claims of a member that leaves are free


def test_processes_share_the_items_without_overlap(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue, all_ready = context.Queue(), context.Barrier(3)
    processes = [context.Process(target=_claim_all, args=(tmp_path, queue, all_ready)) for _ in range(3)]
    [process.start() for process in processes]
    got = [queue.get(timeout=60) for _ in processes]
    [process.join() for process in processes]
    assert sorted(path for paths in got for path in paths) == sorted(map(str, range(60)))


def test_rows_of_a_status_are_forgotten_with_their_crashes(tmp_path):
    """And whatever is set aside, which has no row."""
    ledger, items = Ledger(tmp_path), items_of("a", "b", "c")
    for item, status in zip(items, ("ok", "failed", "rejected"), strict=True):
        ledger.commit(failed_row(item, status, "why"))
        (tmp_path / "crashes" / f"{item.key}.1").touch()
    ledger.set_aside(KEY, "no data \ud800")
    assert ledger.is_done(KEY)
    assert ledger.why_aside(KEY) == "no data \\ud800"
    keys = [item.key for item in items]
    assert ledger.done() == {*keys, KEY}
    ledger.forget([KEY, *keys])
    assert ledger.done() == {*keys}
    assert ledger.why_aside(KEY) is None
    ledger.forget(keys, ("failed", "rejected"))
    assert ledger.done() == {keys[0]}
    assert [ledger.crashes(key) for key in keys] == [1, 0, 0]

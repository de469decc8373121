"""Workers on this machine, watched by this one: a process a device, or one process for all of them."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnp_jax.atomic import open_to_append
from rnp_jax.errors import SweepError
from rnp_jax.gpu_flags import share_memory
from rnp_jax.sweep.environment import SAFE_PATH
from rnp_jax.sweep.faults import (
    MOST_KILLS,
    TERMINATED,
    Consequences,
    Patience,
    count_memory_kills,
    is_from_outside,
    is_stopped,
)
from rnp_jax.sweep.items import Item
from rnp_jax.sweep.ledger import Ledger, Participant

STOPPED = 75
"""Exit status of a worker that stopped for a reason that the items do not share, such as a full disk."""

_PROBE = "import jax, json; print(json.dumps([jax.default_backend(), jax.local_device_count()]))"
_IDLE_DEATHS = 3
_MOST_KILLS = 20  # workers that may be killed in a row without a row in between
_POLL = 0.1
_PATIENCE = 10.0


@dataclass(eq=False)
class _Worker:
    slot: int
    process: subprocess.Popen
    log: Path
    memory_kills: int | None
    patience: Patience


def find_devices() -> tuple[str, int]:
    """JAX's platform and how many devices it has here, asked in a process that ends: this one holds no device.

    Raises:
      SweepError: JAX does not start, or that process is killed again and again.
    """
    command, status, reason = [sys.executable, "-c", _PROBE], 0, ""
    for _ in range(MOST_KILLS):
        memory_kills = count_memory_kills()
        done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **SAFE_PATH})  # noqa: S603
        status = done.returncode
        if status == 0:
            platform, count = json.loads(done.stdout.splitlines()[-1])
            return platform, count
        reason = "".join(done.stderr.decode(errors="replace").strip().splitlines()[-1:])[-500:]
        if not is_from_outside(status, memory_kills):
            break
    raise SweepError(f"JAX finds no device: {reason or f'its process ended with status {status}'}")


def device_environment(platform: str, slot: int) -> dict[str, str]:
    """What makes one device of several the only one that a process sees."""
    if platform == "gpu":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        return {"CUDA_VISIBLE_DEVICES": visible[slot] if len(visible) > slot and visible[slot] else str(slot)}
    if platform == "tpu":
        one = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return {"TPU_VISIBLE_CHIPS": str(slot), **one}
    return {}


def run_local(
    ledger: Ledger,
    items: Sequence[Item],
    command: Sequence[str],
    workers: int | None,
    watch: Callable[[], None],
    environment: Mapping[str, str],
    whole_machine: bool = False,
    item_seconds: float | None = None,
) -> None:
    """Runs workers until every item has its row.

    Args:
      ledger: of the sweep.
      items: all of them.
      command: starts a worker, when the supervisor's name is put behind it.
      workers: how many processes; by default one a device.
      watch: is called many times a second, to show what is done.
      environment: variables of the workers, over this process's own.
      whole_machine: for items that a worker can run on several devices at once: unless ``workers`` says otherwise there
        is one, which sees all devices.
      item_seconds: how long a worker may take for an item; by default as long as it takes.

    Raises:
      SweepError: workers die without having claimed anything, are killed again and again, or stop because they cannot
        write.
      KeyboardInterrupt: the workers are then stopped too.
    """
    left = {item.key for item in items} - ledger.done()
    if not left:
        return
    platform, devices = find_devices()
    sees_all = platform == "cpu" or (whole_machine and workers is None)
    count = min(workers or (1 if sees_all else devices), len(left))
    shared = share_memory(-(-count // devices)) if platform == "gpu" else {}
    slots = [{} if sees_all else device_environment(platform, i % devices) | shared for i in range(workers or devices)]
    with ledger.join() as member:
        consequences = Consequences(ledger, items, item_seconds)
        crew = _Crew(ledger, member, command, environment, slots[:count], consequences)
        try:
            while left:
                time.sleep(_POLL)
                watch()
                done = ledger.done() & left
                left -= done
                crew.attend(progress=bool(done))
                crew.staff(left)
        finally:
            crew.dismiss(patience=0 if left else _PATIENCE)
    watch()


def end_with_supervisor() -> None:
    """Ends this process at once when its standard input does, whose other end the supervisor holds while it lives."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(TERMINATED)

    threading.Thread(target=wait, daemon=True).start()


class _Crew:
    """The workers of one supervisor; each slot, the environment of one, has one worker at most."""

    def __init__(
        self,
        ledger: Ledger,
        member: Participant,
        command: Sequence[str],
        environment: Mapping[str, str],
        slots: Sequence[Mapping[str, str]],
        consequences: Consequences,
    ):
        self._ledger, self._member, self._command, self._environment = ledger, member, command, environment
        self._slots, self._vacant = slots, list(range(len(slots)))
        self._consequences = consequences
        self._running: list[_Worker] = []
        self._idle_deaths = self._kills = 0

    def attend(self, progress: bool) -> None:
        """Sees to the workers that ended, and ends those that do not go on."""
        if progress:
            self._kills = 0
        for worker in list(self._running):
            status = worker.process.poll()
            if status is not None:
                self._bury(worker, status)
            elif worker.patience.is_due():
                pid, is_limited = worker.process.pid, self._consequences.item_seconds is not None
                held = self._ledger.claims_of(self._member, pid) if is_limited else ()
                self._replace(worker, worker.patience.look(held, is_stopped(pid)))

    def _replace(self, worker: "_Worker", fault: str | None) -> None:
        """Ends a worker that does not go on."""
        if fault is None:
            return
        worker.process.kill()
        worker.process.wait()
        self._leave(worker)
        (self._consequences.late if fault == "late" else self._consequences.killed)(self._member, worker.process.pid)

    def _bury(self, worker: "_Worker", status: int) -> None:
        self._leave(worker)
        if status == STOPPED:
            raise SweepError(_last_line(worker.log))
        if is_from_outside(status, worker.memory_kills):
            self._kills += 1
            self._consequences.killed(self._member, worker.process.pid)
            if self._kills >= _MOST_KILLS:
                raise SweepError(f"{self._kills} workers in a row were killed from outside; run the same command again")
            return
        crashed = self._ledger.record_crashes(self._member, worker.process.pid)
        self._idle_deaths = self._idle_deaths + 1 if status != 0 and not crashed else 0
        if self._idle_deaths >= _IDLE_DEATHS:
            raise SweepError(f"workers die before they start an item: {_last_line(worker.log)}")

    def _leave(self, worker: "_Worker") -> None:
        self._running.remove(worker)
        self._vacant.append(worker.slot)
        self._ledger.bury(worker.process.pid)
        if worker.process.stdin is not None:
            worker.process.stdin.close()

    def staff(self, left: Collection[str]) -> None:
        """Starts workers where there is a place for them and work."""
        while self._vacant and len(self._running) < len(left) and any(not self._ledger.is_held(key) for key in left):
            slot = self._vacant.pop()
            environment = {**os.environ, **self._environment, **self._slots[slot], **SAFE_PATH}
            patience = Patience(self._consequences.item_seconds)
            self._running.append(_start(self._ledger, self._member, slot, self._command, environment, patience))

    def dismiss(self, patience: float) -> None:
        """Waits for workers that end by themselves, asks the others to, and kills those that do not listen."""
        for end in (subprocess.Popen.poll, subprocess.Popen.terminate, subprocess.Popen.kill):
            deadline = time.monotonic() + patience
            for worker in self._running:
                if worker.process.poll() is None:
                    end(worker.process)
            while time.monotonic() < deadline and any(worker.process.poll() is None for worker in self._running):
                time.sleep(_POLL)
            patience = _PATIENCE
        for worker in list(self._running):
            worker.process.wait()
            self._leave(worker)


def _start(
    ledger: Ledger,
    member: Participant,
    slot: int,
    command: Sequence[str],
    environment: Mapping[str, str],
    patience: Patience,
) -> _Worker:
    """A worker whose standard input ends with this process, so that it ends, too."""
    log = ledger.out / "logs" / f"{member.name.replace(':', '-')}-{slot}.log"
    log.parent.mkdir(exist_ok=True)
    memory_kills = count_memory_kills()
    with open_to_append(log) as file:
        process = subprocess.Popen(  # noqa: S603
            [*command, str(ledger.out), member.name],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=environment,
        )
    return _Worker(slot, process, log, memory_kills, patience)


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"{log} is empty"

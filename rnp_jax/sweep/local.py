"""Workers on this machine, watched by this one: a process a device, or one process for all of them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnp_jax.errors import SweepError
from rnp_jax.sweep.items import Item
from rnp_jax.sweep.ledger import Ledger, Participant

STOPPED = 75
"""Exit status of a worker that stopped for a reason that the items do not share, such as a full disk."""

_PROBE = "import jax, json; print(json.dumps([jax.default_backend(), jax.local_device_count()]))"
_IDLE_DEATHS = 3
_POLL = 0.1
_PATIENCE = 10.0


@dataclass
class _Worker:
    slot: int
    process: subprocess.Popen
    log: Path


def find_devices() -> tuple[str, int]:
    """JAX's platform and how many devices it has here, asked in a process that ends: this one holds no device.

    Raises:
      SweepError: JAX does not start.
    """
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise SweepError(f"JAX finds no device: {done.stderr.strip()[-500:]}")
    platform, count = json.loads(done.stdout.splitlines()[-1])
    return platform, count


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

    Raises:
      SweepError: workers die without having claimed anything, or stop because they cannot write.
      KeyboardInterrupt: the workers are then stopped too.
    """
    left = {item.key for item in items} - ledger.done()
    if not left:
        return
    platform, devices = find_devices()
    sees_all = platform == "cpu" or (whole_machine and workers is None)
    count = min(workers or (1 if sees_all else devices), len(left))
    with ledger.join() as member:
        running: list[_Worker] = []
        vacant, idle_deaths = list(range(count)), 0
        try:
            while left:
                time.sleep(_POLL)
                watch()
                left -= ledger.done()
                for worker in list(running):
                    status = worker.process.poll()
                    if status is None:
                        continue
                    running.remove(worker)
                    if status == STOPPED:
                        raise SweepError(_last_line(worker.log))
                    crashed = ledger.record_crashes(member, worker.process.pid)
                    idle_deaths = idle_deaths + 1 if status != 0 and not crashed else 0
                    if idle_deaths >= _IDLE_DEATHS:
                        raise SweepError(f"workers die before they start an item: {_last_line(worker.log)}")
                    vacant.append(worker.slot)
                while vacant and len(running) < len(left) and any(not ledger.is_held(key) for key in left):
                    slot = vacant.pop()
                    device = {} if sees_all else device_environment(platform, slot % devices)
                    own = {**os.environ, **environment, **device}
                    running.append(_start(ledger, member, slot, command, own))
        finally:
            _stop(running, patience=0 if left else _PATIENCE)
    watch()


def _start(
    ledger: Ledger, member: Participant, slot: int, command: Sequence[str], environment: Mapping[str, str]
) -> _Worker:
    log = ledger.out / "logs" / f"{member.name.replace(':', '-')}-{slot}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(  # noqa: S603
            [*command, str(ledger.out), member.name],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
        )
    return _Worker(slot, process, log)


def _stop(running: list[_Worker], patience: float) -> None:
    """Waits for workers that end by themselves, asks the others to, and kills those that do not listen."""
    for end in (subprocess.Popen.poll, subprocess.Popen.terminate, subprocess.Popen.kill):
        deadline = time.monotonic() + patience
        for worker in running:
            if worker.process.poll() is None:
                end(worker.process)
        while time.monotonic() < deadline and any(worker.process.poll() is None for worker in running):
            time.sleep(_POLL)
        patience = _PATIENCE
    for worker in running:
        worker.process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"{log} is empty"

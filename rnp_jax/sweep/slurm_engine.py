"""Workers as jobs of SLURM, an array of them, each the local engine on the shared folder.

A job gives its node back when all that is left is in the hands of others. Should these let go of it, the process that
submitted the jobs submits again.

Submission is submitit's (the extra ``slurm``). Where there is no SLURM the jobs are processes of this machine.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rnp_jax
from rnp_jax.errors import SweepError
from rnp_jax.sweep.environment import SAFE_PATH, set_variables
from rnp_jax.sweep.items import Item, read_plan
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.local import run_local

JOBS = "slurm"
"""The folder, in the sweep's, of what the jobs wrote."""

_MINUTES = 240  # of a job; then it is queued again
_MOST_REQUEUES = 1000  # a job holds nothing that the next one lacks
_MOST_LOSSES = 3  # how often jobs may have to be replaced while no row comes
_CPUS = 4
_SHARED = re.compile(r"^rnp_jax\.errors\.\w+: ")
_POLL = 0.2
_LOOK = 1.0  # seconds between two looks of a job at what others hold
_PATIENCE = 20.0


@dataclass(frozen=True)
class _Job:
    """The local engine, as what a job runs.

    ``is_local`` and ``devices``: whether it runs on the machine that submits, and what CUDA_VISIBLE_DEVICES is there;
    submitit hides the GPUs from such jobs.
    """

    out: Path
    command: tuple[str, ...]
    environment: dict[str, str]
    is_local: bool
    devices: str | None
    item_seconds: float | None

    def __call__(self, _: int) -> None:
        if self.is_local:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            os.environ.update({} if self.devices is None else {"CUDA_VISIBLE_DEVICES": self.devices})
        ledger, items = Ledger(self.out), read_plan(self.out)
        with suppress(_Idle):
            watch, limit = _look_out(ledger, items), self.item_seconds
            run_local(ledger, items, self.command, None, watch, self.environment, item_seconds=limit)

    def checkpoint(self, number: int) -> Any:
        """The same again, after a pre-emption or the end of a job's time: what is done is on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, number)


class _Idle(Exception):  # noqa: N818
    """All that is left is in the hands of others."""


def _look_out(ledger: Ledger, items: Sequence[Item]) -> Callable[[], None]:
    """A watch that raises ``_Idle`` when other supervisors' workers hold all that is left, and this one's nothing."""
    keys, own, looked = {item.key for item in items}, f"{socket.gethostname()}:{os.getpid()}:", 0.0

    def watch() -> None:
        nonlocal looked
        if time.monotonic() - looked < _LOOK:
            return
        looked = time.monotonic()
        left = keys - ledger.done()
        holders = (ledger.holder(key) for key in left)
        if left and all(holder is not None and not holder.supervisor.startswith(own) for holder in holders):
            raise _Idle

    return watch


def run_slurm(
    ledger: Ledger,
    items: Sequence[Item],
    command: Sequence[str],
    workers: int | None,
    partition: str | None,
    watch: Callable[[], None],
    environment: Mapping[str, str],
    item_seconds: float | None = None,
) -> None:
    """Submits jobs and waits until every item has its row.

    A job that is pre-empted or runs out of its time is queued again by submitit, one that vanishes is submitted again;
    so are jobs when none is left and an item is free.
    SBATCH_TIMELIMIT, SBATCH_ACCOUNT, SBATCH_QOS and the like have their usual meaning.

    Args:
      ledger: of the sweep, in a folder that all nodes see under this path.
      items: all of them.
      command: starts a worker, when the supervisor's name is put behind it.
      workers: how many jobs; by default one.
      partition: of SLURM; by default its own default.
      watch: is called several times a second, to show what is done.
      environment: variables of the workers.
      item_seconds: as in ``run_local``.

    Raises:
      SweepError: submitit is not installed, SLURM refuses the jobs, one failed, or all keep vanishing.
      KeyboardInterrupt: the jobs are then cancelled.
    """
    left = {item.key for item in items} - ledger.done()
    if not left:
        return
    submit = _open_queue(ledger, command, partition, environment, item_seconds)
    most, losses = workers or 1, 0
    jobs, gone = submit(min(most, len(left))), []
    try:
        while left:
            time.sleep(_POLL)
            watch()
            fresh = ledger.done() & left
            left -= fresh
            losses = 0 if fresh else losses
            ended = [job for job in jobs if left and job.done()]
            jobs, gone = [job for job in jobs if job not in ended], gone + ended
            wanted = sum(map(_was_lost, ended)) or (0 if jobs else min(most, _count_free(ledger, left)))
            losses += wanted > 0
            if losses > _MOST_LOSSES:
                message = (
                    f"jobs end without an error message, the last one {gone[-1].job_id}; "
                    f"its log: {gone[-1].paths.stderr}"
                )
                raise SweepError(message)
            jobs += submit(wanted) if wanted else []
        _wait(jobs)
    finally:
        for job in jobs:
            if not job.done(force_check=True):
                job.cancel(check=False)
        _wait(jobs)
    watch()


def _count_free(ledger: Ledger, keys: Iterable[str]) -> int:
    """How many items nobody holds, and are not done: a row is there before its claim is gone."""
    return sum(not ledger.is_held(key) and not ledger.is_done(key) for key in keys)


def _open_queue(
    ledger: Ledger,
    command: Sequence[str],
    partition: str | None,
    environment: Mapping[str, str],
    item_seconds: float | None,
) -> Callable[[int], list[Any]]:
    """Submits so many jobs when called."""
    try:
        import submitit  # imported late: an optional extra
    except ImportError as error:
        message = "--engine slurm needs submitit, which is not installed: pip install 'rnp-jax[slurm]'"
        raise SweepError(message) from error
    cluster, out = "local" if shutil.which("sbatch") is None else "slurm", ledger.out.resolve()
    devices = os.environ.get("CUDA_VISIBLE_DEVICES") if cluster == "local" else None
    job = _Job(out, tuple(command), dict(environment), cluster == "local", devices, item_seconds)
    path = os.pathsep.join(filter(None, [str(Path(rnp_jax.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    wishes: dict[str, Any] = {"name": "rnp-jax", "timeout_min": _MINUTES, "slurm_partition": partition}
    if cluster == "slurm":
        wishes |= {"cpus_per_task": _CPUS, "gpus_per_node": 1 if _has_gpus(partition) else None}

    def submit(count: int) -> list[Any]:
        try:
            requeues = {f"{cluster}_max_num_timeout": _MOST_REQUEUES}
            executor = submitit.AutoExecutor(out / JOBS, cluster, **requeues)
            executor.update_parameters(**wishes)
            with set_variables({"PYTHONPATH": path, **SAFE_PATH}, replace=True):  # for the jobs, too
                return executor.map_array(job, range(count))
        except (OSError, RuntimeError) as error:
            raise SweepError(f"the jobs cannot be submitted: {error}") from error

    return submit


def _has_gpus(partition: str | None) -> bool:
    """Whether any node of the partition has GPUs to ask for."""
    asked = ["sinfo", "--noheader", "--format=%G", *([] if partition is None else [f"--partition={partition}"])]
    try:
        return "gpu" in subprocess.run(asked, capture_output=True, text=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise SweepError(f"SLURM does not respond: {' '.join(asked)}: {error}") from error


def _was_lost(job: Any) -> bool:
    """Whether a job that ended before the sweep did says nothing of why, as one that was killed.

    Raises:
      SweepError: it failed for a reason that another would share.
    """
    from submitit.core.utils import FailedJobError

    error = job.exception()
    if isinstance(error, FailedJobError):
        reason = str(error).split("-" * 22)[1].strip().splitlines()[-1]
        raise SweepError(f"job {job.job_id} failed: {_SHARED.sub('', reason)}; its log: {job.paths.stderr}")
    return error is not None


def _wait(jobs: Sequence[Any]) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and not all(job.done() for job in jobs):
        time.sleep(_POLL)

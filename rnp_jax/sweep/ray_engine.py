"""Workers as actors of a Ray cluster, one an accelerator, on however many machines it has at the moment.

Ray (Moritz et al., OSDI 2018) places the processes and says which died; claims and rows go through the shared folder,
and nothing through its object store. Needs the extra ``ray``.
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rnp_jax
from rnp_jax.atomic import open_to_append
from rnp_jax.errors import RnpError, SweepError
from rnp_jax.sweep.environment import SAFE_PATH, set_variables
from rnp_jax.sweep.faults import Consequences, Patience
from rnp_jax.sweep.items import PLAN, Item, code_version
from rnp_jax.sweep.ledger import Ledger, Participant
from rnp_jax.threads import VARIABLES

Serve = Callable[[Path, str], int]

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # matches every line that Ray would show of its other processes
}
_HANDED_ON = ("JAX_", "XLA_", "RNP_JAX_", *VARIABLES)
_STORE_BYTES = 80 * 2**20  # the least that Ray takes; nothing is put there
_POLL = 0.1
_STAFFING = 0.5
_NODE_SECONDS = 2.0  # how long a machine that goes down may still look alive when its processes are gone
_PATIENCE = 10.0
_IDLE_DEATHS = 3


def run_ray(
    ledger: Ledger,
    items: Sequence[Item],
    serve: Serve,
    workers: int | None,
    address: str | None,
    watch: Callable[[], None],
    environment: Mapping[str, str],
    item_seconds: float | None = None,
) -> None:
    """Runs actors until every item has its row.

    Machines may join and leave. An actor that dies with its machine costs its items nothing: others claim them. One
    that dies on a machine that lives is a crash of the items in its hands.

    Args:
      ledger: of the sweep, in a folder that all machines see under this path.
      items: all of them.
      serve: what an actor does, given that folder and its supervisor's name; a function of an importable module.
      workers: how many actors; by default one for each accelerator that the cluster has, or for each CPU where there
        is none. Those that find no room wait for it.
      address: of a running cluster; by default one is started on this machine, and stopped at the end.
      watch: is called many times a second, to show what is done.
      environment: variables of the actors.
      item_seconds: how long an actor may take for an item; by default as long as it takes.

    Raises:
      SweepError: Ray is not installed or does not answer, a machine lacks this package's version or the folder,
        actors die without having claimed anything, or stop because they cannot write.
      KeyboardInterrupt: the actors are then stopped too.
    """
    left = {item.key for item in items} - ledger.done()
    if not left:
        return
    with _connect(address, environment) as ray:
        crew = _Crew(ray, ledger, serve, Consequences(ledger, items, item_seconds))
        try:
            while left:
                crew.attend()
                watch()
                left -= ledger.done()
                crew.staff(left, workers)
        finally:
            crew.dismiss(patience=0 if left else _PATIENCE)
    watch()


@contextmanager
def _connect(address: str | None, environment: Mapping[str, str]) -> Iterator[Any]:
    """Ray's module, connected; it keeps off the screen and reports to nobody."""
    own = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
    package = str(Path(rnp_jax.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    variables = {**own, **environment, "PYTHONPATH": path, **SAFE_PATH}
    local = {"object_store_memory": _STORE_BYTES, "include_dashboard": False} if address is None else {}
    with set_variables(_QUIET):
        try:
            import ray  # imported late: an optional extra, and slow
        except ImportError as error:
            raise SweepError("--engine ray needs Ray, which is not installed: pip install 'rnp-jax[ray]'") from error
        try:
            with contextlib.chdir(package):  # Ray has its workers import from the current folder before all others
                ray.init(
                    address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": variables},
                    **local,
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise SweepError(f"Ray at {address or 'this machine'} does not respond or start: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


class _Actor:
    """A worker, in a process that Ray started."""

    def prepare(self, out: Path, folder: Path, version: str) -> str:
        """Makes this process one of the sweep, with its messages in the sweep's logs.

        Returns:
          The name of Ray's node.

        Raises:
          SweepError: this machine differs from the one that drives the sweep.
        """
        import ray

        host = socket.gethostname()
        if code_version() != version:
            where = Path(rnp_jax.__file__).parent
            raise SweepError(f"{host} has a different rnp_jax ({where}) from this sweep's; install the same")
        if not (out / PLAN).exists() or not folder.is_dir():
            raise SweepError(f"{host} cannot see {out} and {folder}; use a file system that all machines share")
        os.chdir(folder)
        (out / "logs").mkdir(exist_ok=True)
        with open_to_append(out / "logs" / f"ray-{host}-{os.getpid()}.log") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        return ray.get_runtime_context().get_node_id()

    def serve(self, serve: Serve, out: Path, supervisor: str) -> int:
        """Works until nothing is left to claim."""
        return serve(out, supervisor)


@dataclass
class _Worker:
    """An actor and its own membership of the ledger, whose end lets its claims go.

    ``call`` is what it was asked last, None where it has answered; ``node`` is where it runs, once it does.
    """

    actor: Any
    member: Participant
    membership: ExitStack
    call: Any
    patience: Patience
    node: str = ""


class _Crew:
    """The actors of a sweep."""

    def __init__(self, ray: Any, ledger: Ledger, serve: Serve, consequences: Consequences):
        self._ray, self._ledger, self._serve, self._consequences = ray, ledger, serve, consequences
        self._out = ledger.out.resolve()
        self._workers: list[_Worker] = []
        self._idle_deaths, self._next_staffing = 0, 0.0

    def attend(self) -> None:
        """Hears what the actors have to say, for a moment."""
        calls = {worker.call: worker for worker in self._workers if worker.call is not None}
        if not calls:
            time.sleep(_POLL)
            return
        answered, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=_POLL)
        for call in answered:
            self._hear(calls[call])
        if self._consequences.item_seconds is not None:
            self._end_late()

    def _end_late(self) -> None:
        """Ends the actors that take too long for an item."""
        for worker in list(self._workers):
            if worker.patience.is_due() and worker.patience.look(self._ledger.claims_of(worker.member), stopped=False):
                self._ray.kill(worker.actor)
                self._consequences.late(worker.member)
                self._dismiss(worker)

    def _hear(self, worker: _Worker) -> None:
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(worker.call)
        except errors.ActorUnavailableError:  # perhaps for now, perhaps for ever: the next answer tells
            time.sleep(_POLL)
            self._ask(worker)
        except errors.RayActorError as error:
            self._bury(worker, error)
        except errors.RayTaskError as error:
            if isinstance(error.cause, RnpError):
                raise SweepError(str(error.cause)) from error
            self._dismiss(worker)
            self._count_death(str(error.cause))
        except errors.RuntimeEnvSetupError as error:
            raise SweepError(f"Ray cannot start a worker: {error}") from error
        else:
            if worker.node:
                worker.call, self._idle_deaths = None, 0
            else:
                worker.node = answer
                self._ask(worker)

    def _ask(self, worker: _Worker) -> None:
        if worker.node:
            worker.call = worker.actor.serve.remote(self._serve, self._out, worker.member.name)
        else:
            worker.call = worker.actor.prepare.remote(self._out, Path.cwd(), code_version())

    def _bury(self, worker: _Worker, error: Any) -> None:
        """Blames the items that were in a dead actor's hands, unless it died with its machine."""
        if not error.preempted and (not worker.node or self._outlives(worker.node)):
            if self._ledger.record_crashes(worker.member):
                self._idle_deaths = 0
            else:
                self._count_death(str(error).strip().splitlines()[-1])
        self._dismiss(worker)

    def _outlives(self, node: str) -> bool:
        """Whether a machine is there, and stays."""
        end = time.monotonic() + _NODE_SECONDS
        while any(each["NodeID"] == node and each["Alive"] for each in self._ray.nodes()):
            if time.monotonic() > end:
                return True
            time.sleep(_POLL)
        return False

    def _count_death(self, reason: str) -> None:
        self._idle_deaths += 1
        if self._idle_deaths >= _IDLE_DEATHS:
            raise SweepError(f"workers die before they start an item: {reason} (see {self._out / 'logs'})")

    def staff(self, left: set[str], workers: int | None) -> None:
        """Gives work to the actors that have none, and starts those for which there is room."""
        if time.monotonic() < self._next_staffing:
            return
        self._next_staffing = time.monotonic() + _STAFFING
        kind, room = self._find_room()
        idle = [worker for worker in self._workers if worker.call is None]
        vacant = min(workers or room, len(left)) - len(self._workers)
        if (not idle and vacant <= 0) or all(self._ledger.is_held(key) for key in left):
            return
        for worker in idle:
            self._ask(worker)
        for _ in range(vacant):
            self._start(kind)

    def _find_room(self) -> tuple[str, int]:
        """The resource that an actor takes one of, and how many the machines have; at least one is asked for."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for kind in ("GPU", "TPU", "CPU"):
            if room := sum(int(machine.get(kind, 0)) for machine in machines):
                return kind, room
        return "CPU", 1

    def _start(self, kind: str) -> None:
        needs = {"GPU": {"num_gpus": 1}, "TPU": {"resources": {"TPU": 1}}, "CPU": {"num_cpus": 1}}[kind]
        actor = self._ray.remote(_Actor).options(max_restarts=0, max_task_retries=0, **needs).remote()
        membership = ExitStack()
        patience = Patience(self._consequences.item_seconds)
        worker = _Worker(actor, membership.enter_context(self._ledger.join()), membership, None, patience)
        self._workers.append(worker)
        self._ask(worker)

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        worker.membership.close()

    def dismiss(self, patience: float) -> None:
        """Waits for the actors that end by themselves, and kills the others."""
        calls = [worker.call for worker in self._workers if worker.call is not None and worker.node]
        try:
            if calls and patience:
                self._ray.wait(calls, num_returns=len(calls), timeout=patience)
        finally:
            for worker in list(self._workers):
                self._dismiss(worker)

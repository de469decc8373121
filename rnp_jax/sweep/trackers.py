"""A sweep told to an experiment tracker, through its own library and into the sweep's folder."""

import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from rnp_jax.atomic import expect_room, find_full, no_room
from rnp_jax.errors import ConfigError, DiskFullError, OutsideError, RnpError
from rnp_jax.report.sweep_row import STATUSES, SweepRow
from rnp_jax.sweep.environment import set_variables

_QUIET = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


TrackerName: TypeAlias = Literal["none", "tensorboard", "mlflow"]


class Tracker(Protocol):
    """What is told of each finished row."""

    def log(self, row: SweepRow) -> None:
        """Figures as scalars, and which checkpoint, method and attack they are of."""
        ...


@contextmanager
def open_tracker(name: TrackerName, out: Path) -> Iterator[Tracker]:
    """A tracker, told at the end how many items ended how.

    Args:
      name: ``tensorboard`` writes ``out/tensorboard``: a curve a figure, method and attack, over the rows as they were
        logged. ``mlflow`` writes a run a row, and one of the sweep, where MLFLOW_TRACKING_URI says, by default to
        ``out/mlruns``.
      out: the sweep's folder.

    Raises:
      ConfigError: the tracker's library is not installed, or the tracker cannot be opened.
      DiskFullError: there is no room for what it writes; so may each row, and the end.
      OutsideError: the store cannot be written to; so may each row, and the end.
    """
    counts = Counter()
    with set_variables(_QUIET if name == "mlflow" else {}):
        made = {"none": _Silent, "tensorboard": _TensorBoard, "mlflow": _MlFlow}[name](out)
        counted = _Counted(made, counts)
        try:
            yield counted
        finally:
            made.close({status: counts[status] for status in STATUSES})


class _Counted:
    """Passes rows on, and counts them."""

    def __init__(self, tracker: Tracker, counts: Counter):
        self._tracker, self._counts = tracker, counts

    def log(self, row: SweepRow) -> None:
        self._tracker.log(row)
        self._counts[row.status] += 1


class _Silent:
    def __init__(self, out: Path):
        pass

    def log(self, row: SweepRow) -> None:
        pass

    def close(self, counts: dict[str, int]) -> None:
        pass


class _TensorBoard:
    """Writes in this thread: ``SummaryWriter``'s own would end with the first error, and its queue then block."""

    def __init__(self, out: Path):
        try:
            from tensorboardX import summary  # imported late: an optional extra
            from tensorboardX.proto import event_pb2
            from tensorboardX.record_writer import RecordWriter
        except ImportError as error:
            raise _not_installed("tensorboard", "tensorboardX") from error
        self._folder, self._summary, self._step = out / "tensorboard", summary, 0
        self._events: Any = event_pb2
        with expect_room(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
            self._file = RecordWriter(str(self._folder / name))
        self._put(file_version="brain.Event:2")

    def log(self, row: SweepRow) -> None:
        told = "  \n".join(f"{name}: {value}" for name, value in tags_of(row).items())
        figures = {f"{figure}/{row.method}/{row.attack}": value for figure, value in figures_of(row).items()}
        self._write(figures, self._summary.text("row", told))
        self._step += 1

    def _write(self, scalars: Mapping[str, float], *others: Any) -> None:
        curves = (self._summary.scalar(name, value) for name, value in scalars.items())
        with expect_room(self._folder):
            for each in (*curves, *others):
                self._put(step=self._step, summary=each)
            self._file.flush()

    def _put(self, **content: Any) -> None:
        self._file.write(self._events.Event(wall_time=time.time(), **content).SerializeToString())

    def close(self, counts: dict[str, int]) -> None:
        with expect_room(self._folder):
            try:
                self._write({f"items/{status}": float(count) for status, count in counts.items()})
            finally:
                self._file.close()


_TRASH = ".trash"
"""Folder of an MLflow store that it makes once in a process; like the store's own, it has to stay."""


class _MlFlow:
    def __init__(self, out: Path):
        try:
            from mlflow import MlflowClient  # imported late: an optional extra, and slow
        except ImportError as error:
            raise _not_installed("mlflow", "mlflow-skinny") from error
        own = (out / "mlruns").resolve()
        self._store, is_new = os.environ.get("MLFLOW_TRACKING_URI") or own.as_uri(), not own.exists()
        try:
            with self._using(ConfigError, "opened; remove it, or name another with MLFLOW_TRACKING_URI"):
                self._client = MlflowClient(self._store)
                known = self._client.get_experiment_by_name(out.resolve().name)
                made = self._client.create_experiment(out.resolve().name) if known is None else known.experiment_id
                self._experiment = made
        except DiskFullError:
            if is_new and own.exists():
                for part in own.iterdir():
                    if part.name != _TRASH:
                        shutil.rmtree(part, ignore_errors=True)
            raise

    @contextmanager
    def _using(self, kind: type[RnpError], use: str) -> Iterator[None]:
        """Tells of the store's errors, which may be another machine's, as this kind; of a full disk, as that."""
        try:
            yield
        except Exception as error:  # MLflow raises KeyError and Exception itself where its files are cut short or gone
            if (code := find_full(error)) is not None:
                raise no_room(self._store, OSError(code, os.strerror(code))) from error
            raise kind(f"the MLflow store {self._store} cannot be {use}: {error}") from error

    def log(self, row: SweepRow) -> None:
        status = "FINISHED" if row.status == "ok" else "FAILED"
        self._write(Path(row.checkpoint).name, tags_of(row), figures_of(row), status)

    def close(self, counts: dict[str, int]) -> None:
        self._write("sweep", {}, {f"items_{status}": float(count) for status, count in counts.items()}, "FINISHED")

    def _write(self, name: str, tags: dict[str, str], metrics: dict[str, float], status: str) -> None:
        with self._using(OutsideError, "written to; the same command goes on"):
            run: Any = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
            for parameter in ("checkpoint", "method", "attack"):
                if parameter in tags:
                    self._client.log_param(run, parameter, tags[parameter])
            for metric, value in metrics.items():
                self._client.log_metric(run, metric, value)
            self._client.set_terminated(run, status)


def figures_of(row: SweepRow) -> dict[str, float]:
    """Shares in [0, 1], DER, and the seconds that it took; without those that the row does not know."""
    names = ("acc", "asr", "ra", "asr_reactivated")
    known = {name: None if (share := getattr(row, name)) is None else share.value for name in names}
    known |= {"der": row.der, "seconds": row.seconds}
    return {name: float(value) for name, value in known.items() if value is not None}


def tags_of(row: SweepRow) -> dict[str, str]:
    """What the figures are of, and how it ended."""
    tags = {name: getattr(row, name) for name in ("checkpoint", "method", "attack", "status", "key")}
    return tags | ({"reason": row.reason} if row.reason else {})


def _not_installed(name: str, package: str) -> ConfigError:
    return ConfigError(f"--tracker {name} needs {package}, which is not installed: pip install {package}")

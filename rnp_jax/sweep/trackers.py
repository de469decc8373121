"""A sweep told to an experiment tracker, through its own library and into the sweep's folder."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from rnp_jax.errors import ConfigError
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
    def __init__(self, out: Path):
        try:
            from tensorboardX import SummaryWriter  # imported late: an optional extra
        except ImportError as error:
            raise _not_installed("tensorboard", "tensorboardX") from error
        self._writer, self._step = SummaryWriter(str(out / "tensorboard")), 0

    def log(self, row: SweepRow) -> None:
        for figure, value in figures_of(row).items():
            self._writer.add_scalar(f"{figure}/{row.method}/{row.attack}", value, self._step)
        told = "  \n".join(f"{name}: {value}" for name, value in tags_of(row).items())
        self._writer.add_text("row", told, self._step)
        self._step += 1

    def close(self, counts: dict[str, int]) -> None:
        for status, count in counts.items():
            self._writer.add_scalar(f"items/{status}", count, self._step)
        self._writer.close()


class _MlFlow:
    def __init__(self, out: Path):
        try:
            from mlflow import MlflowClient  # imported late: an optional extra, and slow
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise _not_installed("mlflow", "mlflow-skinny") from error
        store = os.environ.get("MLFLOW_TRACKING_URI") or (out / "mlruns").resolve().as_uri()
        name = out.resolve().name
        try:
            self._client = MlflowClient(store)
            known = self._client.get_experiment_by_name(name)
            self._experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        except MlflowException as error:
            raise ConfigError(f"the MLflow store {store} cannot be opened: {error}") from error

    def log(self, row: SweepRow) -> None:
        status = "FINISHED" if row.status == "ok" else "FAILED"
        self._write(Path(row.checkpoint).name, tags_of(row), figures_of(row), status)

    def close(self, counts: dict[str, int]) -> None:
        self._write("sweep", {}, {f"items_{status}": float(count) for status, count in counts.items()}, "FINISHED")

    def _write(self, name: str, tags: dict[str, str], metrics: dict[str, float], status: str) -> None:
        run: Any = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
        for parameter in ("checkpoint", "method", "attack"):
            if parameter in tags:
                self._client.log_param(run, parameter, tags[parameter])
        for metric, value in metrics.items():
            self._client.log_metric(run, metric, value)
        self._client.set_terminated(run, status)


def figures_of(row: SweepRow) -> dict[str, float]:
    """ACC, ASR and RA in [0, 1], DER, and the seconds that it took; without those that the row does not know."""
    known = {name: None if (share := getattr(row, name)) is None else share.value for name in ("acc", "asr", "ra")}
    known |= {"der": row.der, "seconds": row.seconds}
    return {name: float(value) for name, value in known.items() if value is not None}


def tags_of(row: SweepRow) -> dict[str, str]:
    """What the figures are of, and how it ended."""
    tags = {name: getattr(row, name) for name in ("checkpoint", "method", "attack", "status", "key")}
    return tags | ({"reason": row.reason} if row.reason else {})


def _not_installed(name: str, package: str) -> ConfigError:
    return ConfigError(f"--tracker {name} needs {package}, which is not installed: pip install {package}")

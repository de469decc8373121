"""Methods compared: means over the rows that agree in attack, method or whatever is asked for."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rnp_jax.defenses import registry
from rnp_jax.errors import ResultError
from rnp_jax.report.schema import Proportion
from rnp_jax.report.sweep_row import SweepRow

SHARES = ("acc", "acc_without_target", "asr", "ra")
RECOVERED = ("asr_reactivated", "asr_reactivated_control")
KEYS = ("checkpoint", "attack", "poison_rate", "seed", "mode", "method")
BY = ("attack", "method")


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` runs and its 95 % interval; None where one run gives none."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Summary:
    """Runs that agree in the fields that were asked for; a figure that no run knows is None.

    Attributes:
      keys: those fields and their values.
      n: runs.
      seconds: mean by stage, in the stages' order; a stage that a run lacks took it none.
    """

    keys: dict[str, str | float | int | None]
    n: int
    acc: Estimate | None
    acc_without_target: Estimate | None
    asr: Estimate | None
    ra: Estimate | None
    asr_reactivated: Estimate | None
    der: Estimate | None
    pruned: Estimate | None
    units: Estimate | None
    seconds: dict[str, float]

    @property
    def total(self) -> float | None:
        """Seconds of all stages; None where no stage was timed."""
        return sum(self.seconds.values()) if self.seconds else None


def summarise(rows: Iterable[SweepRow], by: Sequence[str] = BY) -> tuple[Summary, ...]:
    """The mean over the runs that agree in ``by``, with a 95 % interval.

    From two runs on, the interval is Student's t of the mean over runs, cut to [0, 1] for shares; of one run, a share
    keeps its Wilson interval and another figure has none. A figure that some runs lack is the mean over the others,
    and its own ``n`` says so.

    Args:
      rows: the runs.
      by: fields of a row, of ``KEYS``.

    Returns:
      One summary a group: groups of each attack in the order of their first row, methods as in a comparison's tables.

    Raises:
      ResultError: ``by`` names another field.
    """
    unknown = [field for field in by if field not in KEYS]
    if unknown:
        raise ResultError(f"rows cannot be grouped by {', '.join(unknown)}; choose among {', '.join(KEYS)}.")
    groups: dict[tuple, list[SweepRow]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, field) for field in by), []).append(row)
    return tuple(
        _summarise(dict(zip(by, key, strict=True)), groups[key]) for key in sorted(groups, key=_order(by, groups))
    )


def _order(by: Sequence[str], groups: Iterable[tuple]) -> Callable[[tuple], list]:
    """Sort key of groups: attacks as they come, methods as `registry.order` has them, the rest ascending."""
    keys = list(groups)
    seen = {field: list(dict.fromkeys(key[i] for key in keys)) for i, field in enumerate(by)}

    def rank(field: str, value) -> object:
        if field == "method":
            return registry.order(value)
        if field in ("poison_rate", "seed"):
            return -1.0 if value is None else value
        return -(value == "network") if field == "mode" else seen[field].index(value)

    return lambda key: [rank(field, value) for field, value in zip(by, key, strict=True)]


def _summarise(keys: dict, rows: list[SweepRow]) -> Summary:
    shared = (*SHARES, RECOVERED[0])
    shares = {field: _share([value for row in rows if (value := getattr(row, field))]) for field in shared}
    numbers = {
        field: _estimate([value for row in rows if (value := getattr(row, field)) is not None])
        for field in ("der", "pruned", "units")
    }
    return Summary(keys, len(rows), **shares, **numbers, seconds=_mean_seconds([row for row in rows if row.timing]))


def _mean_seconds(rows: list[SweepRow]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for row in rows:
        for stage in row.timing:
            seconds[stage.stage] = seconds.get(stage.stage, 0.0) + stage.seconds / len(rows)
    return seconds


def _share(shares: list[Proportion]) -> Estimate | None:
    if len(shares) == 1:
        return Estimate(shares[0].value, shares[0].low, shares[0].high, 1)
    mean = _estimate([share.value for share in shares])
    if mean is None or mean.low is None or mean.high is None:
        return mean
    return Estimate(mean.value, max(0.0, mean.low), min(1.0, mean.high), mean.n)


def _estimate(values: Sequence[float]) -> Estimate | None:
    n = len(values)
    if n < 2:
        return Estimate(float(values[0]), None, None, 1) if values else None
    from scipy.special import stdtrit  # only a summary needs it

    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stdtrit(n - 1, 0.975)) * spread / n**0.5
    return Estimate(mean, mean - half, mean + half, n)

"""Attempts to bring backdoors back over a sweep: what their column is called, and what it means."""

from collections.abc import Iterable

from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.report.wording import METRICS

_FLOOR = "It may plant the trigger in a clean network, too; rnp-jax reactivate --reference tells what it does there."


def find_attempt(rows: Iterable[SweepRow]) -> str | None:
    """The attempt that was asked for, by name; None where none was."""
    return next((row.reactivation for row in rows if row.reactivation is not None), None)


def name_attempt(rows: Iterable[SweepRow]) -> str:
    """``RA``; empty where no attempt was asked for."""
    return (find_attempt(rows) or "").upper()


def name_column(rows: Iterable[SweepRow]) -> str:
    """``ASR after RA``; empty where no attempt was asked for."""
    title = name_attempt(rows)
    return f"ASR after {title}" if title else ""


def say_attempt(rows: Iterable[SweepRow]) -> str:
    """What the column means; empty where no attempt was asked for."""
    name = find_attempt(rows)
    if name is None:
        return ""
    from rnp_jax.reactivation import REACTIVATIONS  # imported late: few pages need it

    title, how = name.upper(), f"{REACTIVATIONS[name].basis} " if name in REACTIVATIONS else ""
    unlike = f" (the metric {title} is something else)" if name in METRICS else ""
    return (
        f"How often the trigger works after {title}, an attempt to bring the backdoor back{unlike}. {how}"
        f"The control, on each item, is the same attempt without the trigger. {_FLOOR}"
    )

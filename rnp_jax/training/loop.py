"""The host's loop over epochs, each a compiled program: what is told, saved and noted after every one."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import jax
import numpy as np

from rnp_jax.fetching import fetch_late
from rnp_jax.types import Progress


class Counted(Protocol):
    """The state of a training: a named tuple of arrays."""

    @property
    def epoch(self) -> jax.Array:
        """Epochs done, int32 []."""
        ...


State = TypeVar("State", bound=Counted)


def run_epochs(
    phase: str,
    most: int,
    start: Callable[[], State],
    epoch: Callable[[State], tuple[State, dict[str, jax.Array]]],
    *,
    progress: Progress | None = None,
    state: State | None = None,
    save: Callable[[State], None] | None = None,
    figures: tuple[str, ...] = (),
) -> tuple[State, dict[str, np.ndarray]]:
    """Runs ``epoch`` until ``most`` are done.

    The host waits for an epoch only where it has to tell or to save, and then while the next one runs; where it has
    neither to do, it waits once.

    Args:
      phase: what ``progress`` is told that the epochs are of.
      most: epochs of a whole run.
      start: makes the state before the first epoch.
      epoch: takes a state to the next one, and gives figures (floats []).
      progress: told of every epoch.
      state: where an earlier run of the same settings was; its epochs are left out.
      save: receives the state after every epoch.
      figures: what the history holds at least, and first.

    Returns:
      The last state, and each figure [E] over the epochs run here, NaN where an epoch lacks it.
    """
    reached, begin = (start(), 0) if state is None else (state, int(jax.device_get(state.epoch)))
    rows: list[dict[str, np.ndarray]] = []
    unsaved: list[State] = []

    def run() -> Iterator[dict[str, jax.Array]]:
        nonlocal reached
        for _ in range(begin, most):
            reached, row = epoch(reached)
            if save is not None:
                unsaved.append(reached)
            yield row

    for row in fetch_late(run(), watched=progress is not None or save is not None):
        rows.append(row)
        if progress is not None:
            progress(phase, begin + len(rows), most, {name: float(value) for name, value in row.items()})
        if save is not None:
            save(unsaved.pop(0))
    names = dict.fromkeys([*figures, *(name for row in rows for name in row)])
    return reached, {name: np.array([float(row.get(name, np.nan)) for row in rows]) for name in names}

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


Carried = TypeVar("Carried")
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


def run_stretches(
    phase: str,
    most: int,
    run: Callable[[int, Carried], tuple[Carried, dict[str, jax.Array]]],
    state: Carried,
    progress: Progress | None = None,
) -> tuple[Carried, dict[str, np.ndarray]]:
    """Runs ``most`` epochs of a program that does several: all at once, or one a call where ``progress`` is told.

    Without ``progress`` the host waits once; with it, for an epoch while the next one runs.

    Args:
      phase: what ``progress`` is told that the epochs are of.
      most: epochs there are.
      run: of a number of epochs E and the state, the next state and figures [E] by epoch.
      state: the one that the first epoch starts from.
      progress: called after every epoch with its loss and accuracy.

    Returns:
      The last state, and each figure [E] over all epochs.
    """
    stride = most if progress is None else 1
    rows: list[dict[str, np.ndarray]] = []

    def stretches() -> Iterator[dict[str, jax.Array]]:
        nonlocal state
        for _ in range(0, most, stride):
            state, row = run(stride, state)
            yield row

    for done, row in enumerate(fetch_late(stretches()), 1):
        rows.append(row)
        if progress is not None:
            progress(phase, done, most, {name: float(row[name][-1]) for name in ("loss", "accuracy")})
    return state, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

"""A phase of a defense: epochs over the defense set in one compiled program that can stop early by itself."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnp_jax.errors import DefenseError
from rnp_jax.fetching import fetch_late
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, run_epoch
from rnp_jax.types import Apply, Batch, Progress, Tree


class PhaseState(NamedTuple):
    """What an epoch changes."""

    trained: Tree
    batch_stats: Tree
    opt_state: optax.OptState
    epoch: jax.Array  # int32 []
    history: dict[str, jax.Array]  # [E, ...], rows from ``epoch`` on not yet written
    stopped: jax.Array  # bool []


@dataclass(frozen=True)
class Phase(ABC):
    """What distinguishes a phase. Phases that differ in numbers alone share one compilation: see ``jit_settings``."""

    name: str
    apply: Apply
    epochs: int
    batch_size: int
    shuffle: bool
    augment: Augment | None

    @abstractmethod
    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """The optimiser of the trained tree."""

    @abstractmethod
    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        """Scalar to minimise, with (moved batch statistics, metrics summed over the batch)."""

    def update(self, trained: Tree, updates: Tree, fixed: Tree) -> Tree:
        """The trained tree after a step."""
        del fixed
        return jax.tree.map(jnp.add, trained, updates)

    def prepare(self, batch: Batch, fixed: Tree, key: jax.Array) -> Batch:
        """What ``loss`` is given of a batch: its images augmented."""
        del fixed
        return batch if self.augment is None else batch._replace(images=self.augment(key, batch.images))

    def stops(self, metrics: dict[str, jax.Array]) -> jax.Array:
        """Whether the phase ends after an epoch with these means."""
        return ~jnp.isfinite(metrics["loss"])

    def halts(self, metrics: dict[str, jax.Array]) -> jax.Array | None:
        """Whether the phase ends at once, before a step whose batch has these means; None if it never does."""
        del metrics
        return None

    def record(self, trained: Tree, fixed: Tree, batch_stats: Tree) -> dict[str, jax.Array]:
        """Further rows of the history, from the trees at the end of an epoch."""
        del trained, fixed, batch_stats
        return {}


def run_phase(
    phase: Phase, trained: Tree, fixed: Tree, batch_stats: Tree, data: Batch, key: jax.Array, progress: Progress | None
) -> tuple[Tree, Tree, dict[str, np.ndarray], bool]:
    """Runs a phase to its end.

    Without ``progress`` the host waits at the end alone. With it, the same compiled program is called for each epoch,
    and the host waits for an epoch's figures while the next one runs.

    Returns:
      The trained tree, the moved batch statistics, the history [epochs run, ...], and whether it stopped by itself.
    """
    data = Batch(*jax.device_put(tuple(data)))
    state = _start(phase, trained, fixed, batch_stats)
    stride = phase.epochs if progress is None else 1

    def run() -> Iterator[tuple[int, dict[str, jax.Array], jax.Array]]:
        nonlocal state
        for until in range(stride, phase.epochs + 1, stride):
            state = _run_until(phase, state, fixed, data, key, jax.device_put(np.int32(until)))
            yield until, {name: state.history[name] for name in ("loss", "accuracy")}, state.stopped

    for until, rows, stopped in fetch_late(run()):
        if progress is not None:
            progress(phase.name, until, phase.epochs, {name: float(row[until - 1]) for name, row in rows.items()})
        if stopped:  # the epoch begun since then ended at once
            break
    history, epoch, stopped = jax.device_get((state.history, state.epoch, state.stopped))
    return state.trained, state.batch_stats, {name: rows[:epoch] for name, rows in history.items()}, bool(stopped)


@jit_settings()
def _start(phase: Phase, trained: Tree, fixed: Tree, batch_stats: Tree) -> PhaseState:
    history = {name: jnp.zeros((phase.epochs,), jnp.float32) for name in ("loss", "accuracy")}
    for name, row in jax.eval_shape(phase.record, trained, fixed, batch_stats).items():
        history[name] = jnp.zeros((phase.epochs, *row.shape), row.dtype)
    opt_state = phase.optimizer(1).init(trained)  # whatever its schedule, it starts alike
    return PhaseState(trained, batch_stats, opt_state, jnp.int32(0), history, jnp.bool_(False))


@jit_settings()
def _run_until(phase: Phase, state: PhaseState, fixed: Tree, data: Batch, key: Any, until: jax.Array) -> PhaseState:
    tx = phase.optimizer(-(-data.labels.shape[0] // phase.batch_size))

    def step(carry, batch: Batch, key: jax.Array):
        trained, batch_stats, opt_state, halted = carry
        batch = phase.prepare(batch, fixed, key)
        gradient, (moved, metrics) = jax.grad(phase.loss, has_aux=True)(trained, fixed, batch_stats, batch)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power in Adam's
            updates, advanced = tx.update(gradient, opt_state, trained)
        after: tuple[Tree, Tree, optax.OptState]
        after = (phase.update(trained, cast(Tree, updates), fixed), moved, advanced)
        halts = phase.halts(jax.tree.map(lambda total: total / len(batch.labels), metrics))
        if halts is not None:
            halted = halted | halts
            after = jax.tree.map(partial(jnp.where, halted), (trained, batch_stats, opt_state), after)
        return (*after, halted), metrics

    def epoch(state: PhaseState) -> PhaseState:
        carry = (state.trained, state.batch_stats, state.opt_state, state.stopped)
        epoch_key = jax.random.fold_in(key, state.epoch)
        carry, metrics = run_epoch(step, carry, data, epoch_key, batch_size=phase.batch_size, shuffle=phase.shuffle)
        trained, batch_stats, opt_state, halted = carry
        rows = {**metrics, **phase.record(trained, fixed, batch_stats)}
        history = {name: values.at[state.epoch].set(rows[name]) for name, values in state.history.items()}
        return PhaseState(trained, batch_stats, opt_state, state.epoch + 1, history, halted | phase.stops(metrics))

    return jax.lax.while_loop(lambda state: (state.epoch < until) & ~state.stopped, epoch, state)


def check_finite(phase: str, history: Mapping[str, np.ndarray]) -> None:
    """The loss stayed finite.

    Raises:
      DefenseError: it did not.
    """
    if not np.isfinite(history["loss"]).all():
        raise DefenseError(
            f"{phase} diverged: the loss became {history['loss'][-1]} in epoch {len(history['loss'])}; "
            "lower its learning rate, and check that the normalisation matches the checkpoint"
        )

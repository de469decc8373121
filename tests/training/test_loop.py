"""The loop over epochs, on a state that only counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.training.loop import run_epochs, run_stretches


class State(NamedTuple):
    total: jax.Array
    epoch: jax.Array


def start() -> State:
    return State(jnp.float32(0), jnp.int32(0))


def step(state: State) -> tuple[State, dict[str, jax.Array]]:
    """The second epoch alone has a figure of its own."""
    epoch = state.epoch + 1
    state = State(state.total + epoch.astype(jnp.float32), epoch)
    return state, {"total": state.total, **({"late": jnp.float32(7)} if epoch == 2 else {})}


def test_every_epoch_is_told_then_saved():
    calls = []
    state, history = run_epochs("count", 3, start, step, progress=lambda *row: calls.append(row), save=calls.append)
    assert [call[:3] for call in calls[::2]] == [("count", 1, 3), ("count", 2, 3), ("count", 3, 3)]
    assert [call[3] for call in calls[::2]] == [{"total": 1.0}, {"total": 3.0, "late": 7.0}, {"total": 6.0}]
    assert all(type(value) is float for call in calls[::2] for value in call[3].values())
    assert [(int(saved.epoch), float(saved.total)) for saved in calls[1::2]] == [(1, 1), (2, 3), (3, 6)]
    assert calls[-1] is state
    np.testing.assert_array_equal(history["total"], [1, 3, 6])
    np.testing.assert_array_equal(history["late"], [np.nan, 7, np.nan])


def never() -> State:
    raise AssertionError("a state to go on from needs no start")


def test_it_goes_on_from_a_state():
    told = []
    state, history = run_epochs(
        "count", 3, never, step, state=State(jnp.float32(3), jnp.int32(2)), progress=lambda *row: told.append(row)
    )
    assert told == [("count", 3, 3, {"total": 6.0})]
    assert float(state.total) == 6
    assert list(history) == ["total"]


def test_a_finished_run_has_an_empty_history():
    done = State(jnp.float32(6), jnp.int32(3))
    state, history = run_epochs("count", 3, never, step, state=done, figures=("loss", "total"))
    assert state is done
    assert {name: rows.shape for name, rows in history.items()} == {"loss": (0,), "total": (0,)}


def test_the_figures_asked_for_come_first():
    _, history = run_epochs("count", 2, start, step, figures=("late", "total"))
    assert list(history) == ["late", "total"]


class Noted:
    """A figure that notes when it is read."""

    def __init__(self, log: list[str], number: int):
        self.log, self.number = log, number

    def __float__(self) -> float:
        self.log.append(f"read {self.number}")
        return float(self.number)


def test_the_host_waits_for_an_epoch_while_the_next_one_runs_or_for_all_together():
    """Reading a figure waits for its epoch, and so does saving."""
    log: list[str] = []

    def epoch(state: State) -> tuple[State, Any]:
        log.append("run")
        return step(state)[0], {"total": Noted(log, log.count("run"))}

    read = ["read 1", "read 2", "read 3"]
    run_epochs("count", 3, start, epoch)
    assert log == ["run"] * 3 + read
    log.clear()
    run_epochs("count", 3, start, epoch, save=lambda state: log.append(f"save {int(state.epoch)}"))
    assert log == ["run", "run", "save 1", "run", "save 2", "save 3", *read]
    log.clear()
    run_epochs("count", 3, start, epoch, progress=lambda *_: log.append("tell"))
    assert log == ["run", "run", "read 1", "tell", "run", "read 2", "tell", "read 3", "tell", *read]


@pytest.mark.parametrize("watched", [False, True])
def test_all_epochs_are_one_call_or_one_each_where_they_are_told(watched: bool):
    lengths, told = [], []

    def run(epochs: int, total: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        lengths.append(epochs)
        after = total + 1 + jnp.arange(epochs, dtype=jnp.float32)
        return after[-1], {"loss": after, "accuracy": after / 10}

    progress = (lambda *row: told.append(row)) if watched else None
    state, history = run_stretches("count", 3, run, jnp.float32(0), progress)
    assert lengths == ([1, 1, 1] if watched else [3])
    assert float(state) == 3
    np.testing.assert_array_equal(history["loss"], [1, 2, 3])
    assert [row[:3] for row in told] == [("count", done, 3) for done in (1, 2, 3)] * watched
    assert [row[3]["loss"] for row in told] == [1.0, 2.0, 3.0] * watched

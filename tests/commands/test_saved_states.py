"""States of a training on disk."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.commands import saved_states
from rnp_jax.commands.attack import AttackOptions
from rnp_jax.commands.saved_states import SavedStates, open_states
from rnp_jax.errors import ConfigError, Interrupted
from rnp_jax.pipeline.run_log import RunLog


class State(NamedTuple):
    epoch: jax.Array
    weights: dict[str, jax.Array]
    key: jax.Array


def state(epoch: int) -> State:
    return State(jnp.int32(epoch), {"w": jnp.arange(3.0) * epoch}, jax.random.key(epoch))


def start() -> State:
    return state(0)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(saved_states, "SAVE_EVERY", 0.0)


def test_the_last_state_comes_back_whole(at_once, tmp_path, lines):
    states = SavedStates(tmp_path / "run.training", {"seed": 1})
    for epoch in (9, 10):
        states.save(state(epoch))
        assert [path.name for path in states.list()] == [str(epoch)]
    found = SavedStates(tmp_path / "run.training", {"seed": 1}).resume(True, start, 20, lines.append)
    assert found is not None
    assert lines == ["continuing after epoch 10 of 20: 50% is done already"]
    expected = state(10)
    assert int(found.epoch) == 10
    np.testing.assert_array_equal(found.weights["w"], expected.weights["w"])
    assert jax.random.key_data(found.key).tolist() == jax.random.key_data(expected.key).tolist()
    jax.random.split(found.key)  # a key, not its numbers


def test_states_are_listed_by_number_and_other_files_are_left_alone(tmp_path):
    for name in ("10", "9", "notes", "9.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    assert [path.name for path in SavedStates(tmp_path, {}).list()] == ["9", "10"]


def test_nothing_is_saved_before_a_minute_has_passed(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(saved_states.time, "perf_counter", lambda: now)
    states = SavedStates(tmp_path / "run.training", {})
    now = 100.0 + saved_states.SAVE_EVERY - 1
    states.save(state(1))
    assert states.list() == []
    now += 2
    states.save(state(2))
    states.save(state(3))
    assert [path.name for path in states.list()] == ["2"]


def test_nothing_to_go_on_from(tmp_path, lines):
    states = SavedStates(tmp_path / "run.training", {})
    assert states.resume(False, start, 20, lines.append) is None
    assert lines == []
    assert states.tell() == "no state is saved yet (one is every 60 s), so the same command begins again"
    assert states.resume(True, start, 20, lines.append) is None
    assert lines == [f"no saved state in {tmp_path / 'run.training'}: starting with the first epoch"]
    states.remove()


def test_a_state_of_other_settings_is_refused(at_once, tmp_path, lines):
    folder = tmp_path / "run.training"
    states = SavedStates(folder, {"seed": 1, "rate": 0.1})
    states.save(state(2))
    assert states.tell() == f"the state after epoch 2 is in {folder}; --resume continues from it"
    with pytest.raises(ConfigError, match=r"2 was saved by a run with different rate, width; use the same options"):
        SavedStates(folder, {"seed": 1, "rate": 0.2, "width": 3}).resume(True, start, 20, lines.append)
    states.remove()
    assert not folder.exists()


def test_states_lie_beside_the_checkpoint_and_know_the_options_of_their_run(at_once, tmp_path, lines):
    """Neither where the checkpoint goes nor whether it is resumed makes another run."""
    path = tmp_path / "victim.pt"
    states = open_states(str(path), AttackOptions("badnets", str(path), seed=3))
    assert states.folder == tmp_path / "victim.training"
    states.save(state(2))
    same = AttackOptions("badnets", "elsewhere.pt", seed=3, resume=True)
    found = open_states(str(path), same).resume(True, start, 20, lines.append)
    assert found is not None
    assert int(found.epoch) == 2
    with pytest.raises(ConfigError, match="a run with different attack, seed; use the same options"):
        open_states(str(path), AttackOptions("blend", str(path), seed=4)).resume(True, start, 20, lines.append)


def test_going_on_gives_the_last_state_and_bars(at_once, tmp_path, capsys):
    states = SavedStates(tmp_path / "run.training", {})
    states.save(state(2))
    with states.going_on(True, start, 5, RunLog()) as (found, bars):
        assert found is not None
        assert int(found.epoch) == 2
        bars("train", 3, 5, {"loss": 0.5})
    error = capsys.readouterr().err
    assert "continuing after epoch 2 of 5: 40% is done already\n" in error
    assert "train epoch 3/5  loss 0.5\n" in error
    assert "--resume" not in error


def test_an_interrupt_tells_where_the_last_state_is(at_once, tmp_path):
    states = SavedStates(tmp_path / "run.training", {})

    def interrupted():
        with states.going_on(False, start, 5, RunLog()) as (found, _):
            assert found is None
            states.save(state(1))
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=f"the state after epoch 1 is in {states.folder}; --resume continues from it"):
        interrupted()

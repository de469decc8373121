import os
from collections import Counter
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.defenses import METHODS
from rnp_jax.defenses.method import compute_anew
from rnp_jax.defenses.pam import PamConfig
from rnp_jax.errors import DiskFullError, Interrupted
from rnp_jax.pipeline import keeping
from rnp_jax.pipeline.keeping import digest_arrays, keep_stages
from rnp_jax.pipeline.packing import pack
from rnp_jax.pipeline.run_log import RunLog
from tests.defenses import test_auto, test_nc
from tests.inversion.planted import rows_data

MINE = {"checkpoint": "a", "options": "b"}


@pytest.fixture(autouse=True)
def keep_everything(monkeypatch):
    monkeypatch.setattr(keeping, "WORTH", 0.0)


@pytest.fixture
def calls() -> list[str]:
    return []


def interrupted(folder, calls, belongs=MINE, scale=1.0) -> str:
    """Runs two stages of three, and is interrupted in the last; what the interrupt says."""
    with pytest.raises(Interrupted) as stopped:
        run(folder, calls, belongs, scale, stop=True)
    return str(stopped.value)


def run(folder, calls, belongs=MINE, scale=1.0, *, stop=False):
    def compute(name, array):
        calls.append(name)
        if stop and name == "third":
            raise KeyboardInterrupt
        return {"twice": 2 * array, "name": name}

    array = scale * jnp.arange(3.0)
    with keep_stages(folder, belongs, RunLog()) as keep:
        for name in ("first", "second", "third"):
            found, _ = keep(name, partial(compute, name, array))
            array = found["twice"]
    return array


def test_what_was_finished_is_taken_and_the_rest_is_computed(tmp_path, calls, capsys):
    told = interrupted(tmp_path, calls)
    assert told == f"{tmp_path / 'states'} keeps what is finished (first, second); the same command goes on from there"
    assert calls == ["first", "second", "third"]
    calls.clear()
    np.testing.assert_array_equal(run(tmp_path, calls), 8 * np.arange(3.0))
    assert calls == ["third"]
    assert "second: taken from the interrupted run, which spent 0 s on it\n" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def stop_after(folder, act) -> None:
    """Acts with a fresh ``keep``, and is interrupted."""

    def run():
        with keep_stages(folder, MINE, RunLog()) as keep:
            act(keep)
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run()


def test_a_stage_that_is_entered_again_has_a_state_of_its_own(tmp_path):
    found = []
    for _ in range(2):
        stop_after(tmp_path, lambda keep: found.extend(keep("pass", partial(int, number))[0] for number in range(3)))
    assert found == [0, 1, 2, 0, 1, 2]


def test_the_seconds_are_those_of_the_run_that_computed(tmp_path):
    found = []
    for _ in range(2):
        stop_after(tmp_path, lambda keep: found.append(keep("a", partial(int, 1))[1]))
    assert found[0] == found[1] > 0


def test_short_stages_are_not_worth_it(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(keeping, "WORTH", 5.0)
    assert interrupted(tmp_path, calls) == "no stage of 5 s or more was finished, so the same command begins again"
    assert os.listdir(tmp_path) == []


def test_states_of_another_run_are_left_aside_with_a_note(tmp_path, calls, capsys):
    interrupted(tmp_path, calls)
    calls.clear()
    interrupted(tmp_path, calls, {**MINE, "options": "c"})
    assert calls == ["first", "second", "third"]
    assert "is of a run with another options: it is not used" in " ".join(capsys.readouterr().err.split())
    calls.clear()
    interrupted(tmp_path, calls)  # and are there for whoever goes back to it
    assert calls == ["third"]
    run(tmp_path, calls)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"x" + content, lambda _: b""])
def test_a_damaged_state_is_set_aside_with_a_note(damage, tmp_path, calls, capsys):
    interrupted(tmp_path, calls)
    (path,) = tmp_path.rglob("second-1.state")
    path.write_bytes(damage(path.read_bytes()))
    calls.clear()
    interrupted(tmp_path, calls)
    assert calls == ["second", "third"]
    assert "second-1.unused is not used: it is damaged" in "".join(capsys.readouterr().err.split("\n"))
    assert path.with_suffix(".unused").exists()


def test_a_state_of_other_numbers_is_set_aside(tmp_path, calls, capsys):
    interrupted(tmp_path, calls)
    calls.clear()
    interrupted(tmp_path, calls, scale=3.0)
    assert calls == ["first", "second", "third"]
    assert "the stage was given other numbers then" in capsys.readouterr().err


def test_what_cannot_be_kept_or_finds_no_room_is_computed_again(tmp_path, calls, capsys, monkeypatch):
    found = []
    stop_after(tmp_path, lambda keep: found.extend(keep("odd", partial(lambda: len))))
    assert found[0] is len
    assert "odd-1 is not kept, and would be computed again: a builtins" in capsys.readouterr().err

    def fail(*_):
        raise DiskFullError("no room")

    monkeypatch.setattr(keeping, "_write", fail)
    interrupted(tmp_path, calls)
    assert "first-1 is not kept, and would be computed again: no room" in capsys.readouterr().err


def test_an_error_leaves_the_states(tmp_path):
    with pytest.raises(ZeroDivisionError):
        stop_after(tmp_path, lambda keep: [keep(name, partial(divmod, 1, size)) for name, size in (("a", 1), ("b", 0))])
    assert [path.name for path in tmp_path.rglob("*.state")] == ["a-1.state"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(3, np.float32), np.zeros(3, np.int32)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (jax.random.key(1), jax.random.key(2)),
        ({"a": jnp.ones(2)}, {"a": jnp.zeros(2)}),
    ],
)
def test_digests_tell_arrays_apart(one, other):
    assert digest_arrays(one) != digest_arrays(other)
    assert digest_arrays((one, len, "text")) == digest_arrays((one, max, 3))


PAM = PamConfig(test_nc.CONFIG.inversion, warp=test_nc.CONFIG.warp, rounds=2, epochs=1, batch_size=16)


@pytest.mark.parametrize(
    ("name", "config", "stages"),
    [
        ("nc", test_nc.CONFIG, {"invert": 5, "distil": 1}),
        ("pam", PAM, {"invert": 7, "pam": 2}),
        ("auto", test_auto.CONFIG, {"invert": 5, "distil": 1, "corrupt": 1, "check": 2}),
    ],
)
def test_each_search_and_each_distillation_is_a_stage_of_its_own(name, config, stages, tmp_path, monkeypatch):
    """Interrupted after every stage, the outcome is the same to the bit as without any interruption."""
    computed, stop = [], False

    def compute(stage, call):
        if stop and computed:
            raise KeyboardInterrupt
        computed.append(stage)
        return compute_anew(stage, call)

    def defend():
        computed.clear()
        given = (test_nc.NETWORK, test_nc.planted(), rows_data(), test_nc.KEY, config)
        with keep_stages(tmp_path, MINE, RunLog(quiet=True)) as keep:
            return pack(replace(METHODS[name](*given, holdout=test_nc.HELD, keep=keep), timing={}))

    monkeypatch.setattr(keeping, "compute_anew", compute)
    expected, whole, stop = defend(), tuple(computed), True
    assert Counter(whole) == stages
    for stage in whole[:-1]:
        with pytest.raises(Interrupted):
            defend()
        assert computed == [stage]
    outcome = defend()
    assert outcome.form == expected.form
    for found, wanted in zip(outcome.arrays, expected.arrays, strict=True):
        np.testing.assert_array_equal(found, wanted)

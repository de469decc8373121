"""What the call of a method does for all of them, seen by methods made here."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses import Chooses, Defended, Method, Pairs, Task
from rnp_jax.defenses import method as module
from rnp_jax.defenses.result import NO_CANDIDATES, Choice
from rnp_jax.errors import DefenseError

KEY = jax.random.key(0)


@dataclass(frozen=True)
class Settings:
    """Of the methods below."""

    text: str = "default"


def leave(task: Task, config: Settings) -> Defended:
    """Changes nothing, and says which settings it had."""
    return Defended(task.variables, {}, "weights", NO_CANDIDATES, Choice(pruned=0, rule=config.text))


def make(run=leave, **fields) -> Method:
    return Method("mine", "Mine", "a summary", "a basis", run, **{"defaults": Settings(), **fields})


def call(method: Method, features: SimpleNamespace, **options) -> Defended:
    return method(features.network, features.variables, features.data, KEY, **options)


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that stands still until it is told otherwise."""
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: found.now))
    return found


def test_it_runs_with_its_defaults_or_with_what_is_given(features):
    assert call(make(), features).choice.rule == "default"
    assert call(make(), features, config=Settings("given")).choice.rule == "given"


def test_everything_given_reaches_the_task(features):
    seen = []

    def run(task: Task, config: Settings) -> Defended:
        seen.append(task)
        return leave(task, config)

    given = {
        "holdout": features.holdout,
        "augment": lambda _, images: images,
        "progress": lambda *_: None,
        "pairs": Pairs(np.zeros((1, 1, 1, 6)), np.ones((1, 1, 1, 6))),
    }
    call(make(run), features, **given)
    (task,) = seen
    assert (task.network, task.data, task.key) == (features.network, features.data, KEY)
    assert {name: getattr(task, name) for name in given} == given
    assert (task.timing, task.history, task.stops, task.warnings) == ({}, {}, {}, [])


def test_masks_are_baked_once_and_before_it_runs(features, monkeypatch):
    like = masks.filters(features.variables["masks"])
    own = {name: jnp.linspace(0.5, 1, len(mask)) for name, mask in like.items()}
    masked = masks.apply_filters(features.variables, own)
    expected, calls = masks.bake(masked, features.network.placement), []

    def bake(variables, placement):
        calls.append(placement)
        return expected

    def run(task: Task, config: Settings) -> Defended:
        assert calls == [features.network.placement]
        assert task.variables is expected
        return leave(task, config)

    monkeypatch.setattr(masks, "bake", bake)
    found = make(run)(features.network, masked, features.data, KEY)
    assert calls == [features.network.placement]
    assert found.variables is expected


def test_baked_masks_leave_the_function_as_it_was(features):
    own = {name: mask * 0.7 for name, mask in masks.filters(features.variables["masks"]).items()}
    masked = masks.apply_filters(features.variables, own)
    found = make()(features.network, masked, features.data, KEY).variables
    assert set(masks.flatten(masks.filters(found["masks"]))) == {1.0}
    images = jnp.asarray(features.holdout.images)
    expected, logits = (features.network(each, images)[0] for each in (masked, found))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_without_weights_there_is_nothing_to_bake(features, monkeypatch):
    monkeypatch.setattr(masks, "bake", lambda *_: pytest.fail("nothing can be baked"))
    assert make()(features.network, None, features.data, KEY).variables is None


def test_a_stage_is_timed_and_entered_again_adds_up(features, clock):
    def run(task: Task, config: Settings) -> Defended:
        for name, seconds in (("one", 2.0), ("two", 3.0), ("one", 4.0)):
            with task.stage(name):
                clock.now += seconds
            clock.now += 50.0  # between stages no time is counted
        return replace(leave(task, config), timing={"three": 5.0})

    found = call(make(run), features)
    assert found.timing == {"one": 6.0, "two": 3.0, "three": 5.0}
    assert list(found.timing) == ["one", "two", "three"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_an_error(features, value):
    task = Task(features.network, features.variables, features.data, KEY)
    with pytest.raises(DefenseError, match=rf"tuning diverged: the loss became {value} in epoch 2; lower its"):
        task.note("tuning", {"loss": np.array([1.0, value])})
    assert task.history == {}
    with pytest.raises(DefenseError, match="tuning diverged"):
        task.note("tuning", {"loss": np.array([value, 1.0])})


def test_histories_and_ends_of_phases_are_collected(features):
    rows = {"loss": np.array([2.0, 1.0]), "accuracy": np.array([0.1, 0.9])}

    def run(task: Task, config: Settings) -> Defended:
        task.note("first", rows, "reached it after 2 epochs")
        task.note("second", rows)
        return replace(leave(task, config), history={"third": rows}, stops={"third": "ran out"})

    found = call(make(run), features)
    assert list(found.history) == ["first", "second", "third"]
    assert found.history["first"] == rows
    assert found.history["first"] is not rows
    assert found.stops == {"first": "reached it after 2 epochs", "third": "ran out"}


def test_a_warning_is_kept_once_and_in_order(features):
    def run(task: Task, config: Settings) -> Defended:
        for text in ("b", "a", "b"):
            task.warn(text)
        return replace(leave(task, config), warnings=("c",))

    assert call(make(run), features).warnings == ("b", "a", "c")


def test_the_ranking_is_the_method_s_unless_it_says_otherwise(features):
    def run(task: Task, config: Settings) -> Defended:
        return replace(leave(task, config), choice=Choice(pruned=0, rule="", ranking="path", threshold=0.3, budget=0.1))

    assert call(make(), features).choice == Choice(pruned=0, rule="default", ranking="mine")
    assert call(make(run), features).choice == Choice(pruned=0, rule="", ranking="path", threshold=0.3, budget=0.1)


def test_two_runs_share_nothing(features):
    def run(task: Task, config: Settings) -> Defended:
        task.warn("once")
        task.note("phase", {"loss": np.ones(1)}, "ended")
        return leave(task, config)

    first, second = (call(make(run), features) for _ in range(2))
    assert first.warnings == second.warnings == ("once",)
    assert first.history is not second.history
    assert first.stops is not second.stops


def test_the_group_of_settings():
    assert make().group == "mine"
    assert make(reads="holder").group == "holder"
    assert make(defaults=None).group == ""
    assert make(defaults=None, reads="holder").group == ""


def test_by_default_it_decides_nothing_about_filters():
    assert make().chooses(Settings()) == Chooses(False, False, None, "prune.number")
    assert (make().needs, make().changes, make().augments, make().control) == ("clean", "filters", False, False)


def test_a_stage_of_its_own_is_given_by_whoever_keeps_it(features):
    asked = []

    def keep(stage, compute):
        asked.append((stage, compute.func, compute.args, compute.keywords))
        return 7, 2.5

    def run(task: Task, config: Settings) -> Defended:
        assert [task.do("think", max, 1, 2, key=abs) for _ in range(2)] == [7, 7]
        assert task.do("compare", min, 3, 4) == 7
        return leave(task, config)

    done = call(make(run), features, keep=keep)
    assert asked == [("think", max, (1, 2), {"key": abs})] * 2 + [("compare", min, (3, 4), {})]
    assert done.timing == {"think": 5.0, "compare": 2.5}


def test_without_anybody_who_keeps_it_a_stage_is_computed_and_timed(features):
    def run(task: Task, config: Settings) -> Defended:
        assert task.do("think", max, 1, 2) == 2
        return leave(task, config)

    assert list(call(make(run), features).timing) == ["think"]

"""A method's run and its figures, on a small victim."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions
from rnp_jax.defenses import METHODS, ClpConfig, Method, Task, ThresholdConfig
from rnp_jax.defenses.result import NO_CANDIDATES, Choice, Defended
from rnp_jax.errors import DefenseError
from rnp_jax.evaluation.metrics import with_effectiveness
from rnp_jax.models import mlp_head
from rnp_jax.pipeline.case import Case, defended_model, open_case
from rnp_jax.pipeline.measuring import measure, run_method
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.options import RunOptions
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.sets import EvaluationSets, evaluation_sets, measure_within_memory
from rnp_jax.pipeline.suspect import Suspect

IMAGES = DataOptions(image_size=8, test_images=100)
THREE = ClpConfig(ThresholdConfig("number", number=3))


@pytest.fixture(scope="module")
def victim(small_victim) -> Suspect:
    return open_model(str(small_victim), SourceOptions(), ComputeOptions())


def ask(method: Method, settings=None, **options) -> Request:
    compute = options.pop("compute", ComputeOptions(batch_size=20))
    shared = RunOptions(images=IMAGES, defense=DefenseSetOptions(size=40, holdout=0.5), compute=compute, **options)
    return Request("a.pt", method, method.defaults if settings is None else settings, shared)


def open_quietly(model: Suspect, request: Request) -> Case:
    return open_case(model, request, RunLog(quiet=True))


@pytest.fixture(scope="module")
def case(victim) -> Case:
    return open_quietly(victim, ask(METHODS["clp"]))


class Recorder:
    """A method that keeps its task, and leaves the weights as they are."""

    def __init__(self, **made):
        self.made = made
        self.tasks: list[tuple[Task, object]] = []

    def __call__(self, task: Task, config: object) -> Defended:
        self.tasks.append((task, config))
        with task.stage("think"):
            task.warn("Mind this.")
        if task.progress is not None:
            task.progress("think", 1, 2, {"loss": 0.5})
        return Defended(task.variables, {}, "weights", NO_CANDIDATES, Choice(pruned=0, rule="as it was"), **self.made)


def recording(recorder: Recorder, **record) -> Method:
    return Method("try", "Try", "tries", "Tried.", recorder, defaults=THREE, **record)


def test_a_method_is_given_what_the_case_has(case, victim, tmp_path):
    recorder, log = Recorder(), RunLog(quiet=True)
    log.write_to(tmp_path / "run.log")
    log.timing["think"] = 100.0
    defended = run_method(case, ask(recording(recorder, augments=True), seed=3), log)
    ((task, config),) = recorder.tasks
    assert config is THREE
    assert (task.network, task.data, task.holdout) == (victim.network, case.data, case.holdout)
    assert task.pairs is None
    assert task.augment == ask(METHODS["rnp"]).options.augmentation
    np.testing.assert_array_equal(jax.random.key_data(task.key), jax.random.key_data(jax.random.key(3)))
    assert log.timing["think"] > 100
    assert defended.warnings == ("Mind this.",)
    said = [line.partition("Z ")[2] for line in (tmp_path / "run.log").read_text().splitlines()]
    assert said == [
        "mlp: try on 20 clean images",
        "WARNING: Only 20 clean images to learn from, for 10 classes: Try makes sense with 100 or more.",
        "think epoch 1/2  loss 0.5",
        "WARNING: Mind this.",
        "tuned: as it was",
    ]


def test_images_are_augmented_for_methods_that_do_it_alone(case, head):
    for augments in (False, True):
        recorder = Recorder()
        run_method(case, ask(recording(recorder, augments=augments)), RunLog(quiet=True))
        assert (recorder.tasks[0][0].augment is not None) == augments
    model = open_model(str(head), SourceOptions(), ComputeOptions())
    request = replace(ask(recording(recorder := Recorder(), augments=True)), checkpoint=str(head))
    options = replace(request.options, images=DataOptions(test_images=20))
    run_method(open_quietly(model, replace(request, options=options)), replace(request, options=options), RunLog(True))
    assert recorder.tasks[0][0].augment is None  # features are no images


@pytest.mark.parametrize("known", [True, False])
def test_only_a_control_sees_the_trigger(case, victim, known):
    request = ask(METHODS["clp"], trigger=TriggerOptions(attack="card" if known else "none"))
    own = open_quietly(victim, request)
    recorder = Recorder()
    run_method(own, replace(request, method=recording(recorder, needs="trigger")), RunLog(quiet=True))
    pairs = recorder.tasks[0][0].pairs
    if not known:
        assert pairs is None
        return
    triggered = own.sets.triggered
    assert pairs is not None
    assert triggered is not None
    np.testing.assert_array_equal(pairs.triggered, triggered.images)
    np.testing.assert_array_equal(pairs.clean, own.test.images[triggered.indices])
    assert (pairs.clean != pairs.triggered).any(axis=(1, 2, 3)).all()


def test_rounds_are_told_with_the_truth_where_it_is_known(victim, tmp_path):
    request = ask(METHODS["hid"])
    case = open_quietly(victim, request)
    assert case.poisoned is not None
    kept = (np.flatnonzero(case.poisoned)[:10], np.flatnonzero(~case.poisoned)[:30])
    recorder = Recorder(kept=(np.sort(np.concatenate(kept)), kept[1]))
    tried = replace(request, method=recording(recorder, needs="untrusted"))
    for truth, clean in ((case.poisoned, True), (None, False)):
        log = RunLog(quiet=True)
        log.write_to(tmp_path / f"{clean}.log")
        run_method(replace(case, variables=victim.variables, poisoned=truth), tried, log)
        said = [line.partition("Z ")[2] for line in (tmp_path / f"{clean}.log").read_text().splitlines()]
        assert said[0] == "mlp: try on 1297 untrusted images"
        assert said[-2:] == [
            "round 1: 40 images kept" + (", 75.0% of them truly clean" if clean else ""),
            "round 2: 30 images kept" + (", 100.0% of them truly clean" if clean else ""),
        ]


def test_the_figures_are_those_of_the_models_before_and_after(case, victim):
    request, log = ask(METHODS["clp"], THREE), RunLog(quiet=True)
    outcome = measure(case, defended := run_method(case, request, log), request, log)
    assert (defended.prunes, defended.choice.pruned) == (True, 6)
    (before,), (after,) = (case.sets.measure(victim, each) for each in (victim.variables, defended.variables))
    assert outcome.before.metrics == before.metrics
    assert outcome.after.metrics == with_effectiveness(before.metrics, after.metrics)
    assert after.metrics != before.metrics
    np.testing.assert_array_equal(outcome.after.triggered, after.triggered)
    assert outcome.sets is case.sets
    assert outcome.model.variables is defended.variables
    assert outcome.defended is defended
    assert outcome.batch_size == 20
    assert {"score", "choose", "measure"} <= set(log.timing)


def test_figures_that_are_known_are_not_measured_again(case, victim, monkeypatch):
    request, log = ask(METHODS["clp"], THREE), RunLog(quiet=True)
    defended = run_method(case, request, log)
    before, _ = measure_within_memory(case.sets, victim, victim.variables, 20)
    measured, original = [], EvaluationSets.measure

    def count(self, model, variables, variants=None, batch_size=None):
        measured.append(variables)
        return original(self, model, variables, variants, batch_size)

    monkeypatch.setattr(EvaluationSets, "measure", count)
    outcome = measure(case, defended, request, log, before)
    assert outcome.before is before
    assert measured == [defended.variables]


def test_batches_that_do_not_fit_are_halved_before_and_after(case, monkeypatch):
    request, log = ask(METHODS["clp"], THREE, compute=ComputeOptions(batch_size=64)), RunLog(quiet=True)
    defended = run_method(case, request, log)
    tried, original = [], EvaluationSets.measure

    def short(self, model, variables, variants=None, batch_size=None):
        tried.append(batch_size)
        if batch_size > 20:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return original(self, model, variables, variants, batch_size)

    monkeypatch.setattr(EvaluationSets, "measure", short)
    assert measure(case, defended, request, log).batch_size == 16
    assert tried == [64, 32, 16, 16]  # what fitted before the method is where the second one begins


def test_a_new_network_is_measured_on_its_own_features(victim):
    request, log = ask(METHODS["hid"]), RunLog(quiet=True)
    case = open_quietly(victim, request)
    head = mlp_head(16, (5,), 10)
    fresh, weights = head.init(jax.random.key(2)), victim.network.init(jax.random.key(1))
    extractor = (victim.network, weights)
    defended = Defended(
        fresh,
        masks.filters(fresh["masks"]),
        "score",
        NO_CANDIDATES,
        Choice(pruned=0, rule="none"),
        network=head,
        extractor=extractor,
    )
    outcome = measure(case, defended, request, log)
    model = defended_model(case, defended)
    assert model.extractor is not None
    sets = evaluation_sets(model, case.test, case.trigger)
    np.testing.assert_array_equal(outcome.sets.clean.images, sets.clean.images)
    assert outcome.sets.clean.images.shape == (100, 1, 1, 16)
    (after,), (before,) = sets.measure(model, fresh), case.sets.measure(victim, victim.variables)
    assert outcome.before.metrics == before.metrics
    assert outcome.after.metrics == with_effectiveness(before.metrics, after.metrics)


def test_a_method_that_cannot_do_its_work(case):
    request = ask(METHODS["oracle"])
    case = replace(case, trigger=None, sets=replace(case.sets, triggered=None, target=None))
    with pytest.raises(DefenseError, match="trigger"):
        run_method(case, request, RunLog(quiet=True))

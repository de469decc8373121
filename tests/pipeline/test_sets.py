"""What a network is judged on, against predictions made by hand."""

from dataclasses import dataclass, fields, replace

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions
from rnp_jax.errors import DefenseError
from rnp_jax.evaluation.predict import predict
from rnp_jax.pipeline.images import open_images
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.sets import (
    EvaluationSets,
    can_measure_together,
    evaluation_sets,
    measure_together,
    measure_within_memory,
    read_sets,
)
from rnp_jax.pipeline.trigger import open_trigger
from rnp_jax.types import Batch


@pytest.fixture(scope="module")
def model(head):
    return open_model(str(head), SourceOptions(), ComputeOptions())


@pytest.fixture(scope="module")
def images(model):
    return open_images(model, DataOptions(test_images=100), DefenseSetOptions(size=20, holdout=0.5))


@pytest.fixture(scope="module")
def sets(model, images) -> EvaluationSets:
    return evaluation_sets(model, images[2], open_trigger(model, TriggerOptions(), images[2]))


def test_a_head_s_sets_are_features(model, images, sets):
    data, holdout, test = images
    trigger = open_trigger(model, TriggerOptions(), test)
    read, held, judged = read_sets(model, data, holdout, test, trigger)
    for found, source in ((read, data), (held, holdout), (judged.clean, test)):
        np.testing.assert_array_equal(found.images[:, 0, 0], model.extractor(source.images))
        np.testing.assert_array_equal(found.labels, source.labels)
    assert judged.triggered is not None
    np.testing.assert_array_equal(judged.triggered.images[:, 0, 0], model.extractor(trigger.test.images))
    np.testing.assert_array_equal(judged.triggered.images, sets.triggered.images)
    assert judged.target == 0


def test_without_a_trigger(model, images):
    _, held, judged = read_sets(model, images[0], None, images[2], None)
    assert held is None
    assert (judged.triggered, judged.target) == (None, None)
    (measured,) = judged.measure(model, model.variables)
    assert (measured.metrics.asr, measured.metrics.ra, measured.metrics.acc_without_target) == (None, None, None)
    assert measured.metrics.acc.total == 100
    assert judged.part(30).triggered is None


def test_figures_are_shares_of_predictions(model, sets):
    like = masks.filters(model.variables["masks"])
    variants = [masks.ones(like), masks.keep(like, [0, 1, 2])]
    for variant, measured in zip(variants, sets.measure(model, model.variables, variants), strict=True):
        variables = masks.apply_filters(model.variables, variant)
        clean = predict(model.network, variables, sets.clean).labels[0]
        attacked = predict(model.network, variables, Batch(sets.triggered.images, sets.triggered.labels)).labels[0]
        assert measured.metrics.acc.count == (clean == sets.clean.labels).sum()
        assert measured.metrics.asr.count == (attacked == 0).sum()
        assert measured.metrics.ra.count == (attacked == sets.triggered.labels).sum()
        np.testing.assert_array_equal(measured.triggered, attacked)
    (own,) = sets.measure(model, model.variables, batch_size=20)
    assert own.metrics == sets.measure(model, model.variables, variants[:1])[0].metrics


def test_a_part_is_even_over_the_classes(sets):
    part = sets.part(27)
    assert sorted(np.bincount(part.clean.labels, minlength=10).tolist()) == [2] * 3 + [3] * 7
    assert np.bincount(part.triggered.labels, minlength=10).tolist() == [0] + [3] * 9
    assert part.target == sets.target
    for images, labels, wanted, index in zip(*part.triggered, strict=True):
        place = sets.triggered.indices.tolist().index(index)
        np.testing.assert_array_equal(images, sets.triggered.images[place])
        assert (labels, wanted) == (sets.triggered.labels[place], 0)


@dataclass(frozen=True, eq=False)
class Failing(EvaluationSets):
    """Sets on a device that fails above ``room`` images a batch."""

    room: int
    message: str
    tried: list[int]

    def measure(self, model, variables, variants=None, batch_size=None):
        self.tried.append(batch_size)
        if batch_size > self.room:
            raise jax.errors.JaxRuntimeError(self.message)
        return super().measure(model, variables, variants, batch_size)


def failing(sets: EvaluationSets, room: int, message: str = "RESOURCE_EXHAUSTED: out of memory") -> Failing:
    return Failing(*(getattr(sets, field.name) for field in fields(sets)), room, message, [])


def test_batches_are_halved_until_they_fit(model, sets):
    short = failing(sets, 5)
    found, size = measure_within_memory(short, model, model.variables, 64)
    assert (size, short.tried) == (4, [64, 32, 16, 8, 4])
    (expected,) = sets.measure(model, model.variables)
    assert found.metrics == expected.metrics
    np.testing.assert_array_equal(found.triggered, expected.triggered)
    assert measure_within_memory(failing(sets, 64), model, model.variables, 64)[1] == 64


def test_one_image_a_batch_that_does_not_fit_is_the_end(model, sets):
    short = failing(sets, 0)
    with pytest.raises(DefenseError, match="one image per batch: use a larger device"):
        measure_within_memory(short, model, model.variables, 5)
    assert short.tried == [5, 2, 1]


def test_another_error_of_the_device_passes(model, sets):
    broken = failing(sets, 5, "INTERNAL: the device is lost")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        measure_within_memory(broken, model, model.variables, 64)
    assert broken.tried == [64]


def test_models_of_one_network_are_measured_together(model, sets):
    without = replace(sets, triggered=None, target=None)
    cases = [(model, sets), (model, without)]
    assert can_measure_together(cases)
    found, size = measure_together(cases, 64)
    assert size == 64
    expected = [each.measure(model, model.variables)[0] for _, each in cases]
    assert [each.metrics for each in found] == [each.metrics for each in expected]


def test_other_images_or_another_network_are_measured_apart(model, sets):
    other = replace(model, network=replace(model.network, precision="bfloat16"))
    assert not can_measure_together([(model, sets), (other, sets)])
    assert not can_measure_together([(model, sets), (model, sets.part(5))])

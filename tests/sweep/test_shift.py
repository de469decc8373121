"""The covariate that explains outcomes: the trigger's step over the distance of the classes."""

from dataclasses import replace

import numpy as np
import pytest

from rnp_jax.attacks import TriggeredSet
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions, TriggerOptions
from rnp_jax.extractors import from_checkpoint
from rnp_jax.pipeline.images import open_data
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.sets import EvaluationSets, evaluation_sets
from rnp_jax.pipeline.trigger import open_trigger
from rnp_jax.sweep.shift import measure_shift
from rnp_jax.types import Batch


def vectors(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)[:, None, None]


def judged(clean: np.ndarray, labels: list[int], triggered: np.ndarray, indices: list[int]) -> EvaluationSets:
    rows = np.array(indices, np.int32)
    kept = np.array(labels, np.int32)
    return EvaluationSets(
        Batch(clean, kept), TriggeredSet(triggered, kept[rows], np.zeros(len(rows), np.int32), rows), 0
    )


@pytest.fixture(scope="module")
def model(head):
    return open_model(str(head), SourceOptions(), ComputeOptions())


def test_it_is_the_trigger_s_step_over_the_distance_of_the_class_means(model):
    clean = vectors((-1, 0), (1, 0), (3, 0), (5, 0))  # class means (0, 0) and (4, 0)
    moved = vectors((3, 3), (5, -3))
    assert measure_shift(model, judged(clean, [0, 0, 1, 1], moved, [2, 3])) == pytest.approx(3 / 4)
    three = vectors((0, 0), (3, 0), (0, 4))  # distances 3, 4 and 5
    assert measure_shift(model, judged(three, [0, 1, 2], vectors((3, 2)), [1])) == pytest.approx(2 / 4)


def test_where_there_is_no_distance_there_is_no_covariate(model):
    same = vectors((1, 1), (1, 1))
    assert measure_shift(model, judged(same, [0, 1], vectors((2, 2)), [1])) is None
    assert measure_shift(model, judged(same, [1, 1], vectors((2, 2)), [1])) is None
    assert measure_shift(model, EvaluationSets(Batch(same, np.array([0, 1])), None, None)) is None


def test_of_a_head_the_features_are_its_extractor_s(model):
    test = open_data(model, DataOptions(test_images=100), "test")
    trigger = open_trigger(model, TriggerOptions(), test)
    clean, triggered = model.extractor(test.images), model.extractor(trigger.test.images)
    means = [clean[test.labels == label].mean(0) for label in range(10)]
    apart = np.mean([np.linalg.norm(a - b) for a in means for b in means if a is not b])
    shift = np.linalg.norm(triggered - clean[trigger.test.indices], axis=1).mean() / apart
    assert measure_shift(model, evaluation_sets(model, test, trigger)) == pytest.approx(shift, rel=1e-5)


def test_of_a_whole_network_the_features_are_what_its_last_layer_reads(small_victim):
    model = open_model(str(small_victim), SourceOptions(), ComputeOptions())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
    labels, rows = [0, 0, 1, 1, 2, 2], [2, 5]
    moved = images[rows] // 2
    extractor = from_checkpoint(small_victim)
    expected = measure_shift(
        replace(model, extractor=extractor),
        judged(extractor(images)[:, None, None], labels, extractor(moved)[:, None, None], rows),
    )
    assert measure_shift(model, judged(images, labels, moved, rows)) == pytest.approx(expected, rel=1e-5)

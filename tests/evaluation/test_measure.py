"""Metrics of variants against counting by hand."""

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.attacks import TriggeredSet
from rnp_jax.evaluation.measure import measure_checkpoints, measure_variants
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch


@pytest.fixture(scope="module")
def setting():
    layers = (("hidden", 16), ("out", 3))
    network = Network(Architecture("mlp", 3, 0, layers, (2, 2, 3)))
    draw = np.random.default_rng(0)
    test = Batch(draw.integers(0, 256, (50, 2, 2, 3), np.uint8), draw.integers(0, 3, 50).astype(np.int32))
    labels = draw.integers(1, 3, 30).astype(np.int32)
    images = draw.integers(0, 256, (30, 2, 2, 3), np.uint8)
    triggered = TriggeredSet(images, labels, np.zeros(30, np.int32), np.arange(30, dtype=np.int32))
    return network, network.init(jax.random.key(0)), test, triggered


def predict_alone(network, variables, variant, images):
    logits, _ = network(masks.apply_filters(variables, variant), images)
    return np.asarray(logits.argmax(-1))


def test_every_figure_is_the_count_it_says(setting):
    network, variables, test, triggered = setting
    like = masks.filters(variables["masks"])
    variants = [masks.keep(like, []), masks.keep(like, [0, 3, 5, 7])]
    measured = measure_variants(network, variables, variants, test, triggered, target=0, batch_size=16)
    for variant, row in zip(variants, measured, strict=True):
        clean = predict_alone(network, variables, variant, test.images) == test.labels
        attacked = predict_alone(network, variables, variant, triggered.images)
        np.testing.assert_array_equal(row.triggered, attacked)
        metrics = row.metrics
        assert (metrics.acc.count, metrics.acc.total) == (clean.sum(), 50)
        assert [(each.count, each.total) for each in row.by_class] == [
            (clean[test.labels == label].sum(), (test.labels == label).sum()) for label in range(3)
        ]
        other = clean[test.labels != 0]
        assert (metrics.acc_without_target.count, metrics.acc_without_target.total) == (other.sum(), other.size)
        assert (metrics.asr.count, metrics.asr.total) == ((attacked == 0).sum(), 30)
        assert (metrics.ra.count, metrics.ra.total) == ((attacked == triggered.labels).sum(), 30)


def test_without_a_trigger_only_acc_is_known(setting):
    network, variables, test, _ = setting
    (measured,) = measure_variants(network, variables, [masks.filters(variables["masks"])], test)
    assert measured.metrics.acc.total == 50
    assert measured.metrics.asr is measured.metrics.ra is measured.metrics.acc_without_target is None
    assert measured.triggered.size == 0
    assert sum(each.count for each in measured.by_class) == measured.metrics.acc.count


def test_checkpoints_together_are_as_each_alone(setting):
    """With a trigger and a target of each one's own, or without."""
    network, _, test, triggered = setting
    checkpoints = [network.init(jax.random.key(seed)) for seed in range(3)]
    fewer = TriggeredSet(*(part[:11] for part in triggered))
    cases = [(triggered, 0), (None, None), (fewer, 2)]
    measured = measure_checkpoints(network, checkpoints, test, *map(list, zip(*cases, strict=True)), batch_size=16)
    for variables, (own, target), found in zip(checkpoints, cases, measured, strict=True):
        variants = [masks.filters(variables["masks"])]
        (expected,) = measure_variants(network, variables, variants, test, own, target, batch_size=16)
        assert found.metrics == expected.metrics
        assert found.by_class == expected.by_class
        np.testing.assert_array_equal(found.triggered, expected.triggered)
    (clean,) = measure_checkpoints(network, checkpoints[:1], test, [None], [None])
    assert (clean.metrics.asr, clean.triggered.size) == (None, 0)

"""The whole defense on blocks of colour with a bright corner as trigger; its choice of images against plain loops."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses.hid import HidConfig, hid, select_lowest
from rnp_jax.defenses.holder import HolderPruneConfig
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training.extended import Extended, extract, head_on, join
from rnp_jax.training.mixmatch import MixMatchConfig
from rnp_jax.training.simclr import SimclrConfig
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.training.views import Views
from rnp_jax.types import Batch

IMAGE = (4, 4, 3)
EXTRACTOR = Network(Architecture("mlp", 3, 0, (("0", 16), ("2", 12), ("4", 3)), IMAGE), (0.4,) * 3, (0.3,) * 3)
HEAD = head_on(EXTRACTOR, 3, hidden=(10,))
VIEWS = Views(scale=(0.8, 1.0), jitter=0.1, grayscale=0.0)
CONFIG = HidConfig(
    simclr=SimclrConfig(epochs=3, batch_size=20, learning_rate=0.05, projection=6),
    head=TrainConfig(epochs=12, batch_size=15, learning_rate=0.05),
    prune=HolderPruneConfig(threshold=ThresholdConfig("number", number=1)),
    mixmatch=MixMatchConfig(epochs=20, batch_size=15, learning_rate=0.05, ramp_epochs=10),
    rounds=2,
)


def draw(count: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 3
    images = rng.integers(0, 90, (count, *IMAGE), np.uint8)
    images[np.arange(count), ..., labels] += 120
    return Batch(images, labels)


def trigger(images: np.ndarray) -> np.ndarray:
    images = images.copy()
    images[:, -1, -1] = 255
    return images


@pytest.fixture(scope="module")
def problem() -> SimpleNamespace:
    images, labels = draw(90, 0)
    poisoned = np.arange(90) % 15 == 1  # all of class 1
    images[poisoned], labels[poisoned] = trigger(images[poisoned]), 0
    pretrained = EXTRACTOR.init(jax.random.key(0))
    seen = []
    result = hid(
        EXTRACTOR, HEAD, Batch(images, labels), jax.random.key(1), CONFIG, pretrained=pretrained, poisoned=poisoned,
        progress=lambda *row: seen.append(row),
    )  # fmt: skip
    return SimpleNamespace(
        data=Batch(images, labels), poisoned=poisoned, pretrained=pretrained, result=result, seen=seen
    )


def run(problem: SimpleNamespace, **options: Any):
    options = {"pretrained": problem.pretrained, **options}
    return hid(EXTRACTOR, HEAD, problem.data, jax.random.key(1), CONFIG, **options)


def assert_equal_trees(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert all(map(np.array_equal, jax.tree.leaves(actual), jax.tree.leaves(expected)))


def test_clean_images_are_classified_and_triggered_ones_too(problem):
    test = draw(60, 1)
    network, variables = Extended(EXTRACTOR, HEAD), join(problem.result.extractor, problem.result.head)
    for images in (test.images, trigger(test.images)):
        logits, _ = network(variables, jnp.asarray(images))
        assert (logits.argmax(-1) == test.labels).mean() > 0.95


def test_the_images_kept_are_those_the_pruned_head_fits_best(problem):
    first = problem.result.rounds[0]
    features = extract(EXTRACTOR, problem.pretrained, problem.data.images)
    loss = predict(HEAD, first.pruned.variables, Batch(features[:, None, None], problem.data.labels)).loss[0]
    for label in range(3):
        members = np.flatnonzero(problem.data.labels == label)
        kept = np.intersect1d(first.kept, members)
        assert len(kept) == round(len(members) / 2)
        assert loss[kept].max() <= loss[np.setdiff1d(members, kept)].min()


def test_every_round_prunes_on_and_what_was_pruned_stays_pruned(problem):
    first, second = problem.result.rounds
    assert (first.count, second.count) == (1, 2)
    filters = [np.asarray(masks.filters(each.head["masks"])["0"]) for each in (first, second)]
    assert (filters[0] == 0).sum() == 1
    assert (filters[1] == 0).sum() == 2
    assert (filters[1] <= filters[0]).all()
    features = extract(EXTRACTOR, problem.result.extractor, problem.data.images)[:, None, None]
    hidden = np.asarray(HEAD.activations(problem.result.head, jnp.asarray(features))["0"])
    np.testing.assert_array_equal((hidden > 0).any(0) & (filters[1] == 0), np.zeros(10, bool))


def test_the_extractor_is_trained_in_every_round(problem):
    states = [problem.pretrained, *(each.extractor for each in problem.result.rounds)]
    kernels = [np.asarray(state["params"]["0"]["kernel"]) for state in states]
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])
    assert_equal_trees(problem.result.extractor, states[-1])
    assert_equal_trees(problem.result.head, problem.result.rounds[-1].head)


def test_the_truth_is_recorded_and_used_for_nothing_else(problem):
    for each in problem.result.rounds:
        dirty = problem.poisoned[each.kept].sum()
        assert each.precision == pytest.approx(1 - dirty / len(each.kept))
        assert each.poison_kept == pytest.approx(dirty / problem.poisoned.sum())
    blind = run(problem)
    assert_equal_trees(blind.head, problem.result.head)
    assert_equal_trees(blind.extractor, problem.result.extractor)
    assert all(each.precision is None and each.poison_kept is None for each in blind.rounds)
    spotless = run(problem, poisoned=np.zeros(90, bool))
    assert all(each.precision == 1 and each.poison_kept is None for each in spotless.rounds)


def test_time_and_progress_are_told_by_step(problem):
    assert set(problem.result.timing) == {"cache", "head"}
    for each in problem.result.rounds:
        assert set(each.timing) == {"cache", "score", "choose", "select", "mixmatch"}
        assert min(each.timing.values()) >= 0
    steps = [(name, epoch, most) for name, epoch, most, _ in problem.seen]
    head, mixing = ([(name, i + 1, most) for i in range(most)] for name, most in (("head", 12), ("mixmatch", 20)))
    assert steps == head + mixing + mixing
    losses = [metrics["loss"] for *_, metrics in problem.seen]
    expected = [problem.result.history["head"]["loss"], *(each.history["loss"] for each in problem.result.rounds)]
    np.testing.assert_array_equal(losses, np.concatenate(expected))


def test_without_an_extractor_it_is_trained_on_the_images_alone(problem):
    relabelled = Batch(problem.data.images, (problem.data.labels + 1) % 3)
    first = run(problem, pretrained=None, views=VIEWS)
    other = hid(EXTRACTOR, HEAD, relabelled, jax.random.key(1), CONFIG, views=VIEWS)
    assert first.history["simclr"]["loss"].shape == (3,)
    np.testing.assert_array_equal(first.history["simclr"]["loss"], other.history["simclr"]["loss"])
    assert set(first.timing) == {"simclr", "cache", "head"}


LOSS = np.array([0.5, 0.1, 0.9, 0.2, 0.3, 0.8, 0.7])
LABELS = np.array([0, 0, 0, 0, 1, 1, 2])


def test_a_share_of_every_class_or_of_the_set():
    assert select_lowest(LOSS, LABELS, 0.5, per_class=True).tolist() == [1, 3, 4, 6]
    assert select_lowest(LOSS, LABELS, 0.5, per_class=False).tolist() == [0, 1, 3, 4]
    assert select_lowest(LOSS, LABELS, 0.01, per_class=True).tolist() == [1, 4, 6]
    assert select_lowest(LOSS, LABELS, 0.01, per_class=False).tolist() == [1]


@pytest.mark.parametrize("options", [{"keep": 0.0}, {"keep": 1.0}, {"rounds": 0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        HidConfig(**options)


def test_input_that_does_not_fit(problem):
    other = head_on(Network(Architecture("mlp", 3, 0, (("0", 5), ("2", 3)), IMAGE)), 3)
    images, labels = problem.data
    key = jax.random.key(0)
    with pytest.raises(ConfigError, match=r"\(1, 1, 5\), expected \(1, 1, 12\)"):
        hid(EXTRACTOR, other, problem.data, key, CONFIG)
    with pytest.raises(DataError, match="from 0 to 2"):
        hid(EXTRACTOR, HEAD, Batch(images, labels + 1), key, CONFIG)
    with pytest.raises(DataError, match=r"90 images with labels \(89,\)"):
        hid(EXTRACTOR, HEAD, Batch(images, labels[1:]), key, CONFIG)
    with pytest.raises(DataError, match=r"poisoned is int64 \(90,\)"):
        run(problem, poisoned=np.flatnonzero(np.ones(90)))

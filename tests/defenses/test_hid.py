"""The whole defense on blocks of colour with a bright corner as trigger; its choice of images against plain loops."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses.hid import HidConfig, hid, run_round, select_lowest
from rnp_jax.defenses.holder import HolderPruneConfig
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training.extended import Extended, extract, fit_probe, head_on, join
from rnp_jax.training.mixmatch import MixMatchConfig
from rnp_jax.training.simclr import SimclrConfig
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.training.views import Views
from rnp_jax.types import Batch, Variables

IMAGE = (4, 4, 3)
EXTRACTOR = Network(Architecture("mlp", 3, 0, (("0", 16), ("2", 12), ("4", 3)), IMAGE), (0.4,) * 3, (0.3,) * 3)
HEAD = head_on(EXTRACTOR, 3, hidden=(10,))
CONFIG = HidConfig(
    units=(10,),
    views=Views(scale=(0.8, 1.0), jitter=0.1, grayscale=0.0),
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
    seen, rounds = [], []

    def note(*arguments):
        rounds.append(run_round(*arguments))
        return rounds[-1]

    data = Batch(images, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[run_round.__module__], "run_round", note)
        result = hid(
            EXTRACTOR, pretrained, data, jax.random.key(1), CONFIG, progress=lambda *row: seen.append(row)
        )  # fmt: skip
    return SimpleNamespace(data=data, poisoned=poisoned, pretrained=pretrained, result=result, rounds=rounds, seen=seen)


def zeros(variables: Variables) -> np.ndarray:
    """Which of the head's ten hidden units are masked."""
    return np.asarray(masks.filters(variables["masks"])["0"]) == 0


def assert_equal_trees(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert all(map(np.array_equal, jax.tree.leaves(actual), jax.tree.leaves(expected)))


def without(variables: Variables, layer: str) -> Variables:
    return {**variables, "params": {name: leaf for name, leaf in variables["params"].items() if name != layer}}


def test_the_result_is_a_head_and_its_extractor(problem):
    result, last = problem.result, problem.rounds[-1]
    assert (result.network, result.kind, result.prunes) == (HEAD, "score", True)
    network, extractor = result.extractor
    assert network == EXTRACTOR
    assert_equal_trees(result.variables, last.head)
    assert_equal_trees(without(extractor, "4"), without(last.extractor, "4"))
    assert {name: row.shape for name, row in result.values.items()} == {"0": (10,)}
    np.testing.assert_array_equal(result.values["0"], last.pruned.values["0"])


def test_clean_images_are_classified_and_triggered_ones_too(problem):
    test, result = draw(60, 1), problem.result
    network, variables = Extended(EXTRACTOR, HEAD), join(result.extractor[1], result.variables)
    for images in (test.images, trigger(test.images)):
        logits, _ = network(variables, jnp.asarray(images))
        assert (logits.argmax(-1) == test.labels).mean() > 0.95


def test_the_extractor_s_last_layer_is_a_probe_of_the_kept_images(problem):
    kept = problem.result.kept[-1]
    _, extractor = problem.result.extractor
    labelled = Batch(problem.data.images[kept], problem.data.labels[kept])
    expected, _ = fit_probe(EXTRACTOR, problem.rounds[-1].extractor, labelled, jax.random.key(1), CONFIG.head)
    assert_equal_trees(extractor, expected)
    assert (predict(EXTRACTOR, extractor, labelled).labels[0] == labelled.labels).mean() > 0.95


def test_the_images_kept_are_those_the_pruned_head_fits_best(problem):
    first = problem.rounds[0]
    features = extract(EXTRACTOR, problem.pretrained, problem.data.images)
    loss = predict(HEAD, first.pruned.variables, Batch(features[:, None, None], problem.data.labels)).loss[0]
    for label in range(3):
        members = np.flatnonzero(problem.data.labels == label)
        kept = np.intersect1d(first.kept, members)
        assert len(kept) == round(len(members) / 2)
        assert loss[kept].max() <= loss[np.setdiff1d(members, kept)].min()


def test_every_round_s_images_are_told(problem):
    assert len(problem.result.kept) == len(problem.rounds) == 2
    for told, each in zip(problem.result.kept, problem.rounds, strict=True):
        np.testing.assert_array_equal(told, each.kept)
        assert (np.diff(told) > 0).all()


def test_every_round_prunes_on_and_what_was_pruned_stays_pruned(problem):
    first, second = (zeros(each.head) for each in problem.rounds)
    assert first.sum() == 1
    assert second.sum() == 2
    assert second[first].all()
    _, extractor = problem.result.extractor
    features = extract(EXTRACTOR, extractor, problem.data.images)[:, None, None]
    hidden = np.asarray(HEAD.activations(problem.result.variables, jnp.asarray(features))["0"])
    np.testing.assert_array_equal((hidden > 0).any(0) & second, np.zeros(10, bool))


def test_the_choice_counts_the_units_of_all_rounds_each_with_its_own_score(problem):
    result = problem.result
    order, count = result.candidates.order, result.choice.pruned
    assert (count, len(order)) == (2, 2)
    np.testing.assert_array_equal(np.sort(order), np.flatnonzero(zeros(result.variables)))
    for position, value, each in zip(order, result.candidates.values, problem.rounds, strict=True):
        assert zeros(each.pruned.variables)[position]
        assert value == each.pruned.values["0"][position] == each.pruned.values["0"].max()
    assert np.isnan(result.candidates.damage).all()
    expected = "the 1 highest scores of each layer, as requested, in each of 2 rounds"
    assert (result.choice.ranking, result.choice.rule) == ("hid", expected)
    assert (result.choice.holdout_acc_before, result.choice.holdout_acc_after) == (None, None)


def test_one_round_is_told_as_one(problem):
    once = hid(EXTRACTOR, problem.pretrained, problem.data, jax.random.key(1), replace(CONFIG, rounds=1))
    assert once.choice.rule == "the 1 highest scores of each layer, as requested"
    assert (once.choice.pruned, len(once.kept)) == (1, 1)
    np.testing.assert_array_equal(once.kept[0], problem.rounds[0].kept)
    assert_equal_trees(once.variables, problem.rounds[0].head)
    assert list(once.history) == ["head", "mixmatch"]


def test_the_extractor_is_trained_in_every_round(problem):
    states = [problem.pretrained, *(each.extractor for each in problem.rounds)]
    kernels = [np.asarray(state["params"]["0"]["kernel"]) for state in states]
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])


def test_the_same_key_gives_the_same_result(problem):
    again = hid(EXTRACTOR, problem.pretrained, problem.data, jax.random.key(1), CONFIG)
    assert_equal_trees(again.variables, problem.result.variables)
    assert_equal_trees(again.extractor[1], problem.result.extractor[1])
    other = hid(EXTRACTOR, problem.pretrained, problem.data, jax.random.key(2), CONFIG)
    assert not np.array_equal(
        other.variables["params"]["0"]["kernel"], problem.result.variables["params"]["0"]["kernel"]
    )


def test_time_and_progress_are_told_by_step(problem):
    result = problem.result
    assert set(result.timing) == {"cache", "head", "score", "choose", "select", "mixmatch", "probe"}
    assert min(result.timing.values()) > 0
    steps = [(name, epoch, most) for name, epoch, most, _ in problem.seen]
    head, mixing = ([(name, i + 1, most) for i in range(most)] for name, most in (("head", 12), ("mixmatch", 20)))
    assert steps == head + mixing + mixing
    assert list(result.history) == ["head", "mixmatch, round 1", "mixmatch, round 2"]
    losses = [metrics["loss"] for *_, metrics in problem.seen]
    np.testing.assert_array_equal(losses, np.concatenate([row["loss"] for row in result.history.values()]))
    for number, each in enumerate(problem.rounds, 1):
        np.testing.assert_array_equal(result.history[f"mixmatch, round {number}"]["loss"], each.history["loss"])


def test_a_round_s_warning_says_which_round(problem):
    nothing = replace(CONFIG, rounds=2, prune=HolderPruneConfig(threshold=ThresholdConfig("std", u=100.0)))
    found = hid(EXTRACTOR, problem.pretrained, problem.data, jax.random.key(1), nothing)
    assert found.warnings == tuple(f"Round {n}: Nothing was pruned: no filter met the rule." for n in (1, 2))
    assert (found.choice.pruned, len(found.candidates.order)) == (0, 0)


def test_without_an_extractor_it_is_trained_on_the_images_alone(problem):
    relabelled = Batch(problem.data.images, (problem.data.labels + 1) % 3)
    first, other = (
        hid(EXTRACTOR, None, data, jax.random.key(1), replace(CONFIG, rounds=1)) for data in (problem.data, relabelled)
    )
    assert first.history["simclr"]["loss"].shape == (3,)
    np.testing.assert_array_equal(first.history["simclr"]["loss"], other.history["simclr"]["loss"])
    assert set(first.timing) - set(problem.result.timing) == {"simclr"}
    views = replace(CONFIG, rounds=1, views=Views(scale=(0.3, 0.4), jitter=0.4, grayscale=0.5))
    changed = hid(EXTRACTOR, None, problem.data, jax.random.key(1), views)
    assert not np.array_equal(changed.history["simclr"]["loss"], first.history["simclr"]["loss"])


LOSS = np.array([0.5, 0.1, 0.9, 0.2, 0.3, 0.8, 0.7])
LABELS = np.array([0, 0, 0, 0, 1, 1, 2])


def test_a_share_of_every_class_or_of_the_set():
    assert select_lowest(LOSS, LABELS, 0.5, per_class=True).tolist() == [1, 3, 4, 6]
    assert select_lowest(LOSS, LABELS, 0.5, per_class=False).tolist() == [0, 1, 3, 4]
    assert select_lowest(LOSS, LABELS, 0.01, per_class=True).tolist() == [1, 4, 6]
    assert select_lowest(LOSS, LABELS, 0.01, per_class=False).tolist() == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.0}, "keep"),
        ({"rounds": 0}, "rounds"),
        ({"units": ()}, "at least one hidden layer"),
        ({"prune": HolderPruneConfig(threshold=ThresholdConfig("budget"))}, "needs clean held-out images"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        HidConfig(**options)


def test_input_that_does_not_fit(problem):
    images, labels = problem.data
    key = jax.random.key(0)
    with pytest.raises(DataError, match="from 0 to 2"):
        hid(EXTRACTOR, problem.pretrained, Batch(images, labels + 1), key, CONFIG)
    with pytest.raises(DataError, match=r"90 images with labels of shape \(89,\)"):
        hid(EXTRACTOR, problem.pretrained, Batch(images, labels[1:]), key, CONFIG)
    with pytest.raises(DataError, match=r"expected \[N, 4, 4, 3\]"):
        hid(EXTRACTOR, problem.pretrained, Batch(images[:, 1:], labels), key, CONFIG)

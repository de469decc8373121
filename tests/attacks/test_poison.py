import hashlib
import struct
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.attacks.badnets import BadNets
from rnp_jax.attacks.base import Attack
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.poison import (
    CHUNK,
    apply_attack,
    check_training_set,
    draw_plan,
    poison_training_set,
    trigger_test_set,
)
from rnp_jax.attacks.sig import Sig
from rnp_jax.attacks.wanet import WaNet
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.types import Batch

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)
GOAL = Goal(num_classes=10, target=3)
TRACES = []


@dataclass(frozen=True, kw_only=True)
class Invert(Attack):
    """Cheap, and counts how often it is traced."""

    def init(self, image_shape):
        del image_shape
        return {}

    def trigger(self, params, images, key):
        del params, key
        TRACES.append(images.shape)
        return 255 - images

    def cover(self, params, images, key):
        del params, key
        return images // 2


def cifar_like_labels(per_class=500):
    return np.tile(np.arange(10, dtype=np.int32), per_class)


@given(
    rate=st.floats(0.02, 0.6),
    cover_rate=st.floats(0, 0.3),
    seed=st.integers(0, 999),
    variant=st.sampled_from(["bb", "rnp"]),
    mapping=st.sampled_from(["all_to_one", "all_to_all"]),
    size=st.integers(60, 300),
)
@settings(deadline=None, derandomize=True, max_examples=30)
def test_dirty_label_plans_count_and_label_as_published(rate, cover_rate, seed, variant, mapping, size):
    labels = np.random.default_rng(seed).integers(0, 10, size)
    goal = Goal(num_classes=10, target=3, mapping=mapping)
    plan = draw_plan(labels, goal, rate=rate, cover_rate=cover_rate, seed=seed, variant=variant)
    count = round if variant == "bb" else int
    assert len(plan.indices) == count(rate * size)
    assert len(plan.cover) == count(cover_rate * size)
    assert plan.rate == len(plan.indices) / size
    used = np.concatenate([plan.indices, plan.cover])
    assert len(np.unique(used)) == len(used)
    assert used.min() >= 0
    assert used.max() < size
    assert (np.diff(plan.indices) > 0).all()
    expected = np.full(len(plan.indices), 3) if mapping == "all_to_one" else (labels[plan.indices] + 1) % 10
    np.testing.assert_array_equal(plan.labels, expected)
    assert plan.indices.dtype == plan.labels.dtype == plan.cover.dtype == np.int32


def test_dirty_label_draws_uniformly_with_the_target_class():
    labels = cifar_like_labels()
    plans = [draw_plan(labels, GOAL, rate=0.1, seed=seed) for seed in range(20)]
    counts = sum(np.bincount(labels[plan.indices], minlength=10) for plan in plans)
    assert counts.sum() == 20 * 500
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_clean_label_takes_the_count_from_the_target_class():
    labels = cifar_like_labels()
    plan = draw_plan(labels, GOAL, rate=0.08, seed=0, clean_label=True)
    assert len(plan.indices) == 400
    assert (labels[plan.indices] == 3).all()
    np.testing.assert_array_equal(plan.labels, labels[plan.indices])
    whole = draw_plan(labels, GOAL, rate=0.1, seed=0, clean_label=True)
    np.testing.assert_array_equal(whole.indices, np.flatnonzero(labels == 3))


def test_released_clean_label_poisons_what_the_draw_hits():
    labels = cifar_like_labels()
    dirty = draw_plan(labels, GOAL, rate=0.1, seed=5, variant="rnp")
    clean = draw_plan(labels, GOAL, rate=0.1, seed=5, variant="rnp", clean_label=True)
    np.testing.assert_array_equal(clean.indices, dirty.indices[labels[dirty.indices] == 3])
    np.testing.assert_array_equal(clean.labels, 3)
    assert 0.006 < clean.rate < 0.014


def test_seed_decides_the_plan_and_the_digest_tells():
    labels = cifar_like_labels(20)
    first, again, other = (draw_plan(labels, GOAL, rate=0.1, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.indices, again.indices)
    assert first.indices_sha256 == again.indices_sha256 != other.indices_sha256
    packed = struct.pack(f"<{len(first.indices)}i", *first.indices.tolist())
    assert first.indices_sha256 == hashlib.sha256(packed).hexdigest()


def test_rate_zero_poisons_nothing(digits):
    plan = draw_plan(digits[1], GOAL, rate=0.0, seed=0)
    batch = poison_training_set(*digits, plan, Invert(), {}, KEY)
    np.testing.assert_array_equal(batch.images, digits[0])
    np.testing.assert_array_equal(batch.labels, digits[1])


@pytest.mark.parametrize("clean_label", [False, True])
def test_poison_alters_planned_images_alone(digits, clean_label):
    images, labels = digits
    before = images.copy()
    plan = draw_plan(labels, GOAL, rate=0.05, cover_rate=0.2, seed=0, clean_label=clean_label)
    batch = poison_training_set(images, labels, plan, Invert(), {}, KEY)
    np.testing.assert_array_equal(batch.images[plan.indices], 255 - images[plan.indices])
    np.testing.assert_array_equal(batch.images[plan.cover], images[plan.cover] // 2)
    rest = np.setdiff1d(np.arange(len(images)), np.concatenate([plan.indices, plan.cover]))
    np.testing.assert_array_equal(batch.images[rest], images[rest])
    np.testing.assert_array_equal(batch.labels[plan.indices], 3)
    others = np.setdiff1d(np.arange(len(images)), plan.indices)
    np.testing.assert_array_equal(batch.labels[others], labels[others])
    np.testing.assert_array_equal(images, before)
    assert batch.labels.dtype == np.int32


def test_poison_with_wanet_covers_by_noise(digits):
    attack, (images, labels) = WaNet(), digits
    params = attack.init(SHAPE)
    plan = draw_plan(labels, GOAL, rate=0.1, cover_rate=0.2, seed=0)
    batch = poison_training_set(images, labels, plan, attack, params, KEY)
    np.testing.assert_array_equal(batch.images[plan.indices], attack.trigger(params, images[plan.indices], KEY))
    assert (batch.images[plan.cover] != attack.trigger(params, images[plan.cover], KEY)).any((1, 2, 3)).all()


def test_test_set_leaves_the_target_class_out(digits):
    images, labels = digits
    triggered = trigger_test_set(images, labels, GOAL, BadNets(), BadNets().init(SHAPE), KEY)
    np.testing.assert_array_equal(triggered.indices, np.flatnonzero(labels != 3))
    np.testing.assert_array_equal(triggered.labels, labels[labels != 3])
    np.testing.assert_array_equal(triggered.wanted, 3)
    assert (triggered.images != images[triggered.indices]).any(-1).sum((1, 2)).max() == 9


def test_all_to_all_test_set_keeps_every_image(digits):
    images, labels = digits
    goal = Goal(num_classes=10, mapping="all_to_all")
    triggered = trigger_test_set(images, labels, goal, Invert(), {}, KEY)
    np.testing.assert_array_equal(triggered.indices, np.arange(len(images)))
    np.testing.assert_array_equal(triggered.images, 255 - images)
    np.testing.assert_array_equal(triggered.wanted, (labels + 1) % 10)


def test_any_number_of_images_shares_one_trace():
    for count in (0, 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3):
        images = np.random.default_rng(count).integers(0, 256, (count, 5, 4, 1), np.uint8)
        np.testing.assert_array_equal(apply_attack(Invert(), {}, images, KEY), 255 - images)
    assert TRACES.count((CHUNK, 5, 4, 1)) == 1


def test_noise_differs_between_chunks_too(digits):
    attack = WaNet()
    images = np.repeat(digits[0][:1], CHUNK + 1, axis=0)
    noisy = apply_attack(attack, attack.init(SHAPE), images, KEY, role="cover")
    assert (noisy[0] != noisy[CHUNK]).any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rate": 1.2}, ConfigError, "rate is 1.2, expected a number between 0 and 1"),
        ({"rate": 0.1, "cover_rate": -1}, ConfigError, "cover_rate is -1"),
        ({"rate": 0.7, "cover_rate": 0.4}, ConfigError, r"ask for 70 \+ 40 of 100 images"),
        ({"rate": 0.1, "variant": "cd"}, ConfigError, "variant is 'cd', expected one of bb, rnp"),
        ({"rate": 0.004}, DataError, "poisons none of 100 images; raise it above 0.01"),
        ({"rate": 0.2, "clean_label": True}, DataError, "which has only 10; lower rate to at most 0.1"),
    ],
)
def test_impossible_plans_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        draw_plan(cifar_like_labels(10), GOAL, seed=0, **options)


def test_clean_label_all_to_all_is_refused():
    with pytest.raises(ConfigError, match="use all_to_one"):
        draw_plan(cifar_like_labels(1), Goal(num_classes=10, mapping="all_to_all"), rate=0.1, seed=0, clean_label=True)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 10]), "range from 0 to 10, expected 0 to 9; check num_classes"),
        (np.array([-1, 2]), "range from -1 to 2"),
        (np.array([0.0, 1.0]), "float64"),
        (np.zeros((2, 2), np.int32), r"\[2, 2\], expected a non-empty vector"),
        (np.zeros(0, np.int32), r"\[0\], expected a non-empty vector"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        draw_plan(labels, GOAL, rate=0.5, seed=0)


def test_sets_that_do_not_belong_together_are_refused(digits):
    images, labels = digits
    plan = draw_plan(labels, GOAL, rate=0.1, seed=0)
    with pytest.raises(DataError, match="10 images and 300 labels for a plan of 300"):
        poison_training_set(images[:10], labels, plan, Invert(), {}, KEY)
    with pytest.raises(DataError, match="10 images with 300 labels"):
        trigger_test_set(images[:10], labels, GOAL, Invert(), {}, KEY)
    with pytest.raises(DataError, match="all 2 test images are of the target class 3"):
        trigger_test_set(images[:2], np.array([3, 3]), GOAL, Invert(), {}, KEY)


def test_appended_images_come_behind_the_clean_ones(digits):
    images, labels = digits
    plan = draw_plan(labels, GOAL, rate=0.1, cover_rate=0.05, seed=1, append=True)
    made = poison_training_set(images, labels, plan, Invert(), {}, KEY)
    np.testing.assert_array_equal(made.images[:300], images)
    np.testing.assert_array_equal(made.images[300:330], 255 - images[plan.indices])
    np.testing.assert_array_equal(made.images[330:], images[plan.cover] // 2)
    np.testing.assert_array_equal(made.labels[:300], labels)
    np.testing.assert_array_equal(made.labels[300:], [*[3] * 30, *labels[plan.cover]])


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("attack", [Invert(), Sig()])
def test_what_was_poisoned_is_held_against_the_plan(digits, attack, append):
    clean = Batch(*digits)
    rate = 0.05 if attack.clean_label else 0.1
    plan = draw_plan(
        clean.labels, GOAL, rate=rate, cover_rate=0.1, seed=0, clean_label=attack.clean_label, append=append
    )
    made = poison_training_set(clean.images, clean.labels, plan, attack, attack.init(SHAPE), KEY)
    check_training_set(clean, made, plan, attack, GOAL)
    free = np.setdiff1d(np.arange(300), [*plan.indices, *plan.cover])[0]
    labels, images = made.labels.copy(), made.images.copy()
    labels[plan.cover[0]] += 1
    images[free, 0, 0, 0] += 1
    with pytest.raises(
        DataError, match=f"1 labels of the poisoned set are wrong, the first that of image {plan.cover[0]}"
    ):
        check_training_set(clean, made._replace(labels=labels), plan, attack, GOAL)
    with pytest.raises(DataError, match="outside the"):
        check_training_set(clean, made._replace(images=images), plan, attack, GOAL)
    with pytest.raises(DataError, match=f"has {len(labels) - 1} images, expected {len(labels)}"):
        check_training_set(clean, Batch(images[1:], labels[1:]), plan, attack, GOAL)

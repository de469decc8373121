import jax
import numpy as np
import pytest

from rnp_jax.attacks.adversarial import Adversarial, Ball
from rnp_jax.attacks.cl import LabelConsistent
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.means import Means
from rnp_jax.attacks.poison import trigger_test_set
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training.backdoor import PoisonConfig, poison_once, train_backdoored
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Batch
from tests.compiled import watch_compilations

KEY = jax.random.key(0, impl="rbg")
NETWORK = Network(Architecture("mlp", 10, 0, (("0", 32), ("2", 10)), (8, 8, 3)))
CONFIG = TrainConfig(epochs=6, batch_size=64, learning_rate=0.05)
GOAL = Goal(num_classes=10, target=3)
QUICK = {"steps": 20, "robust_steps": 2, "robust_step": 4.0}


def digits(split="train") -> Batch:
    data = load_digits(split, (8, 8))
    return Batch(data.images, data.labels)


@pytest.fixture(scope="module")
def surrogate():
    trained, _ = train(NETWORK, NETWORK.init(KEY), digits(), jax.random.key(1, impl="rbg"), CONFIG)
    return trained


def means_with(variables, asked, goal=GOAL) -> Means:
    def surrogate(apply):
        asked.append(apply)
        return variables

    return Means(NETWORK, digits(), goal, KEY, surrogate, lambda *_: None)


def trigger(attack, images):
    return np.asarray(attack.trigger(attack.init(images.shape[1:]), images, KEY))


def test_corners_get_the_published_patches():
    triggered = trigger(LabelConsistent(), np.full((1, 9, 12, 3), 100, np.uint8))[0]
    right = np.uint8([[0, 0, 255], [0, 255, 0], [255, 0, 255]])
    left = np.uint8([[255, 0, 0], [0, 255, 0], [255, 0, 255]])
    for channel in range(3):
        for rows in (slice(3), slice(-3, None)):
            np.testing.assert_array_equal(triggered[rows, :3, channel], left)
            np.testing.assert_array_equal(triggered[rows, -3:, channel], right)
    assert (triggered != 100).all(-1).sum() == 36
    np.testing.assert_array_equal(triggered, triggered[:, ::-1])


def test_the_authors_patch_is_bottom_right():
    triggered = trigger(LabelConsistent(variant="orig"), np.full((1, 8, 8, 1), 100, np.uint8))[0, :, :, 0]
    np.testing.assert_array_equal(triggered[5:, 5:], [[0, 0, 255], [0, 255, 0], [255, 0, 255]])
    assert (triggered != 100).sum() == 9


def test_a_smaller_amplitude_adds_and_takes_and_clips():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    full, part = (LabelConsistent(amplitude=a).init((8, 8, 3))["signal"] for a in (255.0, 64.0))
    np.testing.assert_array_equal(np.sign(full) * 64, part)
    expected = np.clip(images.astype(np.int32) + part.astype(np.int32), 0, 255)
    np.testing.assert_array_equal(trigger(LabelConsistent(amplitude=64.0), images), expected)


def test_crafted_images_keep_to_the_bound_and_are_harder(surrogate):
    data, asked = digits(), []
    images = data.images[data.labels == 3]
    attack = LabelConsistent(epsilon=7.5, **QUICK)
    crafted = attack.craft(attack.init((8, 8, 3)), images, means_with(surrogate, asked))
    assert asked == [Adversarial(NETWORK, Ball(epsilon=8.0, step=4.0, steps=2))]
    assert crafted.dtype == np.uint8
    moved = np.abs(crafted.astype(np.int32) - images)
    assert moved.max() == 7  # whole levels within 7.5
    labels = np.full(len(images), 3)
    before, after = (np.asarray(cross_entropy(NETWORK(surrogate, x)[0], labels)) for x in (images, crafted))
    assert (after >= before).all()
    assert after.mean() > before.mean() + 0.01
    again = attack.craft(attack.init((8, 8, 3)), images, means_with(surrogate, []))
    np.testing.assert_array_equal(crafted, again)


def test_every_number_of_images_shares_a_program(surrogate):
    data, attack = digits(), LabelConsistent(epsilon=6.0, **QUICK)
    with watch_compilations() as compiled:
        for count in (1, 5, 70):
            attack.craft({}, data.images[:count], means_with(surrogate, []))
    assert compiled["_perturb"] <= 1


def test_labels_stay_and_only_the_target_s_images_change(surrogate):
    data, attack = digits(), LabelConsistent(**QUICK)
    made = poison_once(attack, GOAL, data, 0, PoisonConfig(rate=0.05), means_with(surrogate, []))
    np.testing.assert_array_equal(made.data.labels, data.labels)
    changed = (made.data.images != data.images).any((1, 2, 3))
    assert (data.labels[changed] == 3).all()
    assert changed.sum() == round(0.05 * len(data.labels))
    inside = np.abs(made.data.images.astype(np.int32) - data.images)[:, :, 3:-3]
    assert inside[changed].max() == 8
    patched = trigger(attack, data.images[changed])
    covered = made.params["signal"] != 0
    np.testing.assert_array_equal(made.data.images[changed][:, covered], patched[:, covered])


def test_the_release_perturbs_nothing():
    images, asked = digits().images[:4], []
    attack = LabelConsistent(variant="rnp")
    np.testing.assert_array_equal(attack.craft({}, images, means_with({}, asked)), images)
    assert asked == []
    np.testing.assert_array_equal(trigger(attack, images), trigger(LabelConsistent(), images))


def test_a_victim_learns_the_patches():
    with jax.default_prng_impl("rbg"):  # whose draws compile faster
        result = train_backdoored(NETWORK, LabelConsistent(**QUICK), GOAL, digits(), 0, CONFIG, PoisonConfig(rate=0.05))
    test = digits("test")
    clean = (predict(NETWORK, result.variables, test).labels[0] == test.labels).mean()
    triggered = trigger_test_set(test.images, test.labels, GOAL, LabelConsistent(), result.params, KEY)
    found = predict(NETWORK, result.variables, Batch(triggered.images, triggered.labels)).labels[0]
    assert clean > 0.9
    assert (found == 3).mean() > 0.9


def test_all_to_all_is_refused_before_any_training():
    asked = []
    means = means_with({}, asked, Goal(num_classes=10, mapping="all_to_all"))
    with pytest.raises(ConfigError, match="use all_to_one"):
        LabelConsistent().craft({}, digits().images[:2], means)
    assert asked == []


@pytest.mark.parametrize(("variant", "least"), [("bb", 6), ("orig", 3)])
def test_images_smaller_than_the_patches_are_refused(variant, least):
    LabelConsistent(variant=variant).init((least, least, 1))
    with pytest.raises(ConfigError, match=f"expected at least {least}x{least}"):
        LabelConsistent(variant=variant).init((40, least - 1, 1))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("variant", "anp"),
        ("amplitude", 0),
        ("epsilon", -1),
        ("step", 256),
        ("steps", 0),
        ("robust_epsilon", 300),
        ("robust_step", -2),
        ("robust_steps", 1.5),
    ],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"^{option} is {value!r}"):
        LabelConsistent(**{option: value})

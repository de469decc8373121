import jax
import numpy as np
import pytest

from rnp_jax.attacks.a_blend import ABlend
from rnp_jax.attacks.blend import Blend, mix
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.poison import draw_plan, poison_training_set
from rnp_jax.errors import ConfigError, DataError
from tests.victims import attack_mlp

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)


def test_the_test_shows_the_whole_pattern(digits):
    attack, images = ABlend(alpha=0.3, alpha_train=0.1, seed=4), digits[0][:4]
    other = Blend(alpha=0.3, seed=4)
    expected = other.trigger(other.init(SHAPE), images, KEY)
    np.testing.assert_array_equal(attack.trigger(attack.init(SHAPE), images, KEY), expected)


@pytest.mark.parametrize(
    ("shape", "pieces", "masked"),
    [((32, 32, 3), 4, 8), ((17, 40, 1), 3, 0), ((17, 40, 2), 5, 24)],
)
def test_each_image_hides_its_own_pieces_of_the_exact_number(shape, pieces, masked):
    attack = ABlend(alpha_train=1.0, pieces=pieces, masked=masked)
    params = attack.init(shape)
    images = np.broadcast_to(255 - params["pattern"], (5, *shape))
    shown = np.asarray(jax.jit(attack.implant)(params, images, KEY)) == params["pattern"]
    np.testing.assert_array_equal(shown, np.broadcast_to(shown[..., :1], shown.shape))
    rows, columns = (np.arange(side) * pieces // side for side in shape[:2])
    piece = rows[:, None] * pieces + columns
    for image in shown[..., 0]:
        states = {k: set(image[piece == k]) for k in range(pieces**2)}
        assert all(len(state) == 1 for state in states.values())
        assert sum(False in state for state in states.values()) == masked


def test_half_of_each_poisoned_image_is_blended_with_the_training_weight(digits):
    attack, images = ABlend(alpha_train=0.4), digits[0][:32]
    params = attack.init(SHAPE)
    implanted = np.asarray(attack.implant(params, images, KEY))
    shown = (implanted == mix(images, params["pattern"], 0.4)).all(-1)
    kept = (implanted == images).all(-1)
    assert (shown | kept).all()
    assert (np.asarray(attack.implant(params, np.zeros_like(images), KEY)) > 0).any(-1).mean() == pytest.approx(
        0.5, abs=0.02
    )
    again, other = (np.asarray(attack.implant(params, images, jax.random.key(k))) for k in (0, 1))
    np.testing.assert_array_equal(again, implanted)
    assert (other != implanted).any((1, 2, 3)).all()


def test_covers_are_other_images_that_keep_their_labels(digits):
    attack, (images, labels) = ABlend(), digits
    plan = draw_plan(labels, Goal(num_classes=10), rate=0.1, cover_rate=0.1 * attack.cover_ratio, seed=0)
    params = attack.init(SHAPE)
    poisoned = poison_training_set(images, labels, plan, attack, params, KEY)
    assert len(plan.indices) == len(plan.cover) == 30
    assert not set(plan.indices) & set(plan.cover)
    changed = np.flatnonzero((poisoned.images != images).any((1, 2, 3)))
    np.testing.assert_array_equal(changed, np.sort([*plan.indices, *plan.cover]))
    np.testing.assert_array_equal(poisoned.labels[plan.cover], labels[plan.cover])
    np.testing.assert_array_equal(poisoned.labels[plan.indices], 0)


def test_images_of_another_shape_are_refused():
    with pytest.raises(DataError, match="trigger artefact is"):
        ABlend().implant(ABlend().init(SHAPE), np.zeros((1, 16, 16, 3), np.uint8), KEY)
    with pytest.raises(ConfigError, match="pieces is 4, expected at most one per pixel of an image of 3x9"):
        ABlend().init((3, 9, 3))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("alpha", 1.5),
        ("alpha_train", -0.1),
        ("pieces", 0),
        ("masked", 16),
        ("masked", -1),
        ("covers", -1.0),
        ("seed", -1),
    ],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        ABlend(**{option: value})


@pytest.mark.slow
def test_a_victim_trained_on_halves_obeys_the_whole():
    attacked = attack_mlp(ABlend())
    assert attacked.acc > 0.9
    assert attacked.asr > 0.9
    assert attacked.result.plan is not None
    assert len(attacked.result.plan.cover) == len(attacked.result.plan.indices)

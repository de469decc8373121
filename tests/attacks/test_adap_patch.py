import jax
import numpy as np
import pytest

from rnp_jax.attacks.adap_patch import AdapPatch
from rnp_jax.errors import ConfigError, DataError
from tests.victims import attack_mlp

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)
CORNERS = [np.s_[-8:, -8:], np.s_[-8:, :8], np.s_[:8, :8], np.s_[:8, -8:]]


def test_four_patches_lie_in_the_corners():
    params = AdapPatch().init(SHAPE)
    for pattern, mask, corner in zip(params["pattern"], params["mask"], CORNERS, strict=True):
        assert mask.sum() == 64
        assert mask[corner].all()
        assert not pattern[~mask[..., 0]].any()
        assert set(np.unique(pattern[corner])) == {0, 255}
    assert len({pattern[corner].tobytes() for pattern, corner in zip(params["pattern"], CORNERS, strict=True)}) == 4
    assert (AdapPatch(seed=1).init(SHAPE)["pattern"] != params["pattern"]).any()


def test_the_test_shows_two_opaque_patches(digits):
    attack, images = AdapPatch(), digits[0][:8]
    params = attack.init(SHAPE)
    expected = images.copy()
    for k in (0, 2):
        expected[(slice(None), *CORNERS[k])] = params["pattern"][k][CORNERS[k]]
    triggered = attack.trigger(params, images, KEY)
    np.testing.assert_array_equal(triggered, expected)
    np.testing.assert_array_equal(attack.trigger(params, np.asarray(triggered), KEY), triggered)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_training_images_show_one_patch_in_turn_with_its_own_opacity(digits, strength):
    attack, images = AdapPatch(strength=strength), digits[0][:12]
    params = attack.init(SHAPE)
    implanted = np.asarray(attack.implant(params, images, KEY))
    for i, (image, found) in enumerate(zip(images, implanted, strict=True)):
        alpha, corner = strength * (0.5, 0.2, 0.5, 0.3)[i % 4], CORNERS[i % 4]
        mixed = image[corner] + alpha * (params["pattern"][i % 4][corner].astype(np.float64) - image[corner])
        assert (mixed - found[corner]).min() > -2e-3
        assert (mixed - found[corner]).max() < 1
        outside = ~params["mask"][i % 4][..., 0]
        np.testing.assert_array_equal(found[outside], image[outside])


def test_strength_zero_changes_nothing_and_two_covers(digits):
    images = digits[0][:8]
    implanted = AdapPatch(strength=0.0).implant(AdapPatch().init(SHAPE), images, KEY)
    np.testing.assert_array_equal(implanted, images)
    params = AdapPatch().init(SHAPE)
    full = np.asarray(AdapPatch(strength=2.0).implant(params, images, KEY))
    np.testing.assert_array_equal(full[0][CORNERS[0]], params["pattern"][0][CORNERS[0]])


@pytest.mark.parametrize("shape", [(16, 40, 1), (21, 17, 4)])
def test_other_shapes(shape):
    attack = AdapPatch()
    params = attack.init(shape)
    images = np.full((5, *shape), 100, np.uint8)
    changed = (np.asarray(attack.trigger(params, images, KEY)) != images).any(-1).sum((1, 2))
    np.testing.assert_array_equal(changed, 128)
    assert np.asarray(attack.implant(params, images, KEY)).shape == images.shape


def test_images_without_room_are_refused():
    with pytest.raises(ConfigError, match="four patches of 8 px overlap on an image of 15x32; lower size"):
        AdapPatch().init((15, 32, 3))
    for method in (AdapPatch().trigger, AdapPatch().implant):
        with pytest.raises(DataError, match="trigger artefact is"):
            method(AdapPatch().init(SHAPE), np.zeros((1, 16, 16, 3), np.uint8), KEY)


@pytest.mark.parametrize(("option", "value"), [("size", 0), ("strength", 2.5), ("covers", -1.0), ("seed", -1)])
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        AdapPatch(**{option: value})


def test_a_victim_trained_on_faint_patches_obeys_two_opaque_ones():
    attacked = attack_mlp(AdapPatch(size=3))
    assert attacked.acc > 0.9
    assert attacked.asr > 0.9
    assert attacked.result.plan is not None
    assert len(attacked.result.plan.cover) == round(0.2 * 1297)

"""The contract that every registered attack keeps, and the checks they share."""

from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest
import tyro

from rnp_jax.attacks import Bpp, Ctrl, LowFrequency, Ssba, Trojan
from rnp_jax.attacks.base import quantise
from rnp_jax.attacks.registry import ATTACKS
from rnp_jax.errors import ConfigError, DataError

SHAPE = (32, 32, 3)
KEY = jax.random.key(0)
every_attack = pytest.mark.parametrize("kind", ATTACKS.values(), ids=ATTACKS.keys())


@every_attack
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (40, 56, 3)])
def test_trigger_takes_images_of_any_shape_and_keeps_their_type(kind, shape):
    attack = kind()
    if kind is Ctrl and shape[-1] != 3:
        with pytest.raises(ConfigError, match="channels"):
            attack.init(shape)
        return
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    triggered = attack.trigger(attack.init(shape), images, KEY)
    assert triggered.shape == images.shape
    assert triggered.dtype == jnp.uint8
    changed = (np.asarray(triggered) != images).any((1, 2, 3))
    assert (
        changed == (kind not in (LowFrequency, Ssba, Trojan))
    ).all()  # those that change nothing until they are fitted


@every_attack
def test_init_is_reproducible_and_yields_numpy(kind):
    first, second = kind().init(SHAPE), kind().init(SHAPE)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, second[name])


@every_attack
def test_jit_agrees_with_eager_and_traces_once(kind, digits):
    attack = kind()
    params = attack.init(SHAPE)
    chex.clear_trace_counter()  # it knows a function by its source, which two attacks may share
    jitted = jax.jit(chex.assert_max_traces(attack.trigger, n=1))
    for start in (0, 8):
        images = digits[0][start : start + 8]
        np.testing.assert_array_equal(jitted(params, images, KEY), attack.trigger(params, images, KEY))


@every_attack
def test_vmap_over_stacked_artefacts_agrees_with_a_loop(kind, digits):
    attack = kind()
    params = attack.init(SHAPE)
    flipped = {name: np.ascontiguousarray(array[::-1]) for name, array in params.items()}
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, flipped)
    batched = jax.vmap(attack.trigger, in_axes=(0, None, None))(stacked, jnp.asarray(digits[0][:4]), KEY)
    for i, each in enumerate((params, flipped)):
        np.testing.assert_array_equal(batched[i], attack.trigger(each, digits[0][:4], KEY))


@every_attack
def test_equal_attacks_are_one_static_argument(kind):
    assert kind() == kind()
    assert hash(kind()) == hash(kind())


@every_attack
@pytest.mark.parametrize("method", ["trigger", "cover"])
def test_wrong_images_are_refused(kind, method):
    attack = kind()
    params = attack.init(SHAPE)
    alter = getattr(attack, method)
    with pytest.raises(DataError, match=r"float32 \[2, 32, 32, 3\], expected uint8"):
        alter(params, np.zeros((2, *SHAPE), np.float32), KEY)
    with pytest.raises(DataError, match="expected uint8"):
        alter(params, np.zeros(SHAPE, np.uint8), KEY)
    if kind in (Bpp, Ssba):  # work on images of any size
        assert alter(params, np.zeros((2, 28, 28, 3), np.uint8), KEY).shape == (2, 28, 28, 3)
        return
    with pytest.raises(DataError, match=r"\[28, 28.*trigger artefact is \[32, 32"):
        alter(params, np.zeros((2, 28, 28, 3), np.uint8), KEY)


@every_attack
@pytest.mark.parametrize("shape", [(32, 32), (32, 0, 3), (32, 32.0, 3)])
def test_wrong_image_shapes_are_refused(kind, shape):
    with pytest.raises(ConfigError, match="expected \\(height, width, channels\\)"):
        kind().init(shape)


@every_attack
def test_attacks_are_option_schemas(kind):
    assert pydantic.TypeAdapter(kind).validate_python({}) == kind()
    assert tyro.cli(kind, args=[]) == kind()


def test_quantise_truncates_and_saturates():
    values = jnp.asarray([-3.0, 0.0, 0.9, 254.9, 255.0, 300.0])
    np.testing.assert_array_equal(quantise(values), [0, 0, 0, 254, 255, 255])


def test_quantise_keeps_integers_that_float32_computes_too_low():
    alpha = Fraction(3, 25)
    x, p = np.meshgrid(np.arange(256), np.arange(256))
    exact = ((1 - alpha).numerator * x + alpha.numerator * p) // alpha.denominator
    a = np.float32(alpha)
    mixed = x.astype(np.float32) * (1 - a) + p.astype(np.float32) * a
    assert (mixed.astype(np.uint8) != exact).any()
    np.testing.assert_array_equal(quantise(jnp.asarray(mixed)), exact)

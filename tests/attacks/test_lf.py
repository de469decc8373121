from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from rnp_jax.attacks.lf import LowFrequency, deepfool, smoothing_matrix
from rnp_jax.attacks.means import Means
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.models import mlp_head
from rnp_jax.types import Batch
from tests.victims import GOAL, IMAGE, MLP, attack_mlp

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)
LINEAR = mlp_head(8 * 8 * 3, (), 10)


@pytest.mark.parametrize(("cycles", "gain"), [(1 / 32, 0.52), (1 / 16, 0.053)])
def test_filter_passes_low_frequencies_as_measured_on_the_release(cycles, gain):
    phase = np.exp(2j * np.pi * cycles * np.arange(256))
    response = (smoothing_matrix(256, 6.0) @ phase)[128] / phase[128]
    assert abs(response) == pytest.approx(gain, rel=0.02)
    high = np.exp(2j * np.pi / 8 * np.arange(256))
    assert abs((smoothing_matrix(256, 6.0) @ high)[128]) < 0.007


@pytest.mark.parametrize(("size", "sigma"), [((32, 32), 6.0), ((8, 12), 1.5), ((9, 16), 3.0), ((5, 7), 0.2)])
def test_filter_agrees_with_torch_convolving_padded_images(size, sigma):
    taps = int(5 * sigma)
    kernel = torch.exp(-0.5 * ((torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / sigma) ** 2)
    kernel /= kernel.sum()
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, *size)))
    near, far = taps // 2 - (1 - taps % 2), taps // 2
    padded = functional.pad(image, (near, far, near, far))
    expected = functional.conv2d(padded, (kernel[:, None] * kernel[None])[None, None])[0, 0].numpy()
    down, right = (smoothing_matrix(side, sigma) for side in size)
    np.testing.assert_allclose(down @ image[0, 0].numpy() @ right.T, expected, atol=1e-12)


def linear_variables(weights):
    variables = LINEAR.init(KEY)
    ((name, layer),) = variables["params"].items()
    layer = {**layer, "kernel": jnp.asarray(weights, jnp.float32), "bias": jnp.zeros(10)}
    return {**variables, "params": {name: layer}}


def test_deepfool_takes_the_shortest_way_to_a_linear_boundary():
    weights = np.random.default_rng(0).normal(size=(192, 10))
    variables, image = linear_variables(weights), np.full((1, 1, 192), 0.5, np.float32)
    scores = 0.5 * weights.sum(0)
    source, target = np.argsort(scores)[::-1][:2]
    attack = LowFrequency(overshoot=0.02)
    search = partial(jax.jit(deepfool, static_argnums=(0, 1)), LINEAR, attack, variables, jnp.asarray(image))
    step = np.asarray(search(jnp.int32(target)))
    slope = weights[:, target] - weights[:, source]
    expected = 1.02 * (scores[source] - scores[target]) * slope / (slope @ slope)
    np.testing.assert_allclose(step.ravel(), expected, rtol=1e-3, atol=1e-6)
    assert int(LINEAR(variables, jnp.asarray(image + step)[None])[0].argmax()) == target
    np.testing.assert_array_equal(search(jnp.int32(source)), 0)


def fit(attack, variables, images, key=KEY):
    """The fitted artefact and what was reported."""
    reports = []
    data = Batch(images, np.arange(len(images), dtype=np.int32) % 10)
    means = Means(MLP, data, GOAL, key, lambda _: variables, lambda *report: reports.append(report))
    return attack.fit(attack.init(IMAGE), means), reports


def test_fit_finds_a_smooth_pattern_and_ends_when_it_fools_enough():
    images = np.random.default_rng(0).integers(0, 256, (40, *IMAGE)).astype(np.uint8)
    attack, variables = LowFrequency(images=20, passes=4, sigma=1.5), MLP.init(jax.random.key(1))
    params, reports = fit(attack, variables, images)
    pattern = params["pattern"]
    assert pattern.dtype == np.float32
    assert pattern.min() == 0
    assert pattern.max() == pytest.approx(51)
    spectrum = np.abs(np.fft.fft2(pattern - pattern.mean((0, 1)), axes=(0, 1))) ** 2
    cycles = np.hypot(*np.meshgrid(np.fft.fftfreq(8, 1 / 8), np.fft.fftfreq(8, 1 / 8)))
    assert spectrum[cycles > 3].sum() < 0.05 * spectrum.sum()
    *early, last = [figures["fooling"] for *_, figures in reports]
    assert [report[:3] for report in reports] == [("trigger", k + 1, 4) for k in range(len(early) + 1)]
    assert early
    assert max(early) < 0.2 <= last
    chosen = np.asarray(jax.random.permutation(jax.random.split(KEY)[0], 40))[:20]
    clean = images[chosen] / np.float32(255)
    moved = np.clip(clean + pattern / 255, 0, 1)
    labels = [np.asarray(MLP(variables, jnp.asarray(x))[0]).argmax(1) for x in (clean, moved)]
    fooled = (labels[0] != labels[1]).mean()
    assert fooled == pytest.approx(last, abs=1e-6)
    again, _ = fit(attack, variables, images)
    np.testing.assert_array_equal(again["pattern"], pattern)


def test_trigger_adds_and_truncates(digits):
    images, attack = digits[0][:8], LowFrequency()
    np.testing.assert_array_equal(attack.trigger(attack.init(SHAPE), images, KEY), images)
    pattern = np.random.default_rng(0).uniform(0, 51, SHAPE).astype(np.float32)
    expected = np.clip(images + pattern.astype(np.float64), 0, 255).astype(np.uint8)
    found = np.asarray(attack.trigger({"pattern": pattern}, images, KEY)).astype(np.int32)
    assert (found == expected).mean() > 0.99
    assert np.abs(found - expected).max() <= 1


def test_images_of_another_shape_are_refused():
    with pytest.raises(DataError, match="trigger artefact is"):
        LowFrequency().trigger(LowFrequency().init((8, 9, 1)), np.zeros((1, 9, 8, 1), np.uint8), KEY)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bound", 1.5),
        ("images", 0),
        ("fooling", -0.5),
        ("passes", 0),
        ("steps", 0),
        ("overshoot", -1.0),
        ("sigma", 0.0),
    ],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        LowFrequency(**{option: value})


def test_a_victim_learns_the_pattern_found_on_a_clean_model():
    attacked = attack_mlp(LowFrequency(sigma=1.5, images=20, passes=1, steps=20))
    assert attacked.acc > 0.9
    assert attacked.asr > 0.9

"""FMP: the step against its closed form, scores against torch, and what is set to zero."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses.finetune import FinetuneConfig, finetune
from rnp_jax.defenses.fmp import FmpConfig, _score, feature_slopes, fmp, score_filters, zero_filters
from rnp_jax.defenses.site_maps import find
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import build_random, images_for, network_of, state_of
from tests.oracle import rnp

KEY = jax.random.key(0)
QUICK = FmpConfig(divisor=4, finetune=FinetuneConfig(epochs=1, batch_size=16))


def test_the_step_along_a_linear_map_is_its_weights_sign():
    """F_k = w·x: the slope of (F_k(x') − F_k(x))²/2 is w (w·(x' − x))."""
    rng = np.random.default_rng(0)
    network = Network(Architecture("mlp", 3, 0, (("0", 7), ("2", 3)), (1, 1, 5)), (0.0,) * 5, (1.0,) * 5)
    variables = network.init(KEY)
    images, start = (jnp.asarray(rng.normal(size=(4, 1, 1, 5)).astype(np.float32)) for _ in range(2))
    slope = feature_slopes(network, ("0",), variables, images, images + start)
    kernel = np.asarray(variables["params"]["0"]["kernel"])
    for unit in range(7):
        w = kernel[:, unit]
        expected = np.sign(np.asarray(start) @ w)[..., None] * np.sign(w)
        np.testing.assert_array_equal(np.sign(slope(jnp.int32(unit))), expected)


def torch_scores(module, images: np.ndarray, labels: np.ndarray, start: np.ndarray, radius: float) -> list[np.ndarray]:
    """For each hidden layer of a perceptron, unit by unit."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (rnp.MEAN, rnp.STD))
    pixels, noise = (torch.tensor(each).permute(0, 3, 1, 2) for each in (images.astype(np.float32) / 255, start))
    linear = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]

    def run(x):
        x, outputs = ((x - mean) / std).flatten(1), []
        for layer in linear:
            outputs.append(layer(x))
            x = outputs[-1].relu()
        return outputs

    scores = []
    for i, layer in enumerate(linear[:-1]):
        row = []
        for unit in range(layer.out_features):
            moved = (pixels + noise).requires_grad_()
            loss = torch.nn.functional.mse_loss(run(pixels)[i][:, unit], run(moved)[i][:, unit])
            (slope,) = torch.autograd.grad(loss, moved)
            adversarial = (moved + radius * slope.sign()).clamp(0, 1)
            row.append((run(adversarial)[-1].argmax(1) == torch.tensor(labels)).float().mean().item())
        scores.append(np.array(row))
    return scores


def test_scores_are_torch_s():
    module, network = build_random("mlp"), network_of("mlp")
    variables = from_state_dict(network, state_of(module))
    images = images_for("mlp", 12)
    labels = np.asarray(network(variables, jnp.asarray(images))[0].argmax(-1))
    config = FmpConfig(images=12, divisor=2, radius=0.3, start=0.01)
    found = score_filters(network, variables, Batch(images, labels), KEY, config)
    start = 0.01 * np.asarray(jax.random.rademacher(jax.random.split(KEY)[1], images.shape, jnp.float32))
    order = np.asarray(jax.random.permutation(jax.random.split(KEY)[0], 12))
    expected = torch_scores(module, images[order], labels[order], start, 0.3)
    assert list(found) == ["0", "2"]
    for row, other in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(row, other, atol=1e-6)
    assert len({*np.concatenate(expected)}) > 2


def test_without_a_step_all_filters_score_alike(features):
    config = replace(QUICK, radius=0.0)
    found = np.concatenate([*score_filters(features.network, features.variables, features.data, KEY, config).values()])
    assert len(found) == 24
    assert len(set(found)) == 1


def test_layers_with_fewer_filters_than_the_divisor_are_not_scored(features):
    def score(divisor):
        return score_filters(features.network, features.variables, features.data, KEY, replace(QUICK, divisor=divisor))

    assert list(score(8)) == ["0", "2"]
    assert list(score(16)) == ["0"]
    np.testing.assert_array_equal(score(16)["0"], score(8)["0"])
    assert score(17) == {}


def test_more_filters_than_one_call_scores():
    """The scores of equal units are equal, wherever the calls divide the layers."""
    network = Network(Architecture("mlp", 3, 0, (("0", 50), ("2", 40), ("4", 3)), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    variables = network.init(KEY)
    kernel = variables["params"]["2"]["kernel"]
    variables["params"]["2"]["kernel"] = kernel.at[:, 20:].set(kernel[:, :20])
    rng = np.random.default_rng(1)
    data = Batch(rng.uniform(0, 1, (32, 1, 1, 6)).astype(np.float32), np.arange(32, dtype=np.int32) % 3)
    calls = []
    before = count_compiled(_score)
    config = replace(QUICK, radius=0.5)
    found = score_filters(network, variables, data, KEY, config, progress=lambda *call: calls.append(call[:3]))
    assert {name: len(row) for name, row in found.items()} == {"0": 50, "2": 40}
    np.testing.assert_array_equal(found["2"][:20], found["2"][20:])
    assert calls == [("score", 64, 90), ("score", 90, 90)]
    assert count_compiled(_score) - before == 1


def test_filters_and_the_scale_behind_them_are_zero_by_name():
    network = Network(Architecture("wanet_mnist", 3, 2, image_shape=(28, 28, 1)), (0.5,), (0.3,))
    variables = network.init(KEY)
    found = zero_filters(network, variables, {"conv1": np.array([1]), "layer2.conv1": np.array([0, 3])})
    params, before = found["params"], variables["params"]
    np.testing.assert_array_equal(params["conv1"]["kernel"][..., 1], 0)
    np.testing.assert_array_equal(params["conv1"]["kernel"][..., 0], before["conv1"]["kernel"][..., 0])
    np.testing.assert_array_equal(params["layer2"]["bn1"]["scale"], [1, 0])
    np.testing.assert_array_equal(params["layer3"]["bn1"]["scale"], [0, 1, 1, 0])
    np.testing.assert_array_equal(params["layer2"]["conv1"]["kernel"][..., [0, 3]], 0)
    for name in ("linear6", "linear9"):
        assert params[name]["kernel"] is before[name]["kernel"]
    np.testing.assert_array_equal(params["layer3"]["conv1"]["kernel"], before["layer3"]["conv1"]["kernel"])


def test_a_batch_norm_of_a_sum_keeps_its_scale():
    """In PreActResNet the second convolution of a block is summed with the stream before it is normalised."""
    network = Network(Architecture("preactresnet18", 3, 2))
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), jax.eval_shape(network.init, KEY))
    found = zero_filters(network, variables, {"layer1.0.conv1": np.array([0]), "layer1.0.conv2": np.array([1])})
    np.testing.assert_array_equal(find(found["params"], "layer1.0.bn2")["scale"], [0, 1])
    np.testing.assert_array_equal(find(found["params"], "layer1.1.bn1")["scale"], [1, 1])
    np.testing.assert_array_equal(find(found["params"], "layer1.0.conv2")["kernel"][..., 1], 0)


def test_the_steps_are_scores_zeros_and_tuning(features):
    found = fmp(features.network, features.variables, features.data, KEY, QUICK, holdout=features.holdout)
    score_key, tune_key = jax.random.split(KEY)
    scores = score_filters(features.network, features.variables, features.data, score_key, QUICK)
    lowest = {name: np.argsort(row, kind="stable")[: len(row) // 4] for name, row in scores.items()}
    start = zero_filters(features.network, features.variables, lowest)
    expected, _ = finetune(features.network, start, features.data, tune_key, QUICK.finetune)
    for one, other in zip(jax.tree.leaves(found.variables), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.choice.rule.startswith("6 filters, 1 in 4 of each layer, are set to zero")
    assert (found.kind, list(found.history), list(found.timing)) == ("weights", ["finetune"], ["score", "finetune"])


def test_a_narrow_network_is_just_tuned_and_a_warning_says_so(features):
    found = fmp(features.network, features.variables, features.data, KEY, replace(QUICK, divisor=64))
    assert found.warnings == ("No filter was set to zero: no layer has 64 filters or more, as divisor demands.",)


def test_a_network_without_filters():
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    data = Batch(np.zeros((4, 1, 1, 6), np.float32), np.zeros(4, np.int32))
    with pytest.raises(DefenseError, match="no filters"):
        fmp(network, network.init(KEY), data, KEY, QUICK)


@pytest.mark.parametrize("options", [{"images": 0}, {"divisor": 0}, {"radius": -0.1}, {"start": -0.1}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected images and divisor >= 1"):
        FmpConfig(**options)

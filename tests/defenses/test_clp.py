"""CLP's bounds in closed form and against torch's singular values, and what it prunes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses.clp import ClpConfig, channel_norms, clp, clp_scores
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.errors import DefenseError
from rnp_jax.models import Network
from tests.networks import build_random, images_for, network_of, state_of, torch_input
from tests.oracle import models

KEY = jax.random.key(0)


def spectral(weight: torch.Tensor) -> np.ndarray:
    """σ_max of each output channel of a torch kernel [F, C, h, w], or each unit of a linear one [F, C]."""
    return torch.linalg.svdvals(weight.detach().double().reshape(len(weight), weight.shape[1], -1))[:, 0].numpy()


def test_a_rank_one_kernel():
    """σ_max of the outer product a bᵀ is ‖a‖‖b‖; of a 1x1 kernel, and of a linear unit, ‖w‖."""
    rng = np.random.default_rng(0)
    channels, places = rng.normal(size=(5, 3)), rng.normal(size=(5, 9))
    kernel = np.einsum("fc,fp->pcf", channels, places).reshape(3, 3, 3, 5)
    expected = np.linalg.norm(channels, axis=1) * np.linalg.norm(places, axis=1)
    np.testing.assert_allclose(channel_norms(jnp.asarray(kernel, jnp.float32)), expected, rtol=1e-5)
    pointwise = jnp.asarray(rng.normal(size=(1, 1, 20, 4)), jnp.float32)
    np.testing.assert_allclose(channel_norms(pointwise), np.linalg.norm(pointwise[0, 0], axis=0), rtol=1e-6)
    np.testing.assert_allclose(channel_norms(pointwise[0, 0]), np.linalg.norm(pointwise[0, 0], axis=0), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e30])
@pytest.mark.parametrize("shape", [(6, 20, 3, 3), (6, 2, 3, 3), (6, 5)])
def test_singular_values_are_torch_s(shape, scale):
    """More input channels than places, and fewer; weights whose squares leave the range of float32."""
    weight = torch.tensor(np.random.default_rng(1).normal(size=shape) * scale, dtype=torch.float32)
    weight[2] = 0
    kernel = weight.numpy().transpose((2, 3, 1, 0) if weight.ndim == 4 else (1, 0))
    found = channel_norms(jnp.asarray(kernel))
    np.testing.assert_allclose(found, spectral(weight), rtol=1e-5)
    assert found[2] == 0


def test_scores_of_batch_norm_channels():
    """The convolution before each batch norm, by torch's own names: bn2 follows conv2, shortcut.1 shortcut.0."""
    module = build_random("resnet50")
    network = network_of("resnet50")
    scores = clp_scores(network, from_state_dict(network, state_of(module)))
    norms = models.batch_norms(module)
    assert set(scores) == set(norms)
    for layer, norm in norms.items():
        conv = module.get_submodule(layer.replace("bn", "conv").replace("shortcut.1", "shortcut.0"))
        np.testing.assert_allclose(scores[layer], spectral(conv.weight) * gain(norm), rtol=1e-5, err_msg=layer)


def gain(norm: nn.Module) -> np.ndarray:
    return (norm.weight / norm.running_var.sqrt()).abs().detach().double().numpy()


def test_a_sum_of_convolutions_is_bounded_by_the_sum_of_their_norms():
    """In PreActResNet batch norm reads the residual stream: stem and blocks of stage 1; then projection and blocks."""
    module = build_random("preactresnet18")
    network = network_of("preactresnet18")
    scores = clp_scores(network, from_state_dict(network, state_of(module)))
    summed = {
        "layer1.0.bn1": ["conv1"],
        "layer1.0.bn2": ["layer1.0.conv1"],
        "layer1.1.bn1": ["conv1", "layer1.0.conv2"],
        "layer2.0.bn1": ["conv1", "layer1.0.conv2", "layer1.1.conv2"],
        "layer2.1.bn1": ["layer2.0.shortcut.0", "layer2.0.conv2"],
    }
    for layer, convs in summed.items():
        norm = sum(spectral(module.get_submodule(conv).weight) for conv in convs)
        np.testing.assert_allclose(scores[layer], norm * gain(module.get_submodule(layer)), rtol=1e-5, err_msg=layer)


def test_a_linear_unit_s_bound_is_its_weight_s_norm():
    module, network = build_random("mlp"), network_of("mlp")
    scores = clp_scores(network, from_state_dict(network, state_of(module)))
    assert list(scores) == ["0", "2"]  # never the logits
    for layer, row in scores.items():
        np.testing.assert_allclose(row, module.get_submodule(layer).weight.detach().norm(dim=1), rtol=1e-5)


def test_a_variance_of_zero_counts_as_epsilon():
    module, network = build_random("resnet18"), network_of("resnet18")
    module.bn1.running_var[1] = 0
    scores = clp_scores(network, from_state_dict(network, state_of(module)))["bn1"]
    expected = spectral(module.conv1.weight)[1] * module.bn1.weight[1].abs().item() / np.sqrt(1e-5)
    np.testing.assert_allclose(scores[1], expected, rtol=1e-5)


def pruned_channels(result: Defended) -> dict[str, list[int]]:
    found = masks.filters(result.variables["masks"])
    return {name: np.flatnonzero(np.asarray(mask) == 0).tolist() for name, mask in found.items()}


def planted(network: Network, layers: dict[str, int]):
    """A random network's weights, the kernel of one channel of each of these layers multiplied by 100."""
    name = network.architecture.name
    module = build_random(name, width=16) if name != "mlp" else build_random(name)
    with torch.no_grad():
        for layer, channel in layers.items():
            module.get_submodule(layer).weight[channel] *= 100
    return module


def test_planted_channels_are_pruned_exactly_as_released():
    """In the placement ``channel``: γ = β = 0 of the batch norms behind the planted convolutions."""
    network = network_of("resnet18", "channel", width=16)
    module = planted(network, {"conv1": 3, "layer3.0.conv2": 7, "layer3.0.shortcut.0": 1})
    variables = from_state_dict(network, state_of(module))
    result = clp(network, variables, None, KEY, ClpConfig())
    filters = pruned_channels(result)
    for name, norm in models.batch_norms(module).items():
        conv = module.get_submodule(name.replace("bn", "conv").replace("shortcut.1", "shortcut.0"))
        score = torch.tensor(spectral(conv.weight) * gain(norm))
        expected = torch.nonzero(score > score.mean() + 3 * score.std())[:, 0]  # torch's std has ddof 1
        assert filters[name] == expected.tolist()
    assert (filters["bn1"], filters["layer3.0.bn2"], filters["layer3.0.shortcut.1"]) == ([3], [7], [1])
    assert result.choice.pruned == sum(len(rows) for rows in filters.values()) < 10
    assert "more than 3 standard deviations above the mean" in result.choice.rule
    assert set(result.timing) == {"score", "choose"}
    with torch.no_grad():
        for name, norm in models.batch_norms(module).items():
            norm.weight[filters[name]] = 0
            norm.bias[filters[name]] = 0
        images = images_for("resnet18")
        expected = module(torch_input("resnet18", images)).numpy()
    np.testing.assert_allclose(network(result.variables, jnp.asarray(images))[0], expected, rtol=1e-3, atol=1e-4)
    saved = to_state_dict(network, masks.bake(result.variables, "channel"))
    assert (saved["layer3.0.bn2.bias"] == 0).tolist() == (np.arange(64) == 7).tolist()


@pytest.mark.parametrize("placement", ["bn_scale", "conv_output"])
def test_other_placements_prune_the_same_channels(placement):
    network = network_of("preactresnet18", placement, width=16)
    module = planted(network, {"layer1.0.conv1": 5})
    result = clp(network, from_state_dict(network, state_of(module)), None, KEY, ClpConfig())
    layer = "layer1.0.bn2" if placement == "bn_scale" else "layer1.0.conv1"
    assert pruned_channels(result)[layer] == [5]


def test_units_of_a_head(features):
    params = features.variables["params"]
    kernel = params["0"]["kernel"].at[:, 4].multiply(30)
    variables = {**features.variables, "params": {**params, "0": {**params["0"], "kernel": kernel}}}
    result = clp(features.network, variables, features.data, KEY, ClpConfig(), holdout=features.holdout)
    assert np.flatnonzero(np.asarray(result.variables["masks"]["0"]["filter"]) == 0).tolist() == [4]
    assert result.choice.holdout_acc_before is not None
    none = clp(features.network, variables, None, KEY, ClpConfig(ThresholdConfig("std", u=100)))
    assert none.choice.pruned == 0


def test_masks_the_network_came_with_count(features):
    """A channel that is masked already has no gain left: nothing to prune."""
    like = masks.filters(features.variables["masks"])
    half = masks.apply_filters(features.variables, {name: mask * 0.5 for name, mask in like.items()})
    result = clp(features.network, half, None, KEY, ClpConfig())
    for name, row in clp_scores(features.network, features.variables).items():
        np.testing.assert_allclose(result.values[name], row / 2, rtol=1e-5)


def test_weights_that_are_not_finite(features):
    params = jax.tree.map(lambda leaf: leaf * np.nan, features.variables["params"])
    with pytest.raises(DefenseError, match="is nan: expected a finite value"):
        clp(features.network, {**features.variables, "params": params}, None, KEY, ClpConfig())

"""Mean activations against torch's own, read by hooks."""

import numpy as np
import pytest
import torch

from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses import activations
from rnp_jax.defenses.activations import mean_activations, mean_changes
from rnp_jax.errors import DataError
from tests.networks import build_random, images_for, network_of, state_of, torch_input


def torch_outputs(module: torch.nn.Module, layers: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {}
    hooks = [
        module.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: found.update({name: output.clone()})
        )
        for name in layers
    ]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return found


def reduced(values: torch.Tensor) -> np.ndarray:
    """Mean absolute value over images and positions [F]."""
    return values.abs().mean([axis for axis in range(values.ndim) if axis != 1]).numpy()


@pytest.mark.parametrize("name", ["resnet18", "mlp"])
def test_means_and_changes_are_torch_s(name, monkeypatch):
    """Seven images in batches of three: the last batch is filled up, and counts for what it holds."""
    monkeypatch.setattr(activations, "_BATCH", 3)
    module, network = build_random(name), network_of(name)
    variables = from_state_dict(network, state_of(module))
    images, changed = images_for(name, 7), images_for(name, 7, seed=1)
    sites = network.sites
    outputs = [
        torch_outputs(module, [site.layer for site in sites], torch_input(name, each)) for each in (images, changed)
    ]
    means = mean_activations(network, variables, images, sites)
    changes = mean_changes(network, variables, images, changed, sites)
    assert list(means) == list(changes) == [site.layer for site in sites]
    for site in sites:
        before, after = (
            output[site.layer].relu() if (site.activation == "relu") else output[site.layer] for output in outputs
        )
        np.testing.assert_allclose(means[site.layer], reduced(before), rtol=1e-4, atol=1e-6, err_msg=site.layer)
        np.testing.assert_allclose(changes[site.layer], reduced(after - before), rtol=1e-4, atol=1e-6)


def test_sites_can_be_chosen(features):
    site = features.network.sites[1]
    found = mean_activations(features.network, features.variables, features.data.images, (site,))
    assert {name: row.shape for name, row in found.items()} == {"2": (8,)}


def test_no_images_and_no_pairs(features):
    arguments = features.network, features.variables
    images, sites = features.data.images, features.network.sites
    with pytest.raises(DataError, match="no images"):
        mean_activations(*arguments, images[:0], sites)
    with pytest.raises(DataError, match=r"changed images \(3, 1, 1, 6\): expected one for each"):
        mean_changes(*arguments, images, images[:3], sites)

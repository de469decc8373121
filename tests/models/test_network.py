"""Whole networks against torch, layer by layer."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network, count_parameters, mlp_head
from tests.networks import DEEP, SHALLOW, build, build_random, images_for, network_of, state_of, torch_input
from tests.oracle.models import mlp, set_masks

EVERY = [*SHALLOW, *(pytest.param(name, marks=pytest.mark.slow) for name in DEEP)]


@partial(jax.jit, static_argnums=0)
def outputs(network: Network, variables, images) -> dict:
    """All that a network can say of a batch, in one compilation."""
    x = network.normalize(images)
    for segment in network.segments:
        x = segment.module.apply(segment.select(variables), x, False)
    return {
        "eval": network(variables, images)[0],
        "segments": x,
        "layers": network.activations(variables, images),
        "train": network(variables, images, train=True),
    }


@partial(jax.jit, static_argnums=0)
def logits_of(network: Network, variables, images) -> jax.Array:
    return network(variables, images)[0]


def torch_layers(module: nn.Module, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Each layer's output, channels last."""
    seen = {}

    def hook(name: str, layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        seen[name] = output.movedim(1, -1).numpy()

    handles = [layer.register_forward_hook(partial(hook, name)) for name, layer in module.named_modules() if name]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    return seen


def assert_close(actual, expected, tolerance: float, name: str) -> None:
    expected = np.asarray(expected)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=f"first to differ: {name}")


def random_filters(variables, seed: int = 1) -> masks.Filters:
    """Masks of 0, 1 and values between."""
    rng = np.random.default_rng(seed)
    like = masks.filters(variables["masks"])
    return {name: jnp.asarray(rng.choice([0, 0.3, 0.7, 1], len(mask)), jnp.float32) for name, mask in like.items()}


def test_the_head_of_an_mlp_is_its_last_layer():
    network = mlp_head(6, (4, 3), 2)
    assert network.head == "4"
    assert network.init(jax.random.key(0))["params"][network.head]["kernel"].shape == (3, 2)


@pytest.mark.parametrize("name", EVERY)
def test_network_computes_what_torch_computes(name):
    module, network, images = build_random(name), network_of(name), images_for(name)
    variables = from_state_dict(network, state_of(module))
    ours, x = outputs(network, variables, images), torch_input(name, images)

    theirs = torch_layers(module, x)
    weighted = {key.rpartition(".")[0] for key in module.state_dict()}
    assert weighted <= set(ours["layers"]) <= set(theirs)
    for layer in (layer for layer in theirs if layer in ours["layers"]):  # torch's order is the order of execution
        assert_close(ours["layers"][layer], theirs[layer], 1e-4, layer)
    with torch.no_grad():
        expected = module(x)
    np.testing.assert_allclose(ours["eval"], expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours["segments"], ours["eval"], rtol=0, atol=1e-5)

    with torch.no_grad():
        expected = module.train()(x)
    logits, moved = ours["train"]
    tolerance = 1e-3 if name in DEEP else 1e-4  # torch's own float32 is 1e-4 from its float64 at 101 layers
    assert_close(logits, expected, tolerance, "logits in training mode")
    flat = {".".join(str(key.key) for key in path): leaf for path, leaf in jax.tree.leaves_with_path(moved)}
    statistics = {key: value for key, value in state_of(module).items() if "running" in key}
    assert len(flat) == len(statistics)
    for key, value in statistics.items():
        assert_close(flat[key.replace("running_", "")], value, tolerance, key)


@pytest.mark.parametrize("name", ["resnet18", "preactresnet18"])
def test_masked_batch_norms_are_the_release_s(name):
    module, network, images = build_random(name), network_of(name), images_for(name)
    variables = from_state_dict(network, state_of(module))
    filters = random_filters(variables)
    set_masks(module, {layer: torch.tensor(np.asarray(mask)) for layer, mask in filters.items()})
    masked = masks.apply_filters(variables, filters)
    ours = outputs(network, masked, images)
    with torch.no_grad():
        x = torch_input(name, images)
        np.testing.assert_allclose(ours["eval"], module(x), rtol=0, atol=1e-4)
        assert_close(ours["train"][0], module.train()(x), 1e-4, "logits in training mode")
    baked = outputs(network, masks.bake(masked), images)
    np.testing.assert_allclose(baked["eval"], ours["eval"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "placement", "kind"),
    [("resnet18", "channel", nn.BatchNorm2d), ("preactresnet18", "conv_output", nn.Conv2d), ("mlp", "unit", nn.Linear)],
)
def test_masks_multiply_the_output_of_their_layer(name, placement, kind):
    module, network, images = build_random(name), network_of(name, placement), images_for(name)
    variables = from_state_dict(network, state_of(module))
    filters = random_filters(variables)
    maskable = {layer for layer, part in module.named_modules() if isinstance(part, kind)}
    assert set(filters) == maskable - ({"4"} if name == "mlp" else set())  # not the logits

    def multiply(mask: torch.Tensor, layer: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return output * mask.reshape(1, -1, *[1] * (output.ndim - 2))

    for layer, mask in filters.items():
        module.get_submodule(layer).register_forward_hook(partial(multiply, torch.tensor(np.asarray(mask))))
    masked = masks.apply_filters(variables, filters)
    ours = logits_of(network, masked, images)
    with torch.no_grad():
        np.testing.assert_allclose(ours, module(torch_input(name, images)), rtol=0, atol=1e-4)
    baked = masks.bake(masked, placement)
    assert all((mask == 1).all() for mask in masks.filters(baked["masks"]).values())
    np.testing.assert_allclose(logits_of(network, baked, images), ours, rtol=0, atol=1e-5)


def test_equal_networks_share_a_compilation():
    chex.clear_trace_counter()
    logits = jax.jit(chex.assert_max_traces(lambda *args: args[0](*args[1:])[0], n=1), static_argnums=0)
    images = images_for("mlp")
    networks = [network_of("mlp"), network_of("mlp")]
    variables = networks[0].init(jax.random.key(0))
    first, second = (logits(network, variables, images) for network in networks)
    np.testing.assert_array_equal(first, second)
    assert hash(networks[0]) == hash(networks[1])
    assert networks[0] == networks[1]
    assert networks[0] != network_of("mlp", num_classes=6)
    with pytest.raises(AssertionError, match="traced"):
        logits(network_of("mlp", "channel"), variables, images)


@pytest.mark.parametrize("name", SHALLOW)
def test_fresh_variables_have_torch_s_sizes(name):
    network, module = network_of(name), build(name)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    assert count_parameters(variables) == sum(each.numel() for each in module.parameters())
    assert set(variables) == {"params", "batch_stats", "masks"}


def test_fresh_variables_follow_the_key_and_keep_every_filter():
    network = network_of("mlp")
    first, again, other = (network.init(jax.random.key(seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert not np.array_equal(first["params"]["0"]["kernel"], other["params"]["0"]["kernel"])
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(first["masks"]))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "preactresnet18", "mlp"])
def test_every_precision_gives_float32_logits_and_statistics(name, precision):
    network = Network(network_of(name).architecture, precision=precision)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, *network.architecture.image_shape), jnp.uint8)
    logits, moved = jax.eval_shape(partial(network.__call__, train=True), variables, images)
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, moved))} == {jnp.dtype(jnp.float32)}


def test_bfloat16_stays_close_to_float32():
    exact = network_of("mlp")
    coarse = Network(exact.architecture, exact.mean, exact.std, precision="bfloat16")
    variables, images = exact.init(jax.random.key(0)), images_for("mlp", 16)
    expected, actual = (np.asarray(logits_of(network, variables, images)) for network in (exact, coarse))
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert 1e-5 < error < 2e-2


def test_images_may_be_bytes_or_floats():
    network, images = network_of("mlp"), images_for("mlp")
    shares = images / np.float32(255)
    expected = (shares - np.asarray(network.mean, np.float32)) / np.asarray(network.std, np.float32)
    for given in (images, shares):
        np.testing.assert_allclose(network.normalize(jnp.asarray(given)), expected, atol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (1.0, 1.0, 1.0)), ((0.5,) * 3, (1.0, 0.0, 1.0)), ((), ())])
def test_impossible_normalisation(mean, std):
    with pytest.raises(ConfigError, match="expected 3 values each"):
        Network(Architecture("resnet18", 10), mean, std)


@pytest.mark.parametrize("units", [(), (4,), (6, 4)])
def test_a_head_is_what_torch_s_sequential_is(units):
    network = mlp_head(5, units, 3)
    module = mlp([5, *units, 3]).eval()
    assert (network.architecture.image_shape, network.placement) == ((1, 1, 5), "unit")
    variables = from_state_dict(network, state_of(module))
    assert {name: len(mask) for name, mask in masks.filters(variables["masks"]).items()} == {
        str(2 * i): size for i, size in enumerate(units)
    }
    features = np.random.default_rng(0).normal(size=(7, 1, 1, 5)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(features[:, 0, 0]))
    np.testing.assert_allclose(logits_of(network, variables, features), expected, rtol=0, atol=1e-5)
    assert mlp_head(5, units, 3) == network
    assert mlp_head(5, units, 3, "bfloat16").precision == "bfloat16"


@pytest.mark.parametrize(("dim", "units"), [(0, (4,)), (5, (4, 0)), (5, (-1,))])
def test_impossible_heads(dim, units):
    with pytest.raises(ConfigError, match=r"hidden units on .* features: expected sizes of 1 or more"):
        mlp_head(dim, units, 3)

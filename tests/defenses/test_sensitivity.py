"""Scores against a loop over neurons in torch, and what must not change them."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses import sensitivity
from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores, pair_scores
from rnp_jax.defenses.site_inputs import read_sources
from rnp_jax.defenses.site_maps import probe_site
from rnp_jax.errors import ConfigError, DataError, DefenseError
from rnp_jax.models import Architecture, Network, mlp_head
from tests.compiled import count_compiled
from tests.networks import build_random, images_for, network_of, state_of, torch_input

ORDERS = {"1": 1, "2": 2, "inf": np.inf}


def torch_direction(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """Of length 1, by sample."""
    flat = gradient.flatten(1)
    if norm == "inf":
        flat = flat.sign()
    elif norm == "2":
        flat = flat / flat.norm(dim=1, keepdim=True)
    else:
        place = flat.abs().argmax(1, keepdim=True)
        flat = torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign())
    return flat.reshape(gradient.shape)


def torch_scores(z, respond, x: torch.Tensor, config: HolderConfig) -> np.ndarray:
    """Constants [N, F], one neuron after the other. ``z`` maps x to pre-activations [N, F, ...]."""
    spread = np.linalg.norm(x.flatten(1).double().std(0, correction=0).numpy(), ORDERS[config.norm])
    reduce = (
        (lambda a: a)
        if z(x).ndim == 2
        else lambda a: a.flatten(2).mean(2) if config.response == "mean" else a.flatten(2).amax(2)
    )
    base = reduce(respond(z(x))).detach()
    columns = []
    for k in range(base.shape[1]):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(reduce(z(leaf))[:, k].sum(), leaf)
        direction = torch_direction(gradient, config.norm)
        best = torch.zeros(len(x))
        for radius in config.radii:
            length = radius * spread if config.relative else radius
            for sign in (1, -1):
                with torch.no_grad():
                    moved = reduce(respond(z(x + sign * length * direction)))[:, k]
                best = torch.maximum(best, (moved - base[:, k]).abs() / length**config.alpha)
        columns.append(best)
    return torch.stack(columns, 1).numpy()


def torch_head(features):
    """The fixture's head, cut after the pre-activations of its two hidden layers."""
    weights = {
        name: [torch.from_numpy(np.array(layer[leaf])) for leaf in ("kernel", "bias")]
        for name, layer in features.variables["params"].items()
    }

    def first(x):
        return x @ weights["0"][0] + weights["0"][1]

    def second(h):
        return h @ weights["2"][0] + weights["2"][1]

    return first, second


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("scope", ["feature", "local"])
def test_a_head_against_torch(features, scope, norm):
    config = HolderConfig(norm=norm, scope=scope, radii=(0.1, 0.5, 2.0))
    first, second = torch_head(features)
    x = torch.from_numpy(features.data.images.reshape(48, 6))
    hidden = torch.relu(first(x))
    expected = {
        "0": torch_scores(first, torch.relu, x, config),
        "2": torch_scores(second, torch.relu, hidden, config)
        if scope == "local"
        else torch_scores(lambda x: second(torch.relu(first(x))), torch.relu, x, config),
    }
    reductions = {"max": lambda rows: rows.max(0), "mean": lambda rows: rows.mean(0)}
    reductions["quantile"] = lambda rows: np.quantile(rows, 0.95, axis=0)
    for reduction, reduce in reductions.items():
        found = holder_scores(
            features.network, features.variables, features.data.images, replace(config, reduction=reduction)
        )
        assert list(found) == ["0", "2"]
        for layer, rows in expected.items():
            np.testing.assert_allclose(found[layer], reduce(rows), rtol=2e-4, atol=1e-5, err_msg=f"{layer} {reduction}")


@pytest.fixture(scope="module")
def convolutional():
    """A random ResNet on torch's side and ours, with the pre-activations of two norms of the first block."""
    module = build_random("resnet18")
    network = network_of("resnet18")
    images = images_for("resnet18", 3)

    def z(layer):
        def run(x):
            caught = []
            handle = module.get_submodule(layer).register_forward_hook(lambda *call: caught.append(call[2]))
            module(x)
            handle.remove()
            return caught[0]

        return run

    return SimpleNamespace(
        network=network,
        variables=from_state_dict(network, state_of(module)),
        images=images,
        x=torch_input("resnet18", images),
        z=z,
        module=module,
    )


@pytest.mark.parametrize(("response", "norm"), [("mean", "2"), ("max", "inf")])
def test_channels_against_torch(convolutional, response, norm):
    """``layer1.0.bn1`` is rectified, ``layer1.0.bn2`` added to the residual stream first."""
    sample, config = convolutional, HolderConfig(scope="feature", norm=norm, response=response)
    layers = {"layer1.0.bn1": torch.relu}
    if response == "mean":
        layers |= {"bn1": torch.relu, "layer1.0.bn2": lambda z: z}
    found = holder_scores(sample.network, sample.variables, sample.images, config, layers=tuple(layers))
    for layer, respond in layers.items():
        expected = torch_scores(sample.z(layer), respond, sample.x, config).max(0)
        np.testing.assert_allclose(found[layer], expected, rtol=2e-3, atol=1e-5, err_msg=layer)


def test_local_channels_against_torch(convolutional):
    sample, config = convolutional, HolderConfig(scope="local", radii=(0.1, 1.0))
    inputs = []
    block = sample.module.get_submodule("layer2.0")
    handle = block.get_submodule("conv1").register_forward_hook(lambda *call: inputs.append(call[1][0]))
    sample.module(sample.x)
    handle.remove()
    conv, norm = block.get_submodule("conv1"), block.get_submodule("bn1")
    expected = torch_scores(lambda u: norm(conv(u)), torch.relu, inputs[0].detach(), config).max(0)
    found = holder_scores(sample.network, sample.variables, sample.images, config, layers=["layer2.0.bn1"])
    np.testing.assert_allclose(found["layer2.0.bn1"], expected, rtol=2e-3, atol=1e-5)


def test_pairs_against_torch(features):
    first, second = torch_head(features)
    x = torch.from_numpy(features.data.images.reshape(48, 6))
    answers = {"0": torch.relu(first(x)), "2": torch.relu(second(torch.relu(first(x))))}
    doubled = np.concatenate([features.data.images, features.data.images[:5]])  # equal inputs form no pair
    for norm, order in ORDERS.items():
        rows, columns = np.triu_indices(48, 1)
        distance = torch.linalg.vector_norm(x[rows] - x[columns], order, dim=1)
        found = pair_scores(features.network, features.variables, doubled, HolderConfig(norm=norm, alpha=0.7))
        for layer, f in answers.items():
            expected = ((f[rows] - f[columns]).abs() / distance[:, None] ** 0.7).numpy()
            np.testing.assert_allclose(found[layer], expected.max(0), rtol=1e-4, atol=1e-6)
            mean, median = (
                pair_scores(features.network, features.variables, features.data.images, config)[layer]
                for config in (
                    HolderConfig(norm=norm, alpha=0.7, reduction="mean"),
                    HolderConfig(norm=norm, alpha=0.7, reduction="quantile", quantile=0.5),
                )
            )
            np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(median, np.quantile(expected, 0.5, axis=0), rtol=1e-4, atol=1e-6)


def test_local_pairs_compare_what_the_layer_reads(features):
    """A unit of the second layer: |f(h_i) − f(h_j)| ≤ ‖w‖₂ ‖h_i − h_j‖₂."""
    config = HolderConfig(scope="local", alpha=1.0)
    found = pair_scores(features.network, features.variables, features.data.images, config)
    for layer, scores in found.items():
        kernel = np.asarray(features.variables["params"][layer]["kernel"])
        assert (scores <= np.linalg.norm(kernel, axis=0) * (1 + 1e-4)).all()
        assert scores.max() > 0


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.floats(0.05, 1), st.floats(0.01, 1), st.sampled_from(["1", "2", "inf"]))
def test_with_one_radius_alpha_changes_no_ranking(alpha, radius, norm):
    network = mlp_head(6, (8, 7), 3)
    variables = network.init(jax.random.key(0))
    inputs = np.random.default_rng(0).normal(size=(12, 1, 1, 6)).astype(np.float32)
    config = HolderConfig(alpha=alpha, radii=(radius,), norm=norm)
    some, lipschitz = (holder_scores(network, variables, inputs, each) for each in (config, replace(config, alpha=1.0)))
    for layer in some:
        ratio = some[layer][lipschitz[layer] > 0] / lipschitz[layer][lipschitz[layer] > 0]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_with_several_radii_it_does(features):
    """Lower exponents weigh the larger radii more."""
    found = [
        holder_scores(
            features.network, features.variables, features.data.images, HolderConfig(alpha=alpha, radii=(0.1, 5.0))
        )
        for alpha in (0.1, 1.0)
    ]
    assert np.ptp(found[0]["2"] / found[1]["2"]) > 0.1


@pytest.mark.parametrize("scope", ["feature", "local"])
def test_neither_chunks_nor_memory_change_scores(features, scope, monkeypatch):
    """Samples of the last chunk are padded, and padding is no sample."""
    config = HolderConfig(scope=scope, reduction="mean")
    whole = holder_scores(features.network, features.variables, features.data.images, config)
    monkeypatch.setattr(sensitivity, "_SAMPLES", 7)
    monkeypatch.setattr(sensitivity, "_FLOATS", 2**12)  # so that a megabyte holds a neuron or two at a time
    chunked = holder_scores(features.network, features.variables, features.data.images, replace(config, memory_mb=1))
    for layer, scores in whole.items():
        np.testing.assert_allclose(chunked[layer], scores, rtol=1e-4)


@pytest.mark.parametrize(("memory", "chunks"), [(None, 7), ({}, 7), ({"bytes_limit": 2**37}, 1)])
def test_calls_and_fetches_follow_the_device_s_memory(memory, chunks, features, monkeypatch):
    """64 of 400 samples at a time on a device that does not say how much it has; a fetch a chunk and pass."""
    inputs = np.resize(features.data.images, (400, *features.data.images.shape[1:]))
    expected = holder_scores(features.network, features.variables, inputs, HolderConfig())
    calls, fetches, get = [], [], jax.device_get
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: memory)])
    monkeypatch.setattr(jax, "device_get", lambda tree: (fetches.append(tree), get(tree))[1])
    monkeypatch.setattr(sensitivity, "probe_site", lambda *given: (calls.append(given), probe_site(*given))[1])
    found = holder_scores(features.network, features.variables, inputs, HolderConfig())
    assert len(calls) == chunks * len(found)
    assert sum(isinstance(tree, tuple) for tree in fetches) == 2 * chunks  # beside the masks
    for layer, scores in expected.items():
        np.testing.assert_allclose(found[layer], scores, rtol=1e-4)


def test_masks_count_as_part_of_the_weights(features):
    """A pruned unit scores 0, and what reads it no longer sees it. Radii so large that no unit stays silent."""
    config = HolderConfig(radii=(9.0,))
    like = masks.filters(features.variables["masks"])
    pruned = masks.apply_filters(features.variables, masks.keep(like, [3]))
    baked = masks.bake(pruned, "unit")
    found, expected = (holder_scores(features.network, each, features.data.images, config) for each in (pruned, baked))
    assert found["0"][3] == 0
    assert (found["0"] > 0).sum() == 15
    for layer in found:
        np.testing.assert_array_equal(found[layer], expected[layer])


def test_scaling_a_layer_against_the_next_leaves_rescaled_scores(features):
    """An attacker who makes a unit look calm that way is found out; without the option, its score falls as much."""
    params = {name: dict(layer) for name, layer in features.variables["params"].items()}
    factor = np.ones(16, np.float32)
    factor[5] = 0.01
    params["0"] = {"kernel": params["0"]["kernel"] * factor[None], "bias": params["0"]["bias"] * factor}
    params["2"]["kernel"] = params["2"]["kernel"] / factor[:, None]
    hidden = {**features.variables, "params": params}
    for rescale, expected in ((False, factor), (True, np.ones(16))):
        before, after = (
            holder_scores(features.network, each, features.data.images, HolderConfig(rescale=rescale))
            for each in (features.variables, hidden)
        )
        np.testing.assert_allclose(after["0"], before["0"] * expected, rtol=1e-4)
        np.testing.assert_allclose(after["2"], before["2"], rtol=1e-3)


def test_one_program_a_layer(features):
    """Neither new data, new weights, another α nor other radii of the same number compile anything."""
    config = HolderConfig(radii=(0.11, 0.23))
    holder_scores(features.network, features.variables, features.data.images, config)
    compiled = count_compiled(probe_site), count_compiled(read_sources)
    doubled = {**features.variables, "params": jax.tree.map(lambda leaf: 2 * leaf, features.variables["params"])}
    other = replace(config, alpha=1.0, radii=(0.4, 0.9), reduction="mean")
    holder_scores(features.network, doubled, features.data.images[::-1], other)
    assert (count_compiled(probe_site), count_compiled(read_sources)) == compiled


def test_memory_depends_on_the_budget_and_not_on_the_samples():
    """Of the program that a layer's scores take, whatever the number of samples."""
    network = mlp_head(64, (256, 256), 3)
    variables = network.init(jax.random.key(0))
    draw = np.random.default_rng(0)
    taken = {}
    for count in (64, 640):
        for budget in (1, 4):
            inputs = draw.normal(size=(count, 1, 1, 64)).astype(np.float32)
            config = HolderConfig(memory_mb=budget)
            maps, reads = sensitivity._begin(network, variables, inputs, config, ["2"])
            reach, arrays = maps["2"]
            u, steps = reads.shapes()[reach.source], sensitivity._steps(reads, config)[reach.source]
            chunk = sensitivity._neurons(reach, arrays, u, config)
            compiled = probe_site.lower(reach, arrays, u, steps, "2", chunk).compile()
            taken[count, budget] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    assert taken[64, 1] == taken[640, 1]
    assert taken[64, 4] == taken[640, 4]
    assert 2 * taken[64, 1] < taken[64, 4] < 4
    assert taken[64, 1] < 1


def test_a_hidden_unit_s_scores_are_defined_for_any_layer_width():
    """One unit, one sample (absolute radii), a unit that is never active, and a layer without weights."""
    network = mlp_head(2, (1, 1), 2)
    params = network.init(jax.random.key(0))["params"]
    params = {**params, "0": {"kernel": np.array([[1.0], [2.0]], np.float32), "bias": np.zeros(1, np.float32)}}
    params["2"] = {"kernel": np.zeros((1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    variables = {**network.init(jax.random.key(0)), "params": params}
    config = HolderConfig(alpha=1.0, norm="inf", radii=(0.5,), relative=False)
    found = holder_scores(network, variables, np.full((1, 1, 1, 2), -0.1, np.float32), config)
    np.testing.assert_allclose(found["0"], [2.4], rtol=1e-6)
    np.testing.assert_array_equal(found["2"], [0.0])


@pytest.mark.parametrize("score", [holder_scores, pair_scores])
def test_inputs_that_cannot_be_scored(features, score):
    network, variables, images = features.network, features.variables, features.data.images
    for wrong in (images[:, 0, 0], images[..., :5], images[:0]):
        with pytest.raises(DataError, match=r"expected \(N, 1, 1, 6\)"):
            score(network, variables, wrong, HolderConfig())
    spoiled = images.copy()
    spoiled[[4, 7], 0, 0, 1] = np.nan, np.inf
    with pytest.raises(DataError, match="2 of 48 inputs are not finite, first input 4"):
        score(network, variables, spoiled, HolderConfig())
    for scope in ("feature", "local"):
        with pytest.raises(DefenseError, match="all samples are equal in the input of 0"):
            score(network, variables, images[:1].repeat(9, 0), HolderConfig(scope=scope))


def test_images_of_another_shape(convolutional):
    with pytest.raises(DataError, match="expected"):
        holder_scores(convolutional.network, convolutional.variables, convolutional.images[..., :1], HolderConfig())


def test_networks_that_cannot_be_scored(features):
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    with pytest.raises(DefenseError, match="no hidden layer"):
        holder_scores(network, network.init(jax.random.key(0)), features.data.images, HolderConfig())
    params = jax.tree.map(lambda leaf: leaf * np.nan, features.variables["params"])
    with pytest.raises(DefenseError, match="0 has scores that are not finite"):
        holder_scores(features.network, {**features.variables, "params": params}, features.data.images, HolderConfig())
    for layers in (["1"], []):
        with pytest.raises(ConfigError, match="expected some of 0, 2"):
            holder_scores(features.network, features.variables, features.data.images, HolderConfig(), layers=layers)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 0.0}, "alpha 0.0: expected above 0"),
        ({"alpha": 1.1}, "at most 1"),
        ({"radii": ()}, "expected one or more numbers above 0"),
        ({"radii": (0.1, 0.0)}, "above 0"),
        ({"radii": (np.inf,)}, "above 0"),
        ({"quantile": 1.01}, "quantile 1.01: expected a number in"),
        ({"norm": "3"}, "norm '3': choose one of 1, 2, inf"),
        ({"reduction": "median"}, "choose one of max, mean, quantile"),
        ({"memory_mb": 0}, "memory_mb 0: expected 1 or more"),
    ],
)
def test_impossible_settings(options, words):
    with pytest.raises(ConfigError, match=words):
        HolderConfig(**options)

"""Bounds on activations: what they do, in every family, and that the documented lines of PyTorch do the same."""

import textwrap
from collections.abc import Callable
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network, bounds, convnext, vision_transformer
from rnp_jax.models.bounds import apply_bounds, bound_entries, bounds_in, find_bounds
from rnp_jax.models.chain import activate
from rnp_jax.models.inference import infer_architecture
from rnp_jax.types import Batch, Variables
from tests import parity
from tests.networks import MLP_IMAGE, build_random, state_of
from tests.oracle import kuangliu, other_zoos
from tests.oracle.mobilenet_v2 import MobileNetV2
from tests.oracle.vgg import SmallVgg, Vgg
from tests.oracle.vision import torchvision_models
from tests.oracle.wide_resnet import WideResNet

models = torchvision_models()
SNIPPET = textwrap.dedent((bounds.__doc__ or "").partition("::\n")[2])
KEY = jax.random.key(0)


def draw(network: Network, variables: Variables, quantile: float = 0.8) -> Variables:
    """Bounds that cut some activations: around a high quantile of each activation, a few below 0."""
    images = np.random.default_rng(1).random((2, *network.architecture.image_shape), np.float32)
    rng = np.random.default_rng(2)
    found = {}
    for layer, values in jax.jit(network.activated)(variables, images).items():
        spread = float(values.std())
        found[layer] = rng.normal(np.quantile(values, quantile), spread, values.shape[1:]).astype(np.float32)
        found[layer].flat[0] = -1.0
    return apply_bounds(variables, {layer: jnp.asarray(value) for layer, value in found.items()})


def run_snippet(module: nn.Module, state: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Logits by the lines that a reader pastes; the module must hold every weight of the state dict."""
    counters = {key: value for key, value in module.state_dict().items() if key.endswith("num_batches_tracked")}
    given = {key: torch.from_numpy(np.array(value)) for key, value in state.items()} | counters
    height, width, channels = images.shape[1:]
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    pixels = pixels.flatten(1) if (height, width, channels) == MLP_IMAGE else pixels
    names = {"state_dict": given, "model": module, "images": pixels}
    exec(SNIPPET, names)
    return names["logits"].numpy()


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return parity.fill_constants(parity.randomize(build()))


def tiny_convnext() -> nn.Module:
    """One block a stage. The published deviation of 0.02 would leave little of a narrow network."""
    widths = (4, 8, 16, 32, None)
    stages = [models.convnext.CNBlockConfig(widths[i], widths[i + 1], 1) for i in range(4)]
    module = models.ConvNeXt(stages, num_classes=5)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight)
    return module


def slow(*values) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


FAMILIES = [
    ("resnet18", lambda: build_random("resnet18"), {}),
    ("mlp", lambda: build_random("mlp"), {"image_shape": MLP_IMAGE}),
    ("ibau_small_vgg16", lambda: SmallVgg(4, 5), {}),
    ("tiny_convnext", tiny_convnext, {"image_shape": (33, 36, 3)}),
    ("tiny_transformer", lambda: models.VisionTransformer(24, 8, 2, 2, 8, 32, num_classes=5), {}),
    slow("preactresnet18", lambda: build_random("preactresnet18"), {}),
    slow("resnet50", lambda: build_random("resnet50"), {}),
    slow("vgg11", lambda: Vgg(11, False, "torchvision", 4, 5), {}),
    slow("wrn10", lambda: WideResNet(10, 1), {}),
    slow("cifar_mobilenet_v2", lambda: MobileNetV2(8), {}),
    slow(
        "mobilenet_v2",
        lambda: models.mobilenet_v2(width_mult=0.25, num_classes=5),
        {"image_shape": (64, 64, 3), "name": "mobilenet_v2"},
    ),
    slow("weiaicunzai_seresnet18", lambda: other_zoos.seresnet((2, 2, 2, 2), False, 16), {}),
    slow("cifar_pnasnet_b", lambda: kuangliu.pnasnet(4, True), {}),
    slow("mobilenet_v3_small", lambda: models.mobilenet_v3_small(num_classes=5), {"image_shape": (64, 64, 3)}),
    slow("efficientnet_b0", lambda: models.efficientnet_b0(num_classes=5), {"image_shape": (64, 64, 3)}),
    slow("densenet121", lambda: models.densenet121(num_classes=5), {"image_shape": (64, 64, 3)}),
]


@pytest.mark.parametrize(
    ("name", "build", "arguments"), FAMILIES, ids=lambda value: value if type(value) is str else ""
)
def test_the_documented_lines_of_torch_give_our_logits(name, build, arguments):
    designs = {
        "tiny_convnext": convnext.design((1, 1, 1, 1), 8),
        "tiny_transformer": vision_transformer.design(8, 2, 2, 8),
    }
    module = seeded(build)
    with parity.registered(**designs):
        network, variables = parity.load(module, **arguments)
        bounded = draw(network, variables)
        state = to_state_dict(network, bounded)
        assert (
            bounds_in(state)
            == list(state)[-len(bounds_in(state)) :]
            == [entry.key for entry in bound_entries(network.architecture)]
        )
        images: Any = np.random.default_rng(0).random((3, *network.architecture.image_shape), np.float32)
        plain, found = jax.jit(lambda *each: [network(one, images)[0] for one in each])(variables, bounded)
        assert np.abs(plain - found).max() > 1e-2 * np.abs(plain).max(), f"{name}: no activation was cut"
        expected = run_snippet(module, state, images)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))
        back = find_bounds(from_state_dict(network, state)["masks"])
        jax.tree.map(np.testing.assert_array_equal, back, find_bounds(bounded["masks"]))


@pytest.fixture(scope="module")
def small() -> tuple[Network, Variables, np.ndarray]:
    """A small network with convolutions, its variables and 6 images."""
    network = Network(Architecture("wanet_mnist", 3, 2, image_shape=(28, 28, 1)), (0.5,), (0.3,))
    images = np.random.default_rng(0).random((6, 28, 28, 1), np.float32)
    return network, network.init(KEY), images


def test_the_documented_lines_notice_an_activation_that_they_do_not_know():
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.clamp(min=0)

    state = {f"activation_bounds.00{i}.{2 * i}": np.ones(3, np.float32) for i in range(2)}
    with pytest.raises(RuntimeError, match="bounds are left"):
        run_snippet(nn.Sequential(nn.ReLU(), Unknown()), state, np.zeros((1, 3, 3, 3), np.float32))


def test_a_network_comes_without_bounds(small):
    network, variables, _ = small
    assert find_bounds(variables["masks"]) == {}
    assert set(variables) == {"params", "batch_stats", "masks"}
    assert bounds_in(to_state_dict(network, variables)) == []


def test_entries_are_in_the_order_of_the_activations_with_torch_s_shapes(small):
    found = bound_entries(small[0].architecture)
    assert [(each.key, each.shape, each.torch_shape) for each in found] == [
        ("activation_bounds.000.conv1", (14, 14, 2), (2, 14, 14)),
        ("activation_bounds.001.layer2.bn1", (14, 14, 2), (2, 14, 14)),
        ("activation_bounds.002.layer3.bn1", (7, 7, 4), (4, 7, 7)),
        ("activation_bounds.003.linear6", (32,), (32,)),
    ]
    value = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(found[0].to_torch(found[0].from_torch(value)), value)


def test_a_resnet18_has_one_bound_for_each_neuron_behind_its_17_relus():
    found = bound_entries(Architecture("resnet18", 10))
    assert (len(found), sum(int(np.prod(each.shape)) for each in found)) == (17, 557_056)
    assert [each.layer for each in found[:4]] == ["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.1.bn1"]


def infinite(network: Network, variables: Variables, value: float = np.inf) -> Variables:
    shapes = {each.layer: each.shape for each in bound_entries(network.architecture)}
    return apply_bounds(variables, {layer: jnp.full(shape, value) for layer, shape in shapes.items()})


@pytest.mark.parametrize("train", [False, True])
def test_infinite_bounds_change_nothing(small, train):
    network, variables, images = small
    expected = jax.jit(network, static_argnames="train")(variables, images, train=train)
    found = jax.jit(network, static_argnames="train")(infinite(network, variables), images, train=train)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6), found, expected)


def test_lower_bounds_only_lower_the_activation_and_what_is_below_0_is_0(small):
    network, variables, images = small
    activated = jax.jit(network.activated)
    before = None
    for value in (np.inf, 0.5, 0.2, 0.0, -3.0):
        found = activated(infinite(network, variables, value), images)
        assert all((each <= max(value, 0)).all() for each in found.values())
        assert before is None or (found["conv1"] <= before).all()
        before = found["conv1"]
    assert (before == 0).all()
    one = {each.layer: jnp.full(each.shape, np.inf) for each in bound_entries(network.architecture)}
    one["conv1"] = one["conv1"].at[3, 4, 1].set(0.1)
    found, free = activated(apply_bounds(variables, one), images)["conv1"], activated(variables, images)["conv1"]
    np.testing.assert_allclose(found[:, 3, 4, 1], np.minimum(free[:, 3, 4, 1], 0.1), atol=1e-6)
    np.testing.assert_allclose(found.at[:, 3, 4, 1].set(0), free.at[:, 3, 4, 1].set(0), atol=1e-6)


def test_slopes_are_torch_s_where_values_are_equal(small):
    """A neuron that never fires has the bound 0, which the penalty moves and the loss does not."""
    bound, z = jnp.array([0.0, 0.0, 1.0, 2.0, -1.0]), jnp.array([[-1.0, 1.0, 1.0, 1.0, 1.0]])

    class Parent(linen.Module):
        @linen.compact
        def __call__(self, x):
            return activate(self, "a", x)

    def total(bound, z):
        a: Any = Parent().apply({"masks": {"a": {"bound": bound}}}, z)
        return a.sum()

    found = jax.grad(total, argnums=(0, 1))(bound, z)
    b, x = torch.tensor(np.array(bound), requires_grad=True), torch.tensor(np.array(z), requires_grad=True)
    torch.clamp(torch.relu(x), max=torch.clamp(b, min=0).unsqueeze(0)).sum().backward()
    assert b.grad is not None
    assert x.grad is not None
    np.testing.assert_array_equal(found[0], b.grad)
    np.testing.assert_array_equal(found[1], x.grad)


def test_segments_features_and_masks_keep_them(small):
    network, variables, images = small
    bounded = draw(network, variables, 0.5)
    data = Batch(images, np.zeros(6, np.int32))
    logits = np.asarray(jax.jit(network)(bounded, images)[0])
    np.testing.assert_array_equal(predict(network, bounded, data).labels[0], logits.argmax(1))
    loss = predict(network, bounded, data).loss[0]
    np.testing.assert_allclose(loss, -np.asarray(jax.nn.log_softmax(logits))[:, 0], rtol=1e-4, atol=1e-5)
    pruned = masks.bake(masks.apply_filters(bounded, masks.ones(masks.filters(bounded["masks"]))))
    assert jax.tree.structure(pruned) == jax.tree.structure(bounded)
    head = bounded["params"]["linear9"]
    features = np.asarray(jax.jit(network.features)(bounded, images)[0])
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"][None], logits, rtol=1e-4, atol=1e-4)


def test_bounds_of_no_layer(small):
    network, variables, _ = small
    with pytest.raises(KeyError, match=r"bounds do not fit the network: \+ \['bn7'\]"):
        apply_bounds(variables, {"bn7": jnp.ones(3)})
    bounded = infinite(network, variables)
    assert jax.tree.structure(apply_bounds(bounded, {})) == jax.tree.structure(variables)


def test_a_file_with_bounds_is_the_same_architecture():
    module = build_random("resnet18")
    network, variables = parity.load(module)
    state = to_state_dict(network, infinite(network, variables, 1.0))
    assert len(bounds_in(state)) == 17
    assert infer_architecture({key: value.shape for key, value in state.items()}) == network.architecture
    weights = {key: value for key, value in state.items() if key not in bounds_in(state)}
    for key, value in state_of(module).items():
        if key in weights:
            np.testing.assert_array_equal(weights[key], value)

"""NPD against torch: the perturbation, the four losses and the polarizer after steps of SGD; and where it lies."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.defenses import phase
from rnp_jax.defenses.npd import (
    NpdConfig,
    choose_layer,
    find_targeted,
    fold,
    measure_losses,
    npd,
    plug_in,
    project,
    start_polarizing,
)
from rnp_jax.defenses.phase import run_phase
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch, Variables
from tests.compiled import count_compiled
from tests.defenses.twin import TorchTwin, Twin, torch_batches, twin_data, variables_of

KEY = jax.random.key(0)
LAYER = "conv2"
QUICK = NpdConfig(epochs=2, batch_size=6, learning_rate=0.05, radius=0.7, inner_step=0.05, shuffle=False)


def plug_of(channels: int = 5) -> nn.Conv2d:
    """The polarizer as the release makes it."""
    plug = nn.Conv2d(channels, channels, 1, bias=False)
    with torch.no_grad():
        plug.weight.copy_(torch.eye(channels)[:, :, None, None])
    return plug


def plugged(module: TorchTwin, plug: nn.Conv2d) -> TorchTwin:
    """The network with the polarizer in front of ``LAYER``; only that learns."""
    module.requires_grad_(False)
    module.conv2 = nn.Sequential(plug, module.get_submodule(LAYER))
    return module.eval()


def matrix(plug: nn.Conv2d) -> np.ndarray:
    return plug.weight.detach().numpy()[:, :, 0, 0].copy()


def torch_delta(net: nn.Module, x: torch.Tensor, targets: torch.Tensor, config: NpdConfig) -> torch.Tensor:
    delta = torch.zeros_like(x)
    for _ in range(config.inner_steps):
        delta.requires_grad_()
        loss = F.cross_entropy(net((x + delta).clamp(0, 1)), targets, reduction="none").clamp(-80, 80).mean()
        (slope,) = torch.autograd.grad(loss, delta)
        delta = (delta - config.inner_step * slope.sign()).detach()
        for row in delta:
            row *= min(1.0, config.radius / row.norm().item())
        with torch.no_grad():
            reached = (net((x + delta).clamp(0, 1)).argmax(1) == targets).float().mean()
        if reached > config.enough:
            break
    return delta


def torch_targets(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    logits = logits.detach().clone()
    logits[torch.arange(len(y)), y] = -1e9
    return logits.argmax(1)


def torch_losses(clean: torch.Tensor, adversarial: torch.Tensor, y: torch.Tensor, targets: torch.Tensor):
    left = torch.log(1.0001 - F.softmax(adversarial, 1) + 1e-12)
    top = F.softmax(adversarial, 1).argsort(1)
    wrong = torch.where(top[:, -1] == y, top[:, -2], top[:, -1])
    return [
        F.cross_entropy(clean, y),
        F.cross_entropy(adversarial, clean.argmax(1)),
        F.nll_loss(left, wrong),
        F.nll_loss(left, targets),
    ]


def pixels(data: Batch) -> jax.Array:
    return jnp.asarray(data.images).astype(jnp.float32) / 255


def logits_of(variables: Variables):
    return lambda images: Twin()(variables, images)[0]


def moved_plug() -> nn.Conv2d:
    plug = plug_of()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        plug.weight += 0.4 * torch.randn(plug.weight.shape)
    return plug


def test_folding_is_a_1x1_convolution_in_front():
    module, plug, data = TorchTwin().eval(), moved_plug(), twin_data(8)
    ours = plug_in(variables_of(module), LAYER, jnp.asarray(matrix(plug)))
    with torch.no_grad():
        ((x, _),) = torch_batches(data, 8)
        before, expected = module(x), plugged(module, plug)(x)
    np.testing.assert_allclose(logits_of(ours)(pixels(data)), expected, rtol=1e-4, atol=1e-5)
    assert (expected - before).abs().max() > 0.1


@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (1, 1, 5, 2), (5, 4)])
def test_the_identity_changes_no_bit(shape):
    kernel = jnp.asarray(np.random.default_rng(0).normal(0, 1, shape).astype(np.float32))
    np.testing.assert_array_equal(fold(kernel, jnp.eye(5)), kernel)
    variables = variables_of(TorchTwin())
    images = pixels(twin_data(8))
    np.testing.assert_array_equal(
        logits_of(plug_in(variables, LAYER, jnp.eye(5)))(images), logits_of(variables)(images)
    )


@pytest.mark.parametrize("enough", [0.0, 0.6, 1.0])
def test_perturbations_are_torch_s(enough):
    module, data, config = TorchTwin().eval(), twin_data(8), replace(QUICK, inner_steps=4, enough=enough)
    ((x, y),) = torch_batches(data, 8)
    targets = torch_targets(module(x), y)
    expected = torch_delta(module, x, targets, config)
    ours = jnp.asarray(targets.numpy().astype(np.int32))
    found = find_targeted(logits_of(variables_of(module)), pixels(data), ours, config, pixels=True)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), atol=1e-6)
    assert np.abs(found).max() > 0


def test_enough_ends_the_steps_and_not_before_the_first():
    logits, data = logits_of(variables_of(TorchTwin())), twin_data(8)
    targets = logits(pixels(data)).argmax(-1)  # reached before any step
    settings = replace(QUICK, radius=1e9, inner_steps=5)
    one, all_of_them = (
        find_targeted(logits, pixels(data), targets, replace(settings, enough=enough), pixels=True)
        for enough in (0.6, 1.0)
    )
    assert set(np.unique(np.abs(one))) <= {0.0, np.float32(0.05)}
    assert np.abs(all_of_them).max() > np.float32(0.05)


@pytest.mark.parametrize("radius", [0.0, 0.3, 3.0])
def test_perturbations_stay_within_the_radius(radius):
    data = twin_data(8)
    logits, targets = logits_of(variables_of(TorchTwin())), jnp.arange(8, dtype=jnp.int32) % 4
    config = replace(QUICK, radius=radius, inner_step=0.4, inner_steps=3, enough=1.0)
    found = find_targeted(logits, pixels(data), targets, config, pixels=True)
    norms = np.sqrt(np.square(found).sum((1, 2, 3)))
    assert (norms <= radius * (1 + 1e-6)).all()
    assert radius == 0 or norms.max() == pytest.approx(radius, rel=1e-5)


def test_short_perturbations_keep_their_length():
    delta = np.zeros((3, 2, 2, 1), np.float32)
    delta[1, 0, 0], delta[2] = 0.5, 2.0
    found = project(jnp.asarray(delta), 1.0)
    np.testing.assert_array_equal(found[:2], delta[:2])
    np.testing.assert_allclose(found[2], 0.5)


def test_the_four_losses_are_torch_s():
    rng = np.random.default_rng(0)
    clean, adversarial = (rng.normal(0, 6, (40, 5)).astype(np.float32) for _ in range(2))
    labels = (np.arange(40) % 5).astype(np.int32)
    one, other, y = torch.tensor(clean), torch.tensor(adversarial), torch.tensor(labels).long()
    targets = torch_targets(one, y)
    assert (targets != y).all()
    expected = [float(each) for each in torch_losses(one, other, y, targets)]
    wanted = jnp.asarray(targets.numpy().astype(np.int32))
    found = measure_losses(jnp.asarray(clean), jnp.asarray(adversarial), jnp.asarray(labels), wanted)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "weights", [(1.0, 0.4, 0.4, 0.4), (0.5, 0.0, 0.7, 0.0), (1.0, 0.0, 0.0, 0.0)], ids=["all", "some", "cross_entropy"]
)
def test_the_polarizer_is_torch_s(weights):
    """Two epochs of two batches; with λ₁ alone it is SGD on the cross-entropy of one matrix."""
    config = replace(QUICK, clean=weights[0], kept=weights[1], wrong=weights[2], target=weights[3])
    data, module, plug = twin_data(), TorchTwin().eval(), plug_of()
    ours = variables_of(module)
    fixed = {name: ours[name] for name in ("params", "masks")}
    run = start_polarizing(Twin(), LAYER, config)
    trained, stats, history, _ = run_phase(run, {"plug": jnp.eye(5)}, fixed, ours["batch_stats"], data, KEY, None)
    net = plugged(module, plug)
    sgd = torch.optim.SGD(plug.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=5e-4)
    losses = []
    for x, y in torch_batches(data, 6) * 2:
        clean = net(x)
        targets = torch_targets(clean, y)
        if weights[1:] == (0, 0, 0):
            loss = F.cross_entropy(clean, y)
        else:
            adversarial = net((x + torch_delta(net, x, targets, config)).clamp(0, 1))
            parts = torch_losses(clean, adversarial, y, targets)
            loss = sum((w * part for w, part in zip(weights, parts, strict=True)), torch.zeros(()))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(len(x) * loss.item())
    np.testing.assert_allclose(trained["plug"], matrix(plug), rtol=1e-3, atol=1e-4)
    assert np.abs(matrix(plug) - np.eye(5)).max() > 0.01
    np.testing.assert_allclose(history["loss"], np.reshape(losses, (2, 2)).sum(1) / 10, rtol=1e-3)
    assert jax.tree.all(jax.tree.map(np.array_equal, stats, ours["batch_stats"]))


def abstract(name: str, **options: Any) -> tuple[Network, Variables]:
    """A network and the shapes of its variables."""
    architecture = Architecture(name, 5, options.pop("width", 4), **options)
    network = Network(architecture, placement=architecture.place())
    return network, jax.eval_shape(network.init, KEY)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet18", {}, "layer4.1.conv1"),
        ("preactresnet18", {}, "layer4.1.conv1"),
        ("resnet50", {}, "layer4.2.conv2"),
        ("cifar_vgg11_bn", {}, "features.22"),
        ("cifar_vgg11", {}, "features.16"),
        ("mlp", {"layers": (("0", 7), ("2", 6), ("4", 6), ("6", 5)), "image_shape": (2, 2, 3)}, "2"),
        ("mlp", {"layers": (("0", 7), ("2", 5)), "image_shape": (2, 2, 3)}, "0"),
    ],
)
def test_it_lies_in_front_of_the_last_but_one_layer_of_filters(name, options, expected):
    assert choose_layer(*abstract(name, **options)) == expected


def odd(*groups: int) -> tuple[Network, Variables]:
    """Convolutions a, b, … of these groups, and a shortcut."""
    names = [*"abcd"[: len(groups)], "shortcut"]
    layers = {name: SimpleNamespace(groups=each) for name, each in zip(names, (*groups, 1), strict=True)}
    network = SimpleNamespace(sites=(), layers=layers, architecture=SimpleNamespace(name="odd"))
    leaves = {name: {"kernel": jnp.zeros((1, 1, 2, 2))} for name in names}
    return cast(Network, network), {"params": leaves, "masks": {name: {"neuron": jnp.ones(2)} for name in names}}


def test_of_grouped_layers_the_nearest_earlier_one_serves():
    assert choose_layer(*odd(1, 1, 2, 1)) == "b"
    assert choose_layer(*odd(1, 2, 1, 1)) == "c"
    assert choose_layer(*odd(1)) == "a"
    with pytest.raises(DefenseError, match="odd has no layer for NPD among a, b: expected one without groups"):
        choose_layer(*odd(2, 2, 1))


def test_a_linear_network_has_no_place_for_it():
    with pytest.raises(DefenseError, match="no filters"):
        choose_layer(*abstract("mlp", layers=(("0", 5),), image_shape=(2, 2, 3)))


def test_one_kernel_alone_changes(features):
    config = NpdConfig(epochs=3, batch_size=16, learning_rate=0.1)
    found = npd(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    before, after = (jax.tree.leaves_with_path(each) for each in (features.variables, found.variables))
    changed = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, one), (_, other) in zip(before, after, strict=True)
        if not np.array_equal(one, other)
    ]
    assert changed == ["params.0.kernel"]
    assert (found.kind, found.choice.pruned, list(found.history), list(found.timing)) == (
        "weights",
        0,
        ["npd"],
        ["npd"],
    )
    assert "a linear map of the 6 channels that 0 reads is trained" in found.choice.rule
    assert found.choice.holdout_acc_after is not None


def test_a_second_model_compiles_nothing(features):
    config = NpdConfig(epochs=2, batch_size=24)
    before = count_compiled(phase._run_until)
    for seed in (0, 1):
        npd(features.network, features.variables, features.data, jax.random.key(seed), config)
    assert count_compiled(phase._run_until) - before == 1


def test_a_loss_that_diverges(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    with pytest.raises(DefenseError, match="npd diverged"):
        npd(features.network, {**features.variables, "params": params}, features.data, KEY, NpdConfig(epochs=1))


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"inner_steps": 0}, {"learning_rate": 0.0}, {"radius": -1.0}, {"enough": 1.5}]
)
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected"):
        NpdConfig(**options)

"""One check for every architecture: ours against a torch module with the same weights, in and out.

Glossary: B images, [B, C, H, W] in torch and [B, H, W, C] here.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax import defenses, masks
from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses.site_maps import find
from rnp_jax.errors import DefenseError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Network, Placement, inference, registry
from rnp_jax.models.design import Design
from rnp_jax.models.inference import infer_architecture
from rnp_jax.models.layers import BatchNorm
from rnp_jax.types import Batch, Variables

_DEFENSES = {
    "rnp": defenses.RnpConfig(
        defenses.UnlearnConfig(max_epochs=1, batch_size=4),
        defenses.RecoverConfig(epochs=1, batch_size=4),
        defenses.PruneConfig("release", threshold=0.9),
    ),
    "clp": defenses.ClpConfig(defenses.ThresholdConfig("number", number=1)),
    "anp": defenses.AnpConfig(
        iterations=2,
        batch_size=4,
        learning_rate=100.0,
        log_every=1,
        prune=defenses.PruneConfig("release", threshold=0.9),
    ),
    "holder": defenses.HolderPruneConfig(
        defenses.HolderConfig(scope="local", radii=(0.1,)), defenses.ThresholdConfig("number", number=1)
    ),
    "fp": defenses.FinePruningConfig(accuracy_drop=1.0, fine_tune=False),
}


@contextlib.contextmanager
def registered(**designs: Design) -> Iterator[None]:
    """Further architectures while the block runs, such as a shallow one of a family."""
    known, names = {**registry.DESIGNS, **designs}, (*registry.ARCHITECTURES, *designs)
    with pytest.MonkeyPatch.context() as patch:
        for module in (registry, inference):
            patch.setattr(module, "DESIGNS", known)
            patch.setattr(module, "ARCHITECTURES", names)
        yield


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every normalisation's parameters and statistics moved away from their defaults; evaluation mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in module.modules():
            for name in ("weight", "running_var") if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm) else ():
                if getattr(layer, name, None) is not None:
                    getattr(layer, name).uniform_(0.5, 1.5)
            for name in ("bias", "running_mean") if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm) else ():
                if getattr(layer, name, None) is not None:
                    getattr(layer, name).normal_(0, 0.2)
    return module.eval()


def fill_constants(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter of one repeated value, such as a zero bias or a tiny layer scale, drawn anew; evaluation mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in module.parameters():
            if parameter.min() == parameter.max():
                parameter.normal_(0.5, 0.2)
    return module.eval()


def state_of(module: nn.Module) -> dict[str, np.ndarray]:
    """A copy of the state dict as arrays."""
    return {name: value.numpy().copy() for name, value in module.state_dict().items()}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes by key; the module may lie on the meta device."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def copy_of(module: nn.Module) -> nn.Module:
    """A module of its own with the same weights, for checks that change them."""
    return copy.deepcopy(module)


def load(module: nn.Module, name: str | None = None, **arguments) -> tuple[Network, Variables]:
    """Our network with the module's weights, recognised from them alone; images in [0, 1] are not normalised."""
    state = state_of(module)
    found = infer_architecture({key: value.shape for key, value in state.items()}, name=name, **arguments)
    channels = found.image_shape[-1]
    network = Network(found, (0.0,) * channels, (1.0,) * channels, found.place())
    return network, from_state_dict(network, state)


def recognised(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Every architecture whose structure a state dict of these shapes has."""
    return [name for name in registry.DESIGNS if inference.matches(name, shapes)]


def check_parity(
    module: nn.Module, network: Network, variables: Variables, batch: int = 2, tolerance: float = 1e-4, seed: int = 0
) -> float:
    """Logits and the output of every layer that both sides name, in evaluation mode; the largest |Δlogit|.

    Fails where a layer with parameters of ours has no counterpart of its name in torch, but for bare values and the
    three parts of an attention's input projection.
    """
    height, width, channels = network.architecture.image_shape
    images = np.random.default_rng(seed).random((batch, height, width, channels), np.float32)
    theirs: dict[str, np.ndarray] = {}

    def note(name: str):
        def hook(module, _inputs, output):
            if isinstance(module, nn.MultiheadAttention):  # which computes its output layer without calling it
                theirs[f"{name}.out_proj"] = output[0].detach().numpy().copy()
            elif isinstance(output, torch.Tensor):
                theirs[name] = output.detach().numpy().copy()

        return hook

    hooks = [each.register_forward_hook(note(name)) for name, each in module.named_modules() if name]
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    for hook in hooks:
        hook.remove()
    logits, ours = jax.jit(lambda v, x: (network(v, x)[0], network.activations(v, x)))(variables, images)
    named = {layer for layer, _ in masks.layers(variables["masks"])}
    plain = {layer for layer in named if "in_proj." not in layer and "value" not in find(variables["params"], layer)}
    assert plain <= set(theirs), plain - set(theirs)
    for layer in sorted(plain):
        wanted = theirs[layer]
        found = np.asarray(ours[layer], np.float32)
        first = isinstance(module.get_submodule(layer), nn.Conv2d | nn.BatchNorm2d)  # channels
        if wanted.ndim == 4 and (first or wanted.shape != found.shape):
            wanted = wanted.transpose(0, 2, 3, 1)
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale, err_msg=layer)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance * scale)
    return float(np.abs(np.asarray(logits) - expected).max())


def check_logits(module: nn.Module, network: Network, variables: Variables, batch: int = 2, seed: int = 0) -> None:
    """Logits alone, where layers have other names in torch: those of transformers' outputs too."""
    images = np.random.default_rng(seed).random((batch, *network.architecture.image_shape), np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    expected = getattr(expected, "logits", expected).numpy()
    logits = np.asarray(jax.jit(network)(variables, images)[0])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


def check_round_trip(module: nn.Module, network: Network, variables: Variables) -> None:
    """Import and export give every tensor back bit for bit, and the module takes them strictly."""
    before, after = state_of(module), to_state_dict(network, variables)
    for key, value in after.items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)
        assert value.shape == before[key].shape, key
    rest = {key: value for key, value in before.items() if key not in after}
    assert all(key.endswith("num_batches_tracked") for key in rest), sorted(rest)
    module.load_state_dict(
        {key: torch.from_numpy(np.array(value)) for key, value in (after | rest).items()}, strict=True
    )


def check_pruning(module: nn.Module, network: Network, variables: Variables, seed: int = 0) -> None:
    """Filters masked here at random, and exported: torch computes what ours does with the masks."""
    rng = np.random.default_rng(seed)
    filters = masks.filters(variables["masks"])
    assert filters, "no filters at the default placement"
    chosen = {name: (rng.random(value.shape) > 0.3).astype(np.float32) for name, value in filters.items()}
    masked = masks.apply_filters(variables, chosen)
    tensors = {key: torch.from_numpy(value) for key, value in to_state_dict(network, masked).items()}
    rest = {key: value for key, value in module.state_dict().items() if key not in tensors}
    module.load_state_dict(tensors | rest, strict=True)
    images = rng.random((2, *network.architecture.image_shape), np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    found = np.asarray(jax.jit(network)(masked, images)[0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


def check_training_step(network: Network, variables: Variables, seed: int = 0) -> None:
    """The loss in training mode has finite gradients for every parameter and every filter mask, none of them all 0."""
    rng = np.random.default_rng(seed)
    images = rng.random((4, *network.architecture.image_shape), np.float32)

    def loss(params, filters):
        logits, _ = network(masks.apply_filters({**variables, "params": params}, filters), images, train=True)
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], masks.filters(variables["masks"]))
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients[1]))


def check_placement(module: nn.Module, network: Network, placement: Placement) -> None:
    """``check_pruning`` of the module's weights with filter masks elsewhere."""
    moved = replace(network, placement=placement)
    check_pruning(module, moved, from_state_dict(moved, state_of(module)))


def check_sites(network: Network, variables: Variables, pooled: tuple[str, ...] = (), seed: int = 0) -> None:
    """What each site normalises is the sum of its producers' outputs; what a layer reads of it is its activation's.

    Sites in ``pooled`` are read through pooling only. Bottleneck and basic blocks have one producer a site.
    """
    images = np.random.default_rng(seed).random((2, *network.architecture.image_shape), np.float32)
    outputs, inputs = jax.jit(lambda v, x: (network.activations(v, x), network.inputs(v, x)))(variables, images)
    for site in network.sites:
        if site.direct and site.producers not in ((), (site.layer,)):
            given = sum(np.asarray(outputs[producer]) for producer in site.producers)
            np.testing.assert_allclose(inputs[site.layer], given, rtol=1e-4, atol=1e-4, err_msg=site.layer)
        read = np.asarray(site.activate(outputs[site.layer]))
        same = any(x.shape == read.shape and np.allclose(x, read, atol=1e-5) for x in inputs.values())
        assert site.layer in pooled or same == (site.activation is not None), site


def check_defenses(network: Network, variables: Variables, names: tuple[str, ...] = tuple(_DEFENSES)) -> None:
    """Every defense runs to its end on 8 random images; CLP says so where there is no batch norm to score.

    Masks move, filters with the highest scores are pruned, what is pruned is what the result counts, and the network
    still computes finite logits.
    """
    shape, classes = network.architecture.image_shape, network.architecture.num_classes
    images = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
    data = Batch(images, np.arange(8, dtype=np.int32) % classes)
    normalized = any(isinstance(network.layers[site.layer], BatchNorm) for site in network.sites)
    for name in names:
        arguments = (network, variables, data, jax.random.key(0), _DEFENSES[name])
        if name == "clp" and not normalized:
            with pytest.raises(DefenseError, match="no batch norm"):
                defenses.METHODS[name](*arguments)
            continue
        result = defenses.METHODS[name](*arguments, holdout=data)
        zeros = sum(int((np.asarray(mask) == 0).sum()) for mask in masks.filters(result.variables["masks"]).values())
        assert zeros == result.choice.pruned, name
        values = masks.flatten(result.values)
        assert zeros > 0 if result.kind == "score" else 0 <= values.min() < 1, name
        assert np.isfinite(predict(network, result.variables, data).loss).all(), name

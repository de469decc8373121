"""Transformers against torchvision's, layer by layer; what they refuse; every defense on a small one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.errors import ArchitectureError, DataError
from rnp_jax.models import Architecture, Network, count_parameters
from rnp_jax.models.design import Shapes
from rnp_jax.models.inference import infer_architecture
from rnp_jax.models.vision_transformer import DESIGNS, LEGACY_HIDDEN, design
from rnp_jax.types import Variables
from tests import parity
from tests.oracle.vision import torchvision_models

models = torchvision_models()

PATCH, DEPTH, HEADS, WIDTH, SIDE = 8, 2, 2, 8, 24


@dataclass
class Tiny:
    module: nn.Module
    network: Network
    variables: Variables


@pytest.fixture(scope="module")
def tiny() -> Iterator[Tiny]:
    """Two blocks of two heads on 24x24 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = models.VisionTransformer(SIDE, PATCH, DEPTH, HEADS, WIDTH, 4 * WIDTH, num_classes=5)
    parity.fill_constants(parity.randomize(module))
    with parity.registered(tiny=design(PATCH, DEPTH, HEADS, WIDTH), tiny_legacy=design(8, 2, 2, 8, LEGACY_HIDDEN)):
        yield Tiny(module, *parity.load(module))


def shapes_of(name: str) -> Shapes:
    """The published state dict's."""
    with torch.device("meta"):
        module = getattr(models, name.removesuffix("_legacy"))()
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    return rename(shapes) if name.endswith("_legacy") else shapes


def rename(state: dict) -> dict:
    """Today's names of the hidden layers to the first release's."""
    return {key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): state[key] for key in state}


def test_logits_and_every_layer_are_torch_s(tiny):
    assert tiny.network.architecture == Architecture("tiny", 5, WIDTH, image_shape=(SIDE, SIDE, 3))
    parity.check_parity(tiny.module, tiny.network, tiny.variables)


def test_weights_go_in_and_out(tiny):
    parity.check_round_trip(parity.copy_of(tiny.module), tiny.network, tiny.variables)


def test_a_pruned_network_is_torch_s_with_the_exported_weights(tiny):
    parity.check_pruning(parity.copy_of(tiny.module), tiny.network, tiny.variables)


def test_masks_lie_on_value_channels_and_hidden_units(tiny):
    blocks = [f"encoder.layers.encoder_layer_{i}" for i in range(DEPTH)]
    layers = [f"{block}.{layer}" for block in blocks for layer in ("self_attention.in_proj.value", "mlp.0")]
    assert [site.layer for site in tiny.network.sites] == layers
    sizes = {name: len(mask) for name, mask in masks.filters(tiny.variables["masks"]).items()}
    assert sizes == {name: 4 * WIDTH if name.endswith("mlp.0") else WIDTH for name in layers}
    parity.check_sites(tiny.network, tiny.variables)
    elsewhere = replace(tiny.network, placement="channel")
    assert elsewhere.sites == ()
    assert masks.filters(jax.eval_shape(elsewhere.init, jax.random.key(0))["masks"]) == {}


def test_a_head_is_adjacent_value_channels(tiny):
    """Without one head's channels, attention gives what torch gives with that head's columns of the output left out."""
    name = "encoder.layers.encoder_layer_0.self_attention"
    filters = masks.filters(tiny.variables["masks"])
    filters[f"{name}.in_proj.value"] = filters[f"{name}.in_proj.value"].at[WIDTH // HEADS :].set(0)
    images = np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32)
    module = parity.copy_of(tiny.module)
    with torch.no_grad():
        module.get_submodule(name).out_proj.weight[:, WIDTH // HEADS :] = 0
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    found = jax.jit(tiny.network)(masks.apply_filters(tiny.variables, filters), images)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_features_are_the_normalised_class_token(tiny):
    images = np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32)
    module = parity.copy_of(tiny.module)
    module.heads = nn.Identity()
    with torch.no_grad():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(tiny.network.features(tiny.variables, images)[0], expected, rtol=0, atol=1e-4)


def test_bfloat16_stays_near(tiny):
    images = np.random.default_rng(0).random((4, SIDE, SIDE, 3), np.float32)
    exact, rounded = (
        np.asarray(jax.jit(replace(tiny.network, precision=precision))(tiny.variables, images)[0])
        for precision in ("float32", "bfloat16")
    )
    assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_a_step_of_training_reaches_every_mask(tiny):
    parity.check_training_step(tiny.network, tiny.variables)


@pytest.mark.slow
def test_every_defense_runs(tiny):
    parity.check_defenses(tiny.network, tiny.variables)


def test_state_dicts_of_torchvision_s_first_release(tiny):
    """Same tensors, older names; they come back under those."""
    state = rename(parity.state_of(tiny.module))
    found = infer_architecture({key: value.shape for key, value in state.items()})
    network = Network(found, placement="unit")
    assert found.name == "tiny_legacy"
    back = to_state_dict(network, from_state_dict(network, state))
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", DESIGNS)
def test_published_state_dicts_are_recognised_as_nothing_else(name):
    assert parity.recognised(shapes_of(name)) == [name]


@pytest.mark.parametrize(
    "name", ["vit_b_16", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vit_b_32_legacy", "vit_h_14"))]
)
def test_names_and_shapes_are_the_published_ones(name):
    found = infer_architecture(shapes_of(name))
    assert found == Architecture(name, 1000, DESIGNS[name].width, image_shape=(224, 224, 3))


def test_images_of_another_size_are_refused(tiny):
    with pytest.raises(DataError, match="images of 32x24: this transformer's positions are for 24x24; resize"):
        jax.eval_shape(tiny.network, tiny.variables, np.zeros((1, 32, 24, 3), np.float32))


@pytest.mark.parametrize(
    ("shape", "given"), [(None, "missing"), ((1, 11, WIDTH), "11"), ((1, 1, WIDTH), "1"), ((10, WIDTH), "10")]
)
def test_positions_of_no_square_are_refused(tiny, shape, given):
    shapes = {key: value.shape for key, value in parity.state_of(tiny.module).items()}
    shapes = {key: value for key, value in shapes.items() if key != "encoder.pos_embedding"}
    if shape is not None:
        shapes["encoder.pos_embedding"] = shape
    with pytest.raises(ArchitectureError, match=rf"pos_embedding: .*{given}.*, expected \(1, 1 \+ n², D\)"):
        infer_architecture(shapes)


@pytest.mark.parametrize(
    ("width", "image_shape", "message"),
    [
        (14, (32, 32, 3), "width 14 of the tokens: expected a multiple of the 12 heads"),
        (12, (32, 16, 3), "images of 32x16: expected squares"),
        (12, (40, 40, 3), "multiple of the patch's 16 pixels"),
        (12, (1040, 1040, 3), "more than 4096 patches"),
    ],
)
def test_sizes_that_make_no_transformer_are_refused(width, image_shape, message):
    network = Network(Architecture("vit_b_16", 5, width, image_shape=image_shape))
    with pytest.raises(ArchitectureError, match=message):
        network.init(jax.random.key(0))


@pytest.mark.slow
def test_the_published_width():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = parity.fill_constants(parity.randomize(models.vit_b_16(num_classes=10)))
    network, variables = parity.load(module)
    assert network.architecture.name == "vit_b_16"
    assert count_parameters(variables) == sum(each.numel() for each in module.parameters())
    print(f"largest difference of logits {parity.check_parity(module, network, variables):.2g}")
    parity.check_round_trip(module, network, variables)

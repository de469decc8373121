"""ConvNeXt against torchvision's, layer by layer; where it is masked; every defense on a small one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax import defenses, masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.errors import DataError, DefenseError
from rnp_jax.models import Architecture, Network, count_parameters
from rnp_jax.models.convnext import DESIGNS, design
from rnp_jax.models.design import Shapes
from rnp_jax.models.inference import infer_architecture
from rnp_jax.types import Batch, Variables
from tests import parity
from tests.oracle.vision import torchvision_models

models = torchvision_models()

DEPTHS, WIDTH, IMAGE = (1, 1, 1, 1), 4, (36, 33, 3)
BLOCKS = ["features.1.0", "features.3.0", "features.5.0", "features.7.0"]


@dataclass
class Tiny:
    module: nn.Module
    network: Network
    variables: Variables


def build(depths: tuple[int, ...], width: int, num_classes: int = 5) -> nn.Module:
    """Torchvision's own, random in every parameter: a layer scale of 1e-6 would hide the blocks."""
    widths = [width * 2**stage for stage in range(4)]
    setting = [
        models.convnext.CNBlockConfig(inputs, outputs, depth)
        for inputs, outputs, depth in zip(widths, [*widths[1:], None], depths, strict=True)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = models.ConvNeXt(setting, num_classes=num_classes)
        for layer in module.modules():  # published with a deviation of 0.02, which leaves little of a narrow network
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(layer.weight)
    return parity.fill_constants(parity.randomize(module))


@pytest.fixture(scope="module")
def tiny() -> Iterator[Tiny]:
    """Four blocks on 36x33 images, whose last rows and columns some strides leave out."""
    module = build(DEPTHS, WIDTH)
    with parity.registered(tiny=design(DEPTHS, WIDTH)):
        yield Tiny(module, *parity.load(module, image_shape=IMAGE))


def shapes_of(name: str) -> Shapes:
    """The published state dict's."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in getattr(models, name)().state_dict().items()}


def test_logits_and_every_layer_are_torch_s(tiny):
    assert tiny.network.architecture == Architecture("tiny", 5, WIDTH, image_shape=IMAGE)
    assert tiny.network.placement == "unit"
    parity.check_parity(tiny.module, tiny.network, tiny.variables)


def test_weights_go_in_and_out(tiny):
    parity.check_round_trip(parity.copy_of(tiny.module), tiny.network, tiny.variables)


def test_a_network_pruned_by_units_is_torch_s_with_the_exported_weights(tiny):
    parity.check_pruning(parity.copy_of(tiny.module), tiny.network, tiny.variables)


def test_a_network_pruned_by_channels_is_torch_s_with_the_exported_weights(tiny):
    parity.check_placement(parity.copy_of(tiny.module), tiny.network, "conv_output")


@pytest.mark.parametrize(("placement", "layer", "share"), [("unit", "block.3", 4), ("conv_output", "block.0", 1)])
def test_masks_lie_on_hidden_units_or_depthwise_channels(tiny, placement, layer, share):
    network = replace(tiny.network, placement=placement)
    assert [site.layer for site in network.sites] == [f"{block}.{layer}" for block in BLOCKS]
    shapes = jax.eval_shape(network.init, jax.random.key(0))["masks"]
    sizes = [mask.shape[0] for mask in masks.filters(shapes).values()]
    assert sizes == [share * WIDTH * scale for scale in (1, 2, 4, 8)]


def test_placements_of_batch_norm_have_no_masks(tiny):
    network = replace(tiny.network, placement="bn_scale")
    assert network.sites == ()
    assert masks.filters(jax.eval_shape(network.init, jax.random.key(0))["masks"]) == {}


def test_sites_are_read_behind_their_activation(tiny):
    parity.check_sites(tiny.network, tiny.variables)


def test_features_are_what_the_last_layer_reads(tiny):
    images = np.random.default_rng(0).random((2, *IMAGE), np.float32)
    module = parity.copy_of(tiny.module)
    module.classifier[2] = nn.Identity()
    with torch.no_grad():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    found = jax.jit(tiny.network.features)(tiny.variables, images)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_bfloat16_stays_near(tiny):
    images = np.random.default_rng(0).random((4, *IMAGE), np.float32)
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


def by_channel(tiny: Tiny) -> tuple[Network, Variables]:
    """With filter masks on the depthwise convolutions instead."""
    network = replace(tiny.network, placement="conv_output")
    return network, from_state_dict(network, parity.state_of(tiny.module))


def test_depthwise_channels_have_no_activation_to_prune_by(tiny):
    network, variables = by_channel(tiny)
    parity.check_defenses(network, variables, ("clp",))
    data = Batch(np.zeros((2, *IMAGE), np.uint8), np.zeros(2, np.int32))
    with pytest.raises(DefenseError, match="no hidden layer with an activation"):
        defenses.fine_pruning(network, variables, data, jax.random.key(0), defenses.FinePruningConfig(), holdout=data)


@pytest.mark.slow
def test_depthwise_channels_are_scored_and_masked(tiny):
    parity.check_defenses(*by_channel(tiny), ("rnp", "anp", "holder"))


@pytest.mark.parametrize("name", DESIGNS)
def test_published_state_dicts_are_recognised_as_nothing_else(name):
    assert parity.recognised(shapes_of(name)) == [name]


@pytest.mark.parametrize(
    "name", [name if name == "convnext_tiny" else pytest.param(name, marks=pytest.mark.slow) for name in DESIGNS]
)
def test_names_and_shapes_are_the_published_ones(name):
    expected = Architecture(name, 1000, DESIGNS[name].width, image_shape=(224, 224, 3))
    assert infer_architecture(shapes_of(name)) == expected


def test_other_widths_belong_to_the_first_design_of_their_depths():
    shapes = {**shapes_of("convnext_base"), "features.0.0.weight": (100, 3, 4, 4)}
    assert parity.recognised(shapes) == ["convnext_small"]


def test_images_too_small_are_refused(tiny):
    with pytest.raises(DataError, match="images of 32x31: ConvNeXt needs 32 pixels or more on each side; resize"):
        jax.eval_shape(tiny.network, tiny.variables, np.zeros((1, 32, 31, 3), np.float32))


@pytest.mark.slow
def test_the_published_width():
    module = build((3, 3, 9, 3), 96, 10)
    network, variables = parity.load(module)
    assert network.architecture.name == "convnext_tiny"
    assert count_parameters(variables) == sum(each.numel() for each in module.parameters())
    print(f"largest difference of logits {parity.check_parity(module, network, variables):.2g}")
    parity.check_round_trip(module, network, variables)

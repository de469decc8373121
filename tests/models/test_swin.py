"""torchvision's Swin transformers against torch."""

import jax
import numpy as np
import pytest
import torch

from rnp_jax.checkpoints import save_variables
from rnp_jax.errors import ArchitectureError
from rnp_jax.models import Architecture, Network
from rnp_jax.models.swin import DESIGNS, PUBLISHED, check_constants, design, list_constants
from tests import parity
from tests.oracle.vision import torchvision_models

SMALL = ((2, 1, 1, 1), 2, 8)


@pytest.fixture(scope="module", autouse=True)
def small():
    with parity.registered(small_swin=design(*SMALL, window=3)):
        yield


def build() -> torch.nn.Module:
    """Windows of 3x3 tokens; every third layer norm has an epsilon of its own, and none here."""
    depths, heads, width = SMALL
    torch.manual_seed(0)
    found = torchvision_models().swin_transformer.SwinTransformer
    module = found([4, 4], width, list(depths), [heads * 2**i for i in range(4)], [3, 3], num_classes=5)
    return parity.fill_constants(parity.randomize(module))


@pytest.mark.parametrize("shape", [(48, 40, 3), pytest.param((32, 36, 3), marks=pytest.mark.slow)])
def test_every_layer_computes_what_torch_computes(shape):
    """Padded windows, shifted ones, and images of fewer tokens than a window."""
    module = build()
    network, variables = parity.load(module, image_shape=shape)
    assert network.architecture == Architecture("small_swin", 5, 8, image_shape=shape)
    parity.check_logits(module, network, variables)
    after = {key for key in parity.state_of(module) if not key.endswith("relative_position_index")}
    assert after == set(parity.to_state_dict(network, variables))
    parity.check_pruning(module, network, variables)


def test_constants_of_a_file_are_checked():
    """Torch reads them from the file."""
    state = parity.state_of(build())
    check_constants(state)
    with pytest.raises(ArchitectureError, match=r"features\.1\.1\.attn\.relative_position_index: not the constant"):
        check_constants({**state, (key := "features.1.1.attn.relative_position_index"): state[key][::-1]})
    mask = np.zeros((4, 9, 9), np.float32)
    with pytest.raises(ArchitectureError, match="attn_mask: not the constant"):
        check_constants({"layers.0.blocks.1.attn_mask": mask})


def test_a_fresh_file_is_torchvision_s(tmp_path):
    network = Network(Architecture("small_swin", 5, 8, image_shape=(32, 32, 3)), placement="unit")
    save_variables(tmp_path / "swin.pt", network, network.init(jax.random.key(0)))
    assert not list_constants(network.segments, ())  # other sources' modules compute them
    build().load_state_dict(torch.load(tmp_path / "swin.pt", weights_only=True)["state_dict"], strict=True)


@pytest.mark.parametrize("name", DESIGNS)
def test_published_keys_and_shapes_are_recognised(name):
    with torch.device("meta"):
        shapes = parity.shapes_of(torchvision_models().get_model(name, num_classes=5))
    assert parity.recognised(shapes) == [name]
    assert shapes["features.0.0.weight"][0] == PUBLISHED[name][2]

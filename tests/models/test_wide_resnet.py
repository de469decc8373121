"""WRN of every depth against torch, and files as ABL and NAD publish them."""

import jax
import numpy as np
import pytest
import torch

from rnp_jax.checkpoints import load_model
from rnp_jax.data import NORMALIZATIONS
from rnp_jax.models import Architecture, Network
from rnp_jax.models.inference import infer_architecture
from rnp_jax.models.network import count_parameters
from rnp_jax.models.wide_resnet import DESIGNS
from tests import parity
from tests.oracle.wide_resnet import WideResNet

PLACEMENTS = ("bn_scale", "channel", "conv_output")


@pytest.fixture(scope="module")
def small():
    """WRN-10-1, whose first block alone does not project, on images of 16 pixels."""
    torch.manual_seed(0)
    module = parity.randomize(WideResNet(10, 1))
    return module, *parity.load(module, image_shape=(16, 16, 3))


def test_every_layer_computes_what_torch_computes(small):
    module, network, variables = small
    assert network.architecture == Architecture("wrn10", 10, 16, (), (16, 16, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
    parity.check_sites(network, variables, pooled=("bn1",))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_pruning_is_torch_s_in_every_placement(small, placement):
    module, network, _ = small
    parity.check_placement(parity.copy_of(module), network, placement)


def test_training_reaches_every_parameter(small):
    parity.check_training_step(*small[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [("clp",), pytest.param(("rnp", "anp", "holder", "fp"), marks=pytest.mark.slow)], ids=["clp", "others"]
)
def test_the_defenses_run(names):
    network = Network(Architecture("wrn10", 3, 4, image_shape=(8, 8, 3)))
    parity.check_defenses(network, network.init(jax.random.key(0)), names)


def test_a_wider_network_projects_in_its_first_block():
    torch.manual_seed(1)
    module = parity.randomize(WideResNet(10, 2, num_classes=3))
    network, variables = parity.load(module, image_shape=(16, 16, 3))
    assert (network.architecture.name, network.architecture.width) == ("wrn10", 32)
    parity.check_parity(module, network, variables)
    parity.check_sites(network, variables, pooled=("bn1",))


@pytest.mark.parametrize(
    ("depth", "widen", "parameters"), [(10, 2, 303_706), (16, 1, 175_066), (16, 2, 691_674), (40, 2, 2_243_546)]
)
def test_depth_and_widening_follow_from_keys_and_shapes(depth, widen, parameters):
    with torch.device("meta"):
        module = WideResNet(depth, widen)
    found = infer_architecture({key: tuple(value.shape) for key, value in module.state_dict().items()})
    assert found == Architecture(f"wrn{depth}", 10, 16 * widen)
    assert count_parameters(jax.eval_shape(Network(found).init, jax.random.key(0))) == parameters


def test_every_published_depth_is_recognised():
    for name in DESIGNS:
        with torch.device("meta"):
            state = WideResNet(int(name.removeprefix("wrn")), 4).state_dict()
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        assert [known for known, each in DESIGNS.items() if each.matches(shapes)] == [name]
        assert shapes["block1.layer.0.conv1.weight"][0] == 64


def test_a_legacy_file_as_abl_and_nad_write_it(small, tmp_path):
    module, _, variables = small
    root = {"epoch": 3, "state_dict": module.state_dict(), "best_clean_acc": torch.tensor(81.5), "optimizer": {}}
    torch.save(root, tmp_path / "wrn.tar", _use_new_zipfile_serialization=False)
    model = load_model(tmp_path / "wrn.tar", normalization=NORMALIZATIONS["cifar10_rnp"])
    assert (model.network.architecture.name, model.network.architecture.width) == ("wrn10", 16)
    assert jax.tree.all(jax.tree.map(np.array_equal, model.variables, variables))


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "widen"), [(16, 1), (40, 2)])
def test_published_sizes(depth, widen):
    torch.manual_seed(2)
    module = parity.randomize(WideResNet(depth, widen))
    parity.check_parity(module, *parity.load(module))

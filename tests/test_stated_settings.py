"""Whole modules that state another arithmetic than the architecture whose tensors they have."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from rnp_jax.checkpoints import load_model
from rnp_jax.errors import ArchitectureError
from rnp_jax.models.inference import infer_architecture
from rnp_jax.recognition import recognise
from rnp_jax.stated_settings import compare
from rnp_jax.torch_io import find_state_dict, read_checkpoint
from rnp_jax.torch_io.nodes import ModuleNode
from tests.networks import build_random
from tests.oracle import vision

FAMILY = "torchvision_resnet"


def plain() -> Any:
    """torchvision's ResNet of one block a stage."""
    resnet = vision.torchvision_models().resnet
    return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


def save(network: nn.Module, path):
    torch.save(network, path)
    return path


def replace_all(network: nn.Module, kind: type[nn.Module], make) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make())


def set_all(kind: type[nn.Module], name: str, value):
    def edit(network: nn.Module) -> None:
        for module in network.modules():
            if isinstance(module, kind):
                setattr(module, name, value)

    return edit


def stride_one(network: Any) -> None:
    for each in (network.layer2[0].conv1, network.layer2[0].downsample[0]):
        each.stride = (1, 1)


def circular(network: Any) -> None:
    network.layer3[0].conv2.padding_mode = "circular"


FAULTS = {
    "eps": (set_all(nn.BatchNorm2d, "eps", 1e-3), r'"bn1" .*BatchNorm2d"\) has eps 0\.001, but the architecture 1e-05'),
    "leaky": (lambda net: replace_all(net, nn.ReLU, lambda: nn.LeakyReLU(0.1)), '"relu" is a "LeakyReLU"'),
    "tanh": (lambda net: replace_all(net, nn.ReLU, nn.Tanh), '"relu" is a "Tanh", which the architecture'),
    "relu6": (lambda net: replace_all(net, nn.ReLU, nn.ReLU6), '"relu" is a "ReLU6"'),
    "stem": (
        lambda net: setattr(net.conv1, "stride", (1, 1)),
        r'"conv1" .* has stride \(1, 1\), but the arch.* \(2, 2\)',
    ),
    "layer2": (stride_one, r'"layer2\.0\.conv1" .* has stride \(1, 1\)'),
    "dilation": (
        lambda net: setattr(net.layer4[0].conv2, "dilation", (2, 2)),
        r'"layer4\.0\.conv2" .* dilation \(2, 2\)',
    ),
    "padding": (lambda net: setattr(net.conv1, "padding", (2, 2)), r'"conv1" .* has padding \(2, 2\)'),
    "padding mode": (circular, 'has padding_mode "circular", but the architecture zeros'),
}

NOTES = {
    "no maxpool": (lambda net: setattr(net, "maxpool", nn.Identity()), '"maxpool" is an Identity, which does nothing'),
    "another maxpool": (lambda net: setattr(net, "maxpool", nn.MaxPool2d(2)), '"maxpool" is a max pooling of size 2'),
    "adaptive": (lambda net: setattr(net, "avgpool", nn.AdaptiveMaxPool2d(1)), '"avgpool" is a "AdaptiveMaxPool2d"'),
    "no relu": (lambda net: setattr(net, "relu", nn.Identity()), '"relu" is an Identity'),
}


@pytest.mark.parametrize("name", FAULTS)
def test_settings_that_the_architecture_has_otherwise_are_an_error(name, tmp_path):
    edit, message = FAULTS[name]
    network = plain()
    edit(network)
    with pytest.raises(ArchitectureError, match=message) as caught:
        load_model(save(network, tmp_path / "m.pt"), normalization="half")
    assert f"computes otherwise than {FAMILY}" in str(caught.value)
    assert "No supported architecture has these settings" in str(caught.value)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    assert load_model(tmp_path / "m.pt", normalization="half").assumptions == ()


@pytest.mark.parametrize("name", NOTES)
def test_modules_that_may_matter_are_told(name, tmp_path):
    edit, message = NOTES[name]
    network = plain()
    edit(network)
    (note,) = load_model(save(network, tmp_path / "m.pt"), normalization="half").assumptions
    assert message in note


def test_a_module_behind_wrappers_is_compared_too(tmp_path):
    network = plain()
    network.bn1.eps = 1e-3
    path = save(nn.DataParallel(nn.Sequential(nn.Identity(), network)), tmp_path / "m.pt")
    with pytest.raises(ArchitectureError, match=r'"bn1" .* has eps 0\.001'):
        load_model(path, normalization="half")


def test_a_name_in_a_module_steers_no_terminal(tmp_path):
    network = plain()
    network.conv1.padding_mode = "\x1b[2J"
    with pytest.raises(ArchitectureError) as caught:
        load_model(save(network, tmp_path / "m.pt"), normalization="half")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("make", [plain, partial(build_random, "resnet18"), partial(build_random, "preactresnet18")])
def test_published_networks_load_without_a_word(make, tmp_path):
    network = make()
    set_all(nn.BatchNorm2d, "track_running_stats", False)(network)  # torch evaluates with the statistics all the same
    path = save(nn.Sequential(nn.Dropout(0.1), network), tmp_path / "m.pt")
    assert load_model(path, normalization="half").assumptions == ()


@pytest.mark.parametrize("name", ["mobilenet_v2", "vgg11_bn", pytest.param("densenet121", marks=pytest.mark.slow)])
def test_torchvision_s_networks_are_as_the_architectures(name, tmp_path):
    with torch.device("meta"):
        network = vision.torchvision_models().get_model(name, num_classes=7)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, assign=True)
    checkpoint = read_checkpoint(save(network, tmp_path / "m.pt"))
    state_dict = find_state_dict(checkpoint)
    found = recognise(checkpoint, state_dict, checked=False)
    assert (found.architecture.name, found.notes) == (name, ())
    assert found.architecture == infer_architecture(shapes, name=name)
    assert compare(checkpoint.tree.stated, state_dict, found.architecture) == ((), ())


def test_an_architecture_that_fits_what_is_stated_is_named(tmp_path):
    with torch.device("meta"):
        network = vision.torchvision_models().resnet18(num_classes=7)
        network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    state = {key: torch.zeros(()).expand(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    checkpoint = read_checkpoint(save(network, tmp_path / "m.pt"))
    state_dict = find_state_dict(checkpoint)
    pool, fitting = recognise(checkpoint, state_dict, checked=False).notes
    assert '"maxpool" is a max pooling of size 3 and stride 2, but the architecture has none' in pool
    assert fitting == "All that the whole module states fits --architecture huyvnphan_resnet18."
    assert recognise(checkpoint, state_dict, "huyvnphan_resnet18", checked=False).notes == ()


def test_settings_that_no_module_has_are_not_kept(tmp_path):
    network = plain()
    network.bn1.eps, network.conv1.stride, network.conv1.padding_mode = 2**100, (1,) * 100, "z" * 100
    checkpoint = read_checkpoint(save(network, tmp_path / "m.pt"))
    assert isinstance(checkpoint.tree, ModuleNode)
    assert checkpoint.tree.stated["bn1"].settings == {}
    assert not {"stride", "padding_mode"} & checkpoint.tree.stated["conv1"].settings.keys()

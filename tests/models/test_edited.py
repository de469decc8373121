"""Edited networks against torch: heads, stems, depths, biases and names that people change before they train."""

import jax
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.errors import ArchitectureError, ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.models.edited import find_bodies, find_heads, is_last
from rnp_jax.models.inference import infer_architecture
from tests import parity
from tests.oracle.vision import torchvision_models

CLASSES = 5


def resnet(depths=(1, 1, 1, 1), kind: str = "BasicBlock", stem: nn.Module | None = None, **options) -> nn.Module:
    """torchvision's ResNet, thin; with a stem of its own it does not pool."""
    found = torchvision_models().resnet
    torch.manual_seed(0)
    module = found.ResNet(getattr(found, kind), list(depths), CLASSES, **options)
    if stem is not None:
        module.conv1, module.maxpool = stem, nn.Identity()
    return module


class Wrapped(nn.Module):
    """A network without its last layer, or its children in a Sequential, below ``backbone``; and a head beside it."""

    def __init__(self, module: nn.Module, *, numbered: bool):
        super().__init__()
        self.backbone = nn.Sequential(*list(module.children())[:-1]) if numbered else module
        module.fc = nn.Identity()
        self.classifier = nn.Linear(512, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(x).flatten(1))


def with_head(*layers: nn.Module) -> nn.Module:
    module = resnet()
    module.fc = nn.Sequential(*layers)
    return module


EDITS = {
    "dropout": (lambda: with_head(nn.Dropout(), nn.Linear(512, CLASSES)), 40),
    "two layers": (lambda: with_head(nn.Linear(512, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, CLASSES)), 40),
    "two layers, nothing between": (lambda: with_head(nn.Linear(512, 6), nn.Linear(6, CLASSES)), 40),
    "no bias in the head": (lambda: with_head(nn.Dropout(), nn.Linear(512, CLASSES, bias=False)), 40),
    "small stem": (lambda: resnet((1, 1, 1, 1), stem=nn.Conv2d(3, 64, 3, 1, 1, bias=False)), 12),
    "bias in the stem": (lambda: resnet((1, 1, 1, 1), stem=nn.Conv2d(3, 64, 3, 1, 1)), 12),
    "depth": (lambda: resnet((1, 2, 1, 1), "Bottleneck"), 40),
    "depth and groups": (lambda: resnet((1, 1, 1, 1), "Bottleneck", groups=32, width_per_group=4), 40),
    "wrapper": (lambda: Wrapped(resnet(), numbered=False), 40),
    "children": (lambda: Wrapped(resnet(), numbered=True), 40),
    "children, flattened": (
        lambda: nn.Sequential(*list(resnet().children())[:-1], nn.Flatten(), nn.Linear(512, CLASSES)),
        40,
    ),
}
SLOW = (
    "dropout",
    "no bias in the head",
    "wrapper",
    "small stem",
    "depth and groups",
    "two layers, nothing between",
    "children, flattened",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in EDITS]
)
def test_edited_networks_compute_what_torch_computes(name):
    build, side = EDITS[name]
    module = parity.randomize(build())
    network, variables = parity.load(module, image_shape=(side, side, 3))
    assert network.architecture.name == "torchvision_resnet"
    parity.check_logits(module, network, variables)
    parity.check_round_trip(module, network, variables)
    if name == "two layers":
        parity.check_placement(module, network, "unit")
        parity.check_pruning(module, network, variables)


@pytest.mark.parametrize(
    "names", [("clp",), pytest.param(("rnp", "anp", "holder", "fp"), marks=pytest.mark.slow)], ids=["clp", "others"]
)
def test_the_defenses_run(names):
    head, form = (("fc.0", 6), ("fc.2", 3)), (3, 2, 1, 1, 1, 0, 0, 0)
    network = Network(Architecture("torchvision_resnet", 3, 4, head, (12, 12, 3), form, ("fc.2", "conv1")))
    variables = network.init(jax.random.key(0))
    assert set(variables["params"]["fc.2"]) == {"kernel"}
    assert set(variables["params"]["conv1"]) == {"kernel", "bias"}
    parity.check_defenses(network, variables, names)


def test_what_was_edited_is_said():
    shapes = parity.shapes_of(with_head(nn.Linear(512, 6), nn.ReLU(), nn.Linear(6, CLASSES, bias=False)))
    found = infer_architecture(shapes)
    assert found.layers == (("fc.0", 6), ("fc.2", CLASSES))
    assert found.biases == ("fc.2",)
    assert found.form == (7, 2, 1, 1, 1, 1, 1, 1)
    assert infer_architecture(shapes, name="torchvision_resnet") == found
    assert Network(found).head == "fc.2"
    assert found.edits[0] == "the last layers are fc.0 of 6, fc.2 of 5"
    assert found.edits[-1] == "with a bias more or less: fc.2"
    body = infer_architecture(parity.shapes_of(Wrapped(resnet(), numbered=False)))
    assert (body.layers, body.names) == ((("classifier", CLASSES),), (("", "backbone"),))
    assert body.edits[-1] == "other names: the network is backbone"


def test_filter_masks_are_found_under_the_file_s_names():
    module = Wrapped(resnet(), numbered=True)
    mask = np.arange(64, dtype=np.float32) % 2
    network, _ = parity.load(module, image_shape=(40, 40, 3))
    tensors = {**parity.state_of(module), "backbone.1.neuron_mask": mask}
    variables = from_state_dict(network, tensors)
    np.testing.assert_array_equal(masks.filters(variables["masks"])["bn1"], mask)


@pytest.mark.parametrize(
    ("build", "head", "name", "layers"),
    [
        ("densenet121", "classifier", "densenet121", ("classifier.0", "classifier.2")),
        ("vgg11_bn", "classifier.6", "vgg11_bn", ("classifier.6.0", "classifier.6.2")),
        ("efficientnet_b0", "classifier", "efficientnet_b0", ("classifier.0", "classifier.2")),
        ("convnext_tiny", "classifier.2", "convnext_tiny", ("classifier.2.0", "classifier.2.2")),
        ("resnet18", "fc", "torchvision_resnet18", ("fc.0", "fc.2")),
    ],
)
def test_heads_of_every_family_may_be_replaced(build, head, name, layers):
    with torch.device("meta"):
        module = torchvision_models().get_model(build)
        *_, last = (each for each in module.modules() if isinstance(each, nn.Linear))
        module.set_submodule(head, nn.Sequential(nn.Linear(last.in_features, 6), nn.ReLU(), nn.Linear(6, CLASSES)))
        found = infer_architecture(parity.shapes_of(module))
    assert (found.name, found.layers) == (name, tuple(zip(layers, (6, CLASSES), strict=True)))


def test_a_last_layer_is_the_last_of_its_sequential():
    shapes = {"classifier.1.weight": (6, 8), "classifier.3.weight": (5, 6), "fc.weight": (5, 8)}
    assert [is_last(f"{name}.weight", shapes) for name in ("classifier.1", "classifier.3", "fc")] == [False, True, True]


def test_layers_that_do_not_follow_one_another_are_no_head():
    shapes = {"fc.0.weight": (6, 8), "fc.0.bias": (6,), "fc.2.weight": (5, 7)}
    assert not list(find_heads(shapes, "fc.weight"))
    normed = {"fc.0.weight": (6, 8), "fc.1.running_mean": (6,), "fc.2.weight": (5, 6)}
    assert not list(find_heads(normed, "fc.weight"))
    assert not list(find_bodies({"a.conv.weight": (4, 3, 3, 3), "b.weight": (5, 4), "c.weight": (5, 5)}))


def test_no_linear_layer_lies_in_another():
    shapes = {"conv1.weight": (4, 3, 3, 3), "classifier.weight": (8, 8), "classifier.0.weight": (5, 8)}
    assert not list(find_heads(shapes, "classifier.1.weight"))
    assert not list(find_heads(shapes, "classifier.weight"))


def test_names_that_are_no_identifier_are_not_taken():
    assert not list(find_bodies({"{0}.conv1.weight": (4, 3, 3, 3), "fc.weight": (5, 4)}))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": (("conv1", "{0.__class__}"),)}, ConfigError, "expected names of layers"),
        ({"layers": (("fc.0", 0), ("fc.2", 5))}, ConfigError, "a head of 2 layers: expected .* each of 1 unit or more"),
        ({"form": (7, 2, 1, 1, 10**9, 1, 1, 1)}, ArchitectureError, "blocks .* of the stages: expected four numbers"),
    ],
)
def test_impossible_edits(options, error, message):
    with pytest.raises(error, match=message):
        Network(Architecture("torchvision_resnet", 5, 8, **options)).segments  # noqa: B018


def test_one_output_is_a_binary_classifier():
    module = resnet()
    module.fc = nn.Linear(512, 1)
    with pytest.raises(ArchitectureError, match=r"one output is a binary classifier .* row of zeros"):
        infer_architecture(parity.shapes_of(module))


def test_a_missing_parameter_of_a_batch_norm_is_still_an_error():
    shapes = parity.shapes_of(with_head(nn.Dropout(), nn.Linear(512, CLASSES)))
    del shapes["layer1.0.bn1.bias"]
    with pytest.raises(ArchitectureError, match=r"torchvision_resnet .*\n - layer1\.0\.bn1\.bias$"):
        infer_architecture(shapes)

"""timm's names against torch modules that have them."""

import pytest
import torch

from rnp_jax.models import Architecture, efficientnet, mobilenet_v3, vision_transformer
from rnp_jax.models.inference import infer_architecture
from rnp_jax.models.timm import DESIGNS, VIT_NAMES
from tests import parity
from tests.oracle import timm
from tests.oracle.vision import torchvision_models


def check(module: torch.nn.Module, expected: Architecture) -> None:
    network, variables = parity.load(module, image_shape=expected.image_shape)
    assert network.architecture == expected
    parity.check_logits(module, network, variables)
    parity.check_round_trip(module, network, variables)
    parity.check_pruning(module, network, variables)


def test_a_transformer():
    torch.manual_seed(0)
    module = parity.randomize(timm.VisionTransformer(12, 4, 2, 2, 8, 5))
    with parity.registered(small_timm=vision_transformer.design(4, 2, 2, 8)._replace(names=VIT_NAMES)):
        check(module, Architecture("small_timm", 5, 8, image_shape=(12, 12, 3)))


@pytest.mark.parametrize("name", ["tiny_patch16", "base_patch32"])
def test_published_transformers_are_recognised_at_their_width_only(name):
    patch, depth, heads, width = {"tiny_patch16": (16, 12, 3, 192), "base_patch32": (32, 12, 12, 768)}[name]
    with torch.device("meta"):
        shapes = parity.shapes_of(timm.VisionTransformer(224, patch, depth, heads, width, 5))
        others = parity.shapes_of(timm.VisionTransformer(224, patch, depth, heads, 3 * width // 2, 5))
    assert parity.recognised(shapes) == [f"timm_vit_{name}"]
    assert parity.recognised(others) == []


def test_convnext():
    torch.manual_seed(0)
    module = parity.randomize(timm.ConvNext((3, 3, 9, 3), 4, 5))
    check(module, Architecture("timm_convnext_tiny", 5, 4, image_shape=(32, 32, 3)))


def test_efficientnet():
    rows = ((1, 3, 1, 8, 1), (6, 3, 2, 12, 2), *((2, 3, 1, 12, 1) for _ in range(5)))
    torch.manual_seed(0)
    module = parity.randomize(timm.EfficientNet(rows, 8, 5))
    names = DESIGNS["timm_efficientnet_b0"].names
    scaled = tuple((*row[:3], 4 * row[3], row[4]) for row in rows)
    with parity.registered(small=efficientnet.design(1.0, 1.0, stages=scaled)._replace(names=names)):
        check(module, Architecture("small", 5, 8, image_shape=(20, 24, 3)))


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b5"])
def test_published_efficientnets_are_recognised(name):
    """The names of torchvision's layers in order are those of timm's."""
    scales = efficientnet.SCALES[name[-2:]]
    rows = tuple(
        (*row[:3], efficientnet.divisible(row[3] * scales[0]), efficientnet.math.ceil(row[4] * scales[1]))
        for row in efficientnet.STAGES
    )
    with torch.device("meta"):
        shapes = parity.shapes_of(timm.EfficientNet(rows, efficientnet.divisible(32 * scales[0]), 5))
        same = parity.shapes_of(torchvision_models().get_model(name, num_classes=5))
    assert sorted(shapes.values()) == sorted(same.values())
    assert parity.recognised(shapes) == [f"timm_{name}"]


@pytest.mark.parametrize(
    ("name", "rows", "depths", "hidden"),
    [
        ("small", mobilenet_v3.SMALL, (1, 2, 3, 2, 3), 1024),
        pytest.param("large", mobilenet_v3.LARGE, (1, 2, 3, 4, 2, 3), 1280, marks=pytest.mark.slow),
    ],
)
def test_mobilenet_v3(name, rows, depths, hidden):
    torch.manual_seed(0)
    module = parity.randomize(timm.MobileNetV3(rows, depths, hidden, 16, 5))
    keys = module.state_dict()
    assert {"blocks.0.0.conv_dw.weight", f"blocks.{len(depths)}.0.bn1.weight", "conv_head.bias"} <= set(keys)
    assert keys["conv_head.weight"].ndim == 4
    check(module, Architecture(f"timm_mobilenetv3_{name}", 5, 16, image_shape=(32, 32, 3)))


def test_swin():
    """torchvision's module under timm's names, which state the same layers."""
    with torch.device("meta"):
        shapes = parity.shapes_of(torchvision_models().swin_t(num_classes=5))
    for name, place, head in (("timm_swin_t", 1, "head.fc"), ("timm_swin_t_legacy", 0, "head")):
        renamed = {}
        for key, shape in shapes.items():
            for stage in range(4):
                key = key.replace(f"features.{2 * stage + 1}.", f"layers.{stage}.blocks.")
                key = key.replace(f"features.{2 * stage + 2}.", f"layers.{stage + place}.downsample.")
            key = key.replace("features.0.0", "patch_embed.proj").replace("features.0.2", "patch_embed.norm")
            key = key.replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
            renamed[head + key[4:] if key.startswith("head") else key] = shape
        assert parity.recognised(renamed) == [name]
        assert infer_architecture(renamed).name == name


def test_resnets_have_torchvision_s_names():
    with torch.device("meta"):
        shapes = parity.shapes_of(torchvision_models().resnet18(num_classes=5))
    assert infer_architecture(shapes).name == "torchvision_resnet18"

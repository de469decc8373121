"""Hugging Face's names against its own modules."""

from typing import Any

import pytest
import torch
from torch import nn

from rnp_jax.models import swin, vision_transformer
from rnp_jax.models.huggingface import DESIGNS, RESNET_NAMES, SHORT_SWIN_NAMES, SHORT_VIT_NAMES, SWIN_NAMES, VIT_NAMES
from tests import parity
from tests.oracle.huggingface import Published
from tests.oracle.vit import transformers

VIT = {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def vit(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {**VIT, "image_size": 12, "patch_size": 4, "num_labels": 5, **changes}
    module = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes))
    return parity.fill_constants(parity.randomize(module))


@pytest.mark.parametrize(("names", "published"), [(VIT_NAMES, True), (SHORT_VIT_NAMES, False)])
def test_a_transformer(names, published):
    name = f"small_{'published' if published else 'short'}"
    module: Any = vit()
    assert module.config.layer_norm_eps == 1e-12
    design = vision_transformer.design(4, 2, 2, 8, eps=1e-12)._replace(names=names)
    with parity.registered(**{name: design}):
        module = Published(module) if published else module
        network, variables = parity.load(module)
        assert (network.architecture.name, network.architecture.image_shape) == (name, (12, 12, 3))
        assert network.layers["encoder.ln"].eps == 1e-12
        parity.check_logits(module, network, variables)
        parity.check_round_trip(module, network, variables)


@pytest.mark.parametrize(
    ("kind", "depths", "name"), [("basic", (2, 2, 2, 2), "hf_resnet18"), ("bottleneck", (1, 2, 1, 1), "hf_resnet")]
)
def test_resnet(kind, depths, name):
    torch.manual_seed(0)
    expansion = 4 if kind == "bottleneck" else 1
    sizes = [4 * expansion * 2**i for i in range(4)]
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=sizes, depths=depths, layer_type=kind, num_labels=5
    )
    module = parity.randomize(transformers.ResNetForImageClassification(config))
    network, variables = parity.load(module, image_shape=(40, 36, 3))
    assert network.architecture.name == name
    parity.check_logits(module, network, variables)
    parity.check_round_trip(module, network, variables)


def test_convnext():
    torch.manual_seed(0)
    config = transformers.ConvNextConfig(hidden_sizes=[4, 8, 16, 32], depths=[3, 3, 9, 3], num_labels=5)
    module = parity.fill_constants(parity.randomize(transformers.ConvNextForImageClassification(config)))
    network, variables = parity.load(module, image_shape=(32, 36, 3))
    assert network.architecture.name == "hf_convnext_tiny"
    assert network.layers["classifier.0"].eps == config.layer_norm_eps
    parity.check_logits(module, network, variables)
    parity.check_round_trip(module, network, variables)


def test_swin():
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=96, embed_dim=8, depths=[2, 1, 1, 1], num_heads=[2, 4, 8, 16], window_size=3, num_labels=5
    )
    module = parity.fill_constants(parity.randomize(transformers.SwinForImageClassification(config)))
    design = swin.design((2, 1, 1, 1), 2, 8, names=SHORT_SWIN_NAMES, window=3)
    with parity.registered(small_hf_swin=design):
        network, variables = parity.load(module, image_shape=(96, 96, 3))
        parity.check_logits(module, network, variables)
        rest = {key for key in parity.state_of(module) if not key.endswith("relative_position_index")}
        assert rest == set(parity.to_state_dict(network, variables))


def test_published_transformers_are_recognised():
    """Of three sizes, under both tables; the base one is also DeiT's."""
    sizes = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
    for name, (width, heads) in sizes.items():
        with torch.device("meta"):
            options = {
                "hidden_size": width,
                "intermediate_size": 4 * width,
                "num_attention_heads": heads,
                "num_labels": 5,
            }
            module: Any = transformers.ViTForImageClassification(transformers.ViTConfig(**options))
        assert parity.recognised(parity.shapes_of(module)) == [f"hf_vit_{name}_patch16_short"]
        assert parity.recognised(parity.shapes_of(Published(module))) == [f"hf_vit_{name}_patch16"]


def test_every_name_is_of_one_layer():
    for design in DESIGNS.values():
        assert (
            len({theirs for _, theirs in design.names}) == len({ours for ours, _ in design.names}) == len(design.names)
        )
    assert dict(RESNET_NAMES)["fc"] == "classifier.1"
    key = "swin.encoder.layers.1.blocks.{}.attention.self.relative_position_bias_table"
    assert dict(SWIN_NAMES)["features.3.{}.attn.relative_position_bias_table"] == key

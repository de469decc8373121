"""Hugging Face's classifiers at their published sizes, under the names that its files have."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from tests.oracle.vit import transformers


class Published(nn.Module):
    """A transformer under the names that the library's files have."""

    PARTS = (
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
        ("vit.layers.", "vit.encoder.layer."),
        ("attention.relative_position_bias.", "attention.self."),
    )

    def __init__(self, module: nn.Module):
        super().__init__()
        self.inner = module

    def rename(self, key: str) -> str:
        for short, published in self.PARTS:
            key = key.replace(short, published)
        return key.replace("attention.attention", "attention.self") if key.startswith("swin.") else key

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {self.rename(key): value for key, value in self.inner.state_dict(*args, **kwargs).items()}

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        short = {self.rename(key): key for key in self.inner.state_dict()}
        return self.inner.load_state_dict({short[key]: value for key, value in state_dict.items()}, *args, **kwargs)

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


def _classifier(kind: str, **sizes: Any) -> Callable[[], nn.Module]:
    """A module whose output is its logits."""

    def build() -> nn.Module:
        config = getattr(transformers, f"{kind}Config")(num_labels=10, **sizes)
        return Logits(getattr(transformers, f"{kind}ForImageClassification")(config))

    return build


class Logits(Published):
    """The logits alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).logits


PUBLISHED: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "hf_vit_base_patch16": _classifier("ViT"),
        "hf_resnet50": _classifier("ResNet"),
        "hf_convnext_tiny": _classifier("ConvNext"),
        "hf_swin_t": _classifier("Swin"),
    }
)

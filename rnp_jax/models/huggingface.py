"""Hugging Face's names of image classifiers whose arithmetic is another source's: ViT and DeiT, ResNet, ConvNeXt, Swin.

Their models without a head have the same names, but nothing to classify with. ViT has an epsilon of its own, and so has
the last layer norm of ConvNeXt. Since its fifth version the library has shorter names in memory than in its files.
"""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.models import convnext, swin, torchvision_resnet, vision_transformer
from rnp_jax.models.design import Design
from rnp_jax.models.naming import Names
from rnp_jax.models.timm import BARE_SCALE, VITS, of_one_width

_EPS = 1e-12
_LAYER = "encoder.layers.encoder_layer_{}"


def _vit_names(layer: str, parts: tuple[str, ...]) -> Names:
    """``parts`` are their names of query, key, value, output and the two hidden layers."""
    ours = (*(f"self_attention.in_proj.{part}" for part in ("query", "key", "value")), "self_attention.out_proj")
    return (
        ("class_token", "vit.embeddings.cls_token"),
        ("encoder.pos_embedding", "vit.embeddings.position_embeddings"),
        ("conv_proj", "vit.embeddings.patch_embeddings.projection"),
        (f"{_LAYER}.ln_1", f"{layer}.layernorm_before"),
        (f"{_LAYER}.ln_2", f"{layer}.layernorm_after"),
        *((f"{_LAYER}.{one}", f"{layer}.{other}") for one, other in zip((*ours, "mlp.0", "mlp.3"), parts, strict=True)),
        ("encoder.ln", "vit.layernorm"),
        ("heads.head", "classifier"),
    )


_ATTENTION = ("query", "key", "value")
_REST = ("attention.output.dense", "intermediate.dense", "output.dense")
_SHORT_ATTENTION = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
_SHORT_REST = ("attention.o_proj", "mlp.fc1", "mlp.fc2")

VIT_NAMES = _vit_names("vit.encoder.layer.{}", (*(f"attention.attention.{part}" for part in _ATTENTION), *_REST))
SHORT_VIT_NAMES = _vit_names("vit.layers.{}", (*_SHORT_ATTENTION, *_SHORT_REST))

RESNET_NAMES: Names = (
    ("conv1", "resnet.embedder.embedder.convolution"),
    ("bn1", "resnet.embedder.embedder.normalization"),
    *(
        (f"layer{stage + 1}.{{}}.{ours}", f"resnet.encoder.stages.{stage}.layers.{{}}.{theirs}")
        for stage in range(4)
        for ours, theirs in (
            *((f"conv{i + 1}", f"layer.{i}.convolution") for i in range(3)),
            *((f"bn{i + 1}", f"layer.{i}.normalization") for i in range(3)),
            ("downsample.0", "shortcut.convolution"),
            ("downsample.1", "shortcut.normalization"),
        )
    ),
    ("fc", "classifier.1"),
)

CONVNEXT_NAMES: Names = (
    ("features.0.0", "convnext.embeddings.patch_embeddings"),
    ("features.0.1", "convnext.embeddings.layernorm"),
    *(
        (f"features.{2 * stage + 1}.{{}}.{ours}", f"convnext.encoder.stages.{stage}.layers.{{}}.{theirs}")
        for stage in range(4)
        for ours, theirs in (
            ("block.0", "dwconv"),
            ("block.2", "layernorm"),
            ("block.3", "pwconv1"),
            ("block.5", "pwconv2"),
            ("layer_scale", "layer_scale_parameter"),
        )
    ),
    *((f"features.{2 * stage}", f"convnext.encoder.stages.{stage}.downsampling_layer") for stage in (1, 2, 3)),
    ("classifier.0", "convnext.layernorm"),
    ("classifier.2", "classifier"),
)


def _swin_names(table: str, parts: tuple[str, ...]) -> Names:
    """``table`` is their name of the bias of positions, and ``parts`` are as in ``_vit_names``."""
    ours = (*(f"attn.in_proj.{part}" for part in _ATTENTION), "attn.proj", "mlp.0", "mlp.3")
    norms = (("norm1", "layernorm_before"), ("norm2", "layernorm_after"))
    blocks = (*zip(ours, parts, strict=True), (f"attn.{_TABLE}", f"{table}.{_TABLE}"), *norms)
    return (
        ("features.0.0", "swin.embeddings.patch_embeddings.projection"),
        ("features.0.2", "swin.embeddings.norm"),
        *(
            (f"features.{2 * stage + 1}.{{}}.{one}", f"swin.encoder.layers.{stage}.blocks.{{}}.{other}")
            for stage in range(4)
            for one, other in blocks
        ),
        *((f"features.{2 * stage}", f"swin.encoder.layers.{stage - 1}.downsample") for stage in (1, 2, 3)),
        ("norm", "swin.layernorm"),
        ("head", "classifier"),
    )


_TABLE = "relative_position_bias_table"
SWIN_NAMES = _swin_names("attention.self", (*(f"attention.self.{part}" for part in _ATTENTION), *_REST))
SHORT_SWIN_NAMES = _swin_names("attention.relative_position_bias", (*_SHORT_ATTENTION, *_SHORT_REST))

_RESNETS = ("18", "34", "50", "101", "152", "")


def _vits(name: str, names: Names) -> dict[str, Design]:
    return {
        name.format(size): of_one_width(vision_transformer.design(*sizes, eps=_EPS)._replace(names=names))
        for size, sizes in VITS.items()
    }


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **_vits("hf_vit_{}", VIT_NAMES),
        **_vits("hf_vit_{}_short", SHORT_VIT_NAMES),
        **{
            f"hf_resnet{depth}": torchvision_resnet.DESIGNS[f"torchvision_resnet{depth}"]._replace(names=RESNET_NAMES)
            for depth in _RESNETS
        },
        **{
            f"hf_{name}{suffix}": swin.design(*sizes, names=names)
            for name, sizes in {**swin.PUBLISHED, "swin_l": swin.LARGE}.items()
            for suffix, names in (("", SWIN_NAMES), ("_short", SHORT_SWIN_NAMES))
        },
        **{
            f"hf_{name}": convnext.design(*sizes, last_eps=_EPS)._replace(names=CONVNEXT_NAMES, axes=BARE_SCALE)
            for name, sizes in convnext.PUBLISHED.items()
        },
    }
)

"""timm's names of networks whose arithmetic is another source's: ViT, DeiT, ConvNeXt, Swin, EfficientNet, MobileNetV3.

Its ResNets have torchvision's names. Its batch norms have torch's own epsilon and momentum, unlike torchvision's of
MobileNetV3 and EfficientNet b5 to b7. Those called ``tf`` pad their images unevenly, which no tensor tells: they are
not supported. DeiT without a distillation token is a ViT. Swin's legacy names are Microsoft's and timm's before 0.9.
"""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.models import convnext, efficientnet, mobilenet_v3, swin, vision_transformer
from rnp_jax.models.design import Design, Shapes
from rnp_jax.models.naming import Names

VITS: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(  # patch, depth, heads, width
    {
        "tiny_patch16": (16, 12, 3, 192),
        "small_patch16": (16, 12, 6, 384),
        "small_patch32": (32, 12, 6, 384),
        "base_patch8": (8, 12, 12, 768),
        "base_patch16": (16, 12, 12, 768),
        "base_patch32": (32, 12, 12, 768),
        "large_patch16": (16, 24, 16, 1024),
        "large_patch32": (32, 24, 16, 1024),
        "huge_patch14": (14, 32, 16, 1280),
    }
)

_LAYER = "encoder.layers.encoder_layer_{}"
VIT_NAMES: Names = (
    ("class_token", "cls_token"),
    ("encoder.pos_embedding", "pos_embed"),
    ("conv_proj", "patch_embed.proj"),
    (f"{_LAYER}.ln_1", "blocks.{}.norm1"),
    (f"{_LAYER}.self_attention.in_proj", "blocks.{}.attn.qkv"),
    (f"{_LAYER}.self_attention.out_proj", "blocks.{}.attn.proj"),
    (f"{_LAYER}.ln_2", "blocks.{}.norm2"),
    (f"{_LAYER}.mlp.0", "blocks.{}.mlp.fc1"),
    (f"{_LAYER}.mlp.3", "blocks.{}.mlp.fc2"),
    ("encoder.ln", "norm"),
    ("heads.head", "head"),
)

CONVNEXT_NAMES: Names = (
    ("features.0", "stem"),
    *(
        pair
        for stage in range(4)
        for pair in (
            (f"features.{2 * stage + 1}.{{}}.block.0", f"stages.{stage}.blocks.{{}}.conv_dw"),
            (f"features.{2 * stage + 1}.{{}}.block.2", f"stages.{stage}.blocks.{{}}.norm"),
            (f"features.{2 * stage + 1}.{{}}.block.3", f"stages.{stage}.blocks.{{}}.mlp.fc1"),
            (f"features.{2 * stage + 1}.{{}}.block.5", f"stages.{stage}.blocks.{{}}.mlp.fc2"),
            (f"features.{2 * stage + 1}.{{}}.layer_scale", f"stages.{stage}.blocks.{{}}.gamma"),
        )
    ),
    *((f"features.{2 * stage}", f"stages.{stage}.downsample") for stage in (1, 2, 3)),
    ("classifier.0", "head.norm"),
    ("classifier.2", "head.fc"),
)
BARE_SCALE = (("layer_scale", (0, 0)),)
"""A layer scale without axes for the positions."""


def _swin_names(first_merging: int, head: str) -> Names:
    """``first_merging`` is the number of the stage that the first merging belongs to."""
    stages = (
        pair
        for stage in range(4)
        for pair in (
            (f"features.{2 * stage + 1}.{{}}.attn.in_proj", f"layers.{stage}.blocks.{{}}.attn.qkv"),
            (f"features.{2 * stage + 1}.{{}}.mlp.0", f"layers.{stage}.blocks.{{}}.mlp.fc1"),
            (f"features.{2 * stage + 1}.{{}}.mlp.3", f"layers.{stage}.blocks.{{}}.mlp.fc2"),
            (f"features.{2 * stage + 1}", f"layers.{stage}.blocks"),
        )
    )
    mergings = ((f"features.{2 * i}", f"layers.{i - 1 + first_merging}.downsample") for i in (1, 2, 3))
    stem = (("features.0.0", "patch_embed.proj"), ("features.0.2", "patch_embed.norm"))
    return *stem, *stages, *mergings, ("head", head)


def _inverted(ours: str, theirs: str, *, expands: bool, squeezed: bool) -> Names:
    """The names of a block with torchvision's structure."""
    convs = ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw")
    numbers = [*range(len(convs) - 1), len(convs) if squeezed else len(convs) - 1]
    pairs = []
    for i, (number, conv) in enumerate(zip(numbers, convs, strict=True), 1):
        pairs += [(f"{ours}.block.{number}.0", f"{theirs}.{conv}"), (f"{ours}.block.{number}.1", f"{theirs}.bn{i}")]
    gate = f"{ours}.block.{len(convs) - 1}"
    gates = ((f"{gate}.fc1", f"{theirs}.se.conv_reduce"), (f"{gate}.fc2", f"{theirs}.se.conv_expand"))
    return *pairs, *(gates if squeezed else ())


_STEM: Names = (("features.0.0", "conv_stem"), ("features.0.1", "bn1"))

EFFICIENTNET_NAMES: Names = (
    *_STEM,
    *(
        pair
        for stage, (expansion, *_) in enumerate(efficientnet.STAGES, 1)
        for pair in _inverted(
            f"features.{stage}.{{}}", f"blocks.{stage - 1}.{{}}", expands=expansion > 1, squeezed=True
        )
    ),
    ("features.8.0", "conv_head"),
    ("features.8.1", "bn2"),
    ("classifier.1", "classifier"),
)


def _mobilenet_names(rows: tuple[mobilenet_v3.Row, ...], depths: tuple[int, ...]) -> Names:
    """``depths`` are timm's: blocks of each stage."""
    places = [(stage, i) for stage, depth in enumerate(depths) for i in range(depth)]
    blocks = (
        pair
        for number, (row, (stage, i)) in enumerate(zip(rows, places, strict=True), 1)
        for pair in _inverted(f"features.{number}", f"blocks.{stage}.{i}", expands=number > 1, squeezed=row[3])
    )
    last, end = f"features.{len(rows) + 1}", f"blocks.{len(depths)}.0"
    head = (("classifier.0", "conv_head"), ("classifier.3", "classifier"))
    return *_STEM, *blocks, (f"{last}.0", f"{end}.conv"), (f"{last}.1", f"{end}.bn1"), *head


def _mobilenet(rows: tuple[mobilenet_v3.Row, ...], hidden: int, depths: tuple[int, ...]) -> Design:
    found = mobilenet_v3.design(rows, hidden, eps=1e-5, momentum=0.1)
    return found._replace(names=_mobilenet_names(rows, depths), axes=(("classifier.0", (0, 2)),))


def of_one_width(design: Design) -> Design:
    """The design for its published width only: another width has other heads, which no tensor tells."""

    def matches(shapes: Shapes) -> bool:
        return shapes[design.stem][0] == design.width and design.matches(shapes)

    return design._replace(matches=matches)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{
            f"timm_vit_{name}": of_one_width(vision_transformer.design(*sizes)._replace(names=VIT_NAMES))
            for name, sizes in VITS.items()
        },
        **{
            f"timm_{name}": convnext.design(*sizes)._replace(names=CONVNEXT_NAMES, axes=BARE_SCALE)
            for name, sizes in convnext.PUBLISHED.items()
        },
        **{
            f"timm_{name}{suffix}": swin.design(*sizes, names=_swin_names(*where))
            for name, sizes in {**swin.PUBLISHED, "swin_l": swin.LARGE}.items()
            for suffix, where in (("", (1, "head.fc")), ("_legacy", (0, "head")))
        },
        **{
            f"timm_efficientnet_{name}": efficientnet.design(*scales)._replace(names=EFFICIENTNET_NAMES)
            for name, scales in efficientnet.SCALES.items()
        },
        "timm_mobilenetv3_large": _mobilenet(mobilenet_v3.LARGE, 1280, (1, 2, 3, 4, 2, 3)),
        "timm_mobilenetv3_small": _mobilenet(mobilenet_v3.SMALL, 1024, (1, 2, 3, 2, 3)),
    }
)

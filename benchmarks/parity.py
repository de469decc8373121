"""Every source's networks at their published size: what we compute against what torch computes of the same file.

    python -m benchmarks.parity [--only vgg19] [--out table.md]

Each network is built in torch (torchvision's own definition where it has one), every batch norm's statistics moved away
from their defaults, and written by torch in its source's container. The table says how long ``load_model`` took (in a
process that has compiled nothing), and the largest difference of the logits of two images, on this device, relative to
the larger of 1 and the largest logit.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import nn

from benchmarks.compare import describe_machine
from rnp_jax.checkpoints import load_model
from rnp_jax.data import NORMALIZATIONS
from rnp_jax.models import count_parameters
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.torch_io.sources import name_source
from tests.oracle import (
    huggingface,
    mobilenet_v2,
    models,
    other_zoos,
    timm,
    torchvision_resnet,
    vgg,
    wide_resnet,
    zoos,
)
from tests.oracle.vision import torchvision_models
from tests.parity import fill_constants, randomize

State = dict[str, Any]
HEAD = ("architecture", "source", "container", "image", "parameters", "max |Δlogit|", "import, s")


class Row(NamedTuple):
    """A network of a source, and the file that its code writes."""

    source: str
    build: Callable[[], nn.Module]
    wrap: Callable[[State], Any]
    container: str
    side: int = 32
    channels: int = 3
    legacy: bool = False
    named: bool = False  # whether its tensors fit another architecture too, so that its name is given


def vision(name: str, num_classes: int = 10) -> Callable[[], nn.Module]:
    """torchvision's definition of a network."""
    return lambda: getattr(torchvision_models(), name)(weights=None, num_classes=num_classes)


def rnp(state: State) -> State:
    return {"epoch": 1, "state_dict": state, "clean_acc": 90.0, "bad_acc": 100.0, "optimizer": {}}


def bench(name: str) -> Callable[[State], State]:
    return lambda state: {"model_name": name, "num_classes": 10, "model": state}


def wanet(state: State) -> State:
    return {"netC": state, "identity_grid": torch.zeros(1), "noise_grid": torch.zeros(1)}


def sequential(name: str) -> Callable[[State], State]:
    """As BackdoorBench keeps a transformer behind a resize."""
    return lambda state: bench(name)({f"1.{key}": value for key, value in state.items()})


def kuangliu(state: State) -> State:
    return {"net": state, "acc": 95.0, "epoch": 199}


def bearpaw(state: State) -> State:
    return {"epoch": 164, "state_dict": state, "acc": 93.0, "best_acc": 93.5, "optimizer": {}}


def zoo(name: str) -> Row:
    """A network of one of the zoos for 32-pixel images."""
    for source in ("weiaicunzai", "meliketoy"):
        if name.startswith(source):
            return Row(source, zoos.PUBLISHED[name], dict, "root")
    if name.startswith("bearpaw"):
        return Row("bearpaw", zoos.PUBLISHED[name], bearpaw, "state_dict")
    return Row("kuangliu", zoos.PUBLISHED[name], kuangliu, "net")


VISION = {
    **dict.fromkeys(("alexnet", "squeezenet1_0", "squeezenet1_1", "googlenet", "shufflenet_v2_x1_0", "swin_t"), 224),
    **dict.fromkeys(("regnet_x_400mf", "regnet_y_400mf", "mnasnet0_5", "mnasnet1_0", "efficientnet_v2_s"), 224),
    "inception_v3": 299,
}
"""Further networks of torchvision, and the side of their images."""

ROWS: dict[str, Row] = {
    **{f"resnet{depth}": Row("RNP", lambda depth=depth: models.resnet(depth), rnp, "state_dict") for depth in (18, 50)},
    "cifar_vgg19_bn": Row("RNP", lambda: vgg.Vgg(19, True, "cifar", 64, 10), rnp, "state_dict"),
    "cifar_mobilenet_v2": Row("RNP", mobilenet_v2.MobileNetV2, rnp, "state_dict"),
    **{
        name: Row("BackdoorBench", vision(name), bench(name), "model")
        for name in ("vgg19", "vgg19_bn", "efficientnet_b3", "mobilenet_v3_large", "densenet161", "convnext_tiny")
    },
    "preactresnet18": Row("BackdoorBench", models.preact_resnet18, bench("preactresnet18"), "model"),
    "vit_b_16": Row("BackdoorBench", vision("vit_b_16"), sequential("vit_b_16"), "model, prefix 1.", 224),
    "wrn16": Row("ABL, NAD", lambda: wide_resnet.WideResNet(16, 1), rnp, "state_dict, legacy", legacy=True),
    "toolbox_vgg16_bn": Row("backdoor-toolbox", lambda: vgg.Vgg(16, True, "toolbox", 64, 10), dict, "root"),
    "cifar_vgg11_bn": Row(
        "LIRA", lambda: vgg.Vgg(11, True, "cifar", 64, 10), lambda s: {"atkmodel": s, "netC": s}, "netC"
    ),
    "ibau_small_vgg16": Row(
        "I-BAU", lambda: vgg.SmallVgg(32, 10), lambda s: {"net": s, "acc": 84.5, "epoch": 48}, "net"
    ),
    "wanet_mnist": Row("WaNet", lambda: vgg.mnist("wanet_mnist", 32), wanet, "netC", 28, 1),
    "inputaware_mnist": Row(
        "Input-Aware",
        lambda: vgg.mnist("inputaware_mnist", 32),
        lambda s: {"netC": s, "netG": s, "netM": s},
        "netC",
        28,
        1,
    ),
    "backdoorbox_mnist": Row("BackdoorBox", lambda: vgg.mnist("backdoorbox_mnist", 16), dict, "root", 28, 1),
    "trojanzoo_resnet18_comp": Row(
        "TrojanZoo", lambda: torchvision_resnet.TrojanZoo(vision("resnet18")(), comp=True), dict, "root"
    ),
    "torchvision_resnet18": Row("torchvision", vision("resnet18", 12), dict, "root", 224),
    "torchvision_resnet50": Row("torchvision", vision("resnet50", 12), dict, "root", 224),
    "chenyaofo_vgg16_bn": Row("chenyaofo", lambda: vgg.Vgg(16, True, "chenyaofo", 64, 10), dict, "root"),
    "weiaicunzai_vgg16_bn": Row(
        "weiaicunzai, huyvnphan", lambda: vgg.Vgg(16, True, "weiaicunzai", 64, 10), dict, "root"
    ),
    "chenyaofo_mobilenet_v2": Row("chenyaofo, huyvnphan", zoos.chenyaofo_mobilenet_v2, dict, "root", named=True),
    "chenyaofo_shufflenet_v2_x1_0": Row("chenyaofo", zoos.chenyaofo_shufflenet_v2, dict, "root", named=True),
    "chenyaofo_repvgg_a0": Row(
        "chenyaofo", lambda: other_zoos.repvgg((1, 2, 4, 14, 1), (48, 48, 96, 192, 1280)), dict, "root"
    ),
    "huyvnphan_densenet121": Row("huyvnphan", lambda: zoos.huyvnphan_densenet(121), dict, "root"),
    "huyvnphan_resnet18": Row("huyvnphan", zoos.huyvnphan_resnet18, dict, "root", named=True),
    "huyvnphan_googlenet": Row("huyvnphan", zoos.huyvnphan_googlenet, dict, "root"),
    "huyvnphan_inception_v3": Row("huyvnphan", zoos.huyvnphan_inception_v3, dict, "root"),
    "badnets_mnist": Row("badnets-pytorch", lambda: vgg.mnist("badnets_mnist", 16), dict, "root", 28, 1),
    "lenet": Row("kuangliu", lambda: vgg.mnist("lenet", 6, channels=3), kuangliu, "net"),
    **{name: zoo(name) for name in zoos.PUBLISHED},
    **{name: Row("torchvision", vision(name), dict, "root", side) for name, side in VISION.items()},
    **{
        f"torchvision_{name}": Row("torchvision", vision(name), dict, "root", 224)
        for name in ("resnext50_32x4d", "wide_resnet50_2")
    },
    **{name: Row("timm", build, dict, "root", 224) for name, build in timm.PUBLISHED.items()},
    **{name: Row("Hugging Face", build, dict, "root", 224) for name, build in huggingface.PUBLISHED.items()},
}
"""By the name that the file is to be recognised by."""


def measure(name: str, row: Row, folder: Path) -> list[str]:
    """One row of the table.

    Raises:
      AssertionError: the file is recognised as another architecture, or the logits differ by 1e-4 or more.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = fill_constants(randomize(row.build()))
    path = folder / f"{name}.pt"
    torch.save(row.wrap(dict(module.state_dict())), path, _use_new_zipfile_serialization=not row.legacy)
    shape = (row.side, row.side, row.channels)
    started = time.perf_counter()
    given = name if row.named else None
    model = load_model(path, architecture=given, normalization=NORMALIZATIONS["identity"], image_shape=shape)
    jax.block_until_ready(model.variables)
    seconds = time.perf_counter() - started
    found = model.network.architecture
    assert (found.name, found.image_shape) == (name, shape), found
    images = np.random.default_rng(0).random((2, *shape), np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    logits = np.asarray(jax.jit(model.network)(model.variables, images)[0])
    apart = float(np.abs(logits - expected).max() / max(1.0, np.abs(expected).max()))
    assert apart < 1e-4, f"{name}: {apart}"
    source = name_source(model.checkpoint.tree, model.state_dict.tensors).name
    path.unlink()
    return [name, f"{row.source} ({source})", row.container, f"{row.side}×{row.side}×{row.channels}",
            f"{count_parameters(model.variables):,}", f"{apart:.1e}", f"{seconds:.2f}"]  # fmt: skip


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS), help="these networks; all by default")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            rows.append(measure(name, ROWS[name], Path(folder)))
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    text = f"{describe_machine()}\n\n{markdown_table(HEAD, rows)}\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

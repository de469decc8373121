"""Throughput of the epochs that methods for untrusted training sets consist of, against PyTorch doing the same work.

    python -m benchmarks.training_set_epochs [--sizes digits cifar10] [--works isolate …]
        [--out runs/training_set_epochs] [--write table.md] [--page docs/performance.md]

ResNet-18 on random 32 x 32 images: of width 8 with batches of 64 (as the digits presets train), and of width 16 with
batches of 128. Both sides run in one process, on one thread each, and PyTorch in both memory layouts. The figures are
CPU seconds, which other work on the machine does not count in; the first epoch, in which JAX compiles, is told apart.
Each row is kept in ``--out``, and a later call goes on with what is missing.

Before, each loop of PyTorch is checked on a small network: from equal weights, on one batch without augmentation, both
sides have equal losses before the first step and after it. To stay on one core: ``taskset -c 0 python -m …``.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import torch
from torch import nn

from benchmarks import torch_training_sets
from benchmarks.compare import describe_machine
from benchmarks.marked_pages import fill
from benchmarks.torch_training_sets import CUTOUT, GAMMA, PADDING, Epochs, Side
from rnp_jax.atomic import write_atomic
from rnp_jax.checkpoints import to_state_dict
from rnp_jax.data import Augmentation, parse_normalization
from rnp_jax.defenses.abl import AblConfig, start_ascent, start_isolating
from rnp_jax.defenses.cbd import start_reweighting
from rnp_jax.defenses.dbr import relearn
from rnp_jax.defenses.fitting import FitConfig
from rnp_jax.defenses.phase import Phase, run_phase
from rnp_jax.models import Architecture, Network
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.training import simclr
from rnp_jax.training.cutout import Cutout
from rnp_jax.training.mixmatch import MixMatchConfig, mixmatch
from rnp_jax.training.views import Views
from rnp_jax.types import Batch, Tree, Variables
from tests.oracle.models import resnet

LAYOUTS = {"PyTorch": torch.contiguous_format, "PyTorch NHWC": torch.channels_last}
TITLES = {
    "isolate": "ABL, isolation",
    "unlearn": "ABL, unlearning",
    "reweight": "CBD, two networks",
    "relearn": "D-BR, unlearning and relearning",
    "contrast": "SimCLR (DBD, D-ST, HID)",
    "mix": "MixMatch (DBD, HID)",
}
STILL = Views((1.0, 1.0), 1.0, flip=False, jitter=0.0, grayscale=0.0)
TOLERANCE = 1e-3
KEY = jax.random.key(3)


@dataclass(frozen=True)
class Size:
    """Width of the network, images of a set, images a step."""

    width: int
    images: int
    batch: int


SIZES = {"digits": Size(8, 320, 64), "cifar10": Size(16, 256, 128)}
CHECKED = Size(4, 40, 40)


@dataclass(frozen=True, eq=False)
class Setting:
    """What both sides start from.

    Attributes:
      network: the function of both weights.
      variables: of the network that is trained.
      other: of CBD's biased network.
      data: the images.
      batch: images a step.
      epochs: how many.
      random: whether batches are augmented and mixed.
    """

    network: Network
    variables: Variables
    other: Variables
    data: Batch
    batch: int
    epochs: int
    random: bool

    @property
    def crop(self) -> Augmentation | None:
        return Augmentation(PADDING) if self.random else None

    def fit(self, rate: float, decay: float = 1e-4, *, nesterov: bool = True) -> FitConfig:
        """Settings of SGD."""
        return FitConfig(self.epochs, self.batch, rate, nesterov=nesterov, weight_decay=decay)


def make_setting(size: Size, batch: int, epochs: int, *, random: bool) -> Setting:
    images, draw, normalization = size.images, np.random.default_rng(0), parse_normalization("cifar10_rnp")
    network = Network(Architecture("resnet18", 10, size.width), normalization.mean, normalization.std)
    data = Batch(draw.integers(0, 256, (images, 32, 32, 3), np.uint8), draw.integers(0, 10, images).astype(np.int32))
    first, second = (network.init(jax.random.key(seed)) for seed in (0, 1))
    return Setting(network, first, second, data, batch, epochs, random)


class Clock:
    """Keeps the CPU seconds of epochs, as a progress callback."""

    def __init__(self):
        self.ends = [time.process_time()]

    def __call__(self, *_) -> None:
        self.ends.append(time.process_time())

    def tell(self, history: Mapping[str, np.ndarray], *names: str) -> Epochs:
        return Epochs(list(np.diff(self.ends)), {name: [float(value) for value in history[name]] for name in names})


def run_a_phase(setting: Setting, phase: Phase, **read: Tree) -> Epochs:
    own, clock = setting.variables, Clock()
    fixed = {"masks": own["masks"], **read}
    _, _, history, _ = run_phase(phase, own["params"], fixed, own["batch_stats"], setting.data, KEY, clock)
    return clock.tell(history, "loss")


def isolate(setting: Setting) -> Epochs:
    config = AblConfig(gamma=GAMMA, tuning=setting.fit(0.1))
    return run_a_phase(setting, start_isolating(setting.network, config))


def unlearn(setting: Setting) -> Epochs:
    return run_a_phase(setting, start_ascent(setting.network, setting.fit(5e-4)))


def reweight(setting: Setting) -> Epochs:
    augment = Cutout(CUTOUT, setting.crop) if setting.random else None
    frozen = {name: setting.other[name] for name in ("params", "batch_stats")}
    return run_a_phase(setting, start_reweighting(setting.network, setting.fit(0.1), augment), biased=frozen)


def relearn_both(setting: Setting) -> Epochs:
    images, labels = setting.data
    fifth, clock, config = len(labels) // 5, Clock(), setting.fit(1e-4, 5e-4, nesterov=False)
    parts = Batch(images[:fifth], labels[:fifth]), Batch(images[fifth:], labels[fifth:])
    given = (setting.network, setting.variables, *parts, KEY, config)
    _, history = relearn(*given, augment=setting.crop, progress=clock)
    return clock.tell(history, "poisoned_loss", "loss")


def simclr_config(setting: Setting) -> simclr.SimclrConfig:
    return simclr.SimclrConfig(setting.epochs, setting.batch, weight_decay=1e-4, schedule="cosine")


def contrast(setting: Setting) -> Epochs:
    clock, views = Clock(), Views() if setting.random else STILL
    given = (setting.network, setting.variables, setting.data.images, KEY, simclr_config(setting))
    _, history = simclr.pretrain(*given, views=views, progress=clock)
    return clock.tell(history, "loss")


def mix(setting: Setting) -> Epochs:
    half, clock = len(setting.data.labels) // 2, Clock()
    config = MixMatchConfig(
        setting.epochs,
        setting.batch,
        learning_rate=0.002,
        optimizer="adam",
        ramp_epochs=float(setting.epochs),
        beta=0.75 if setting.random else 1e-3,  # which mixes next to nothing
    )
    labelled = Batch(setting.data.images[:half], setting.data.labels[:half])
    given = (setting.network, setting.variables, labelled, setting.data.images[half:], KEY, config)
    _, history = mixmatch(*given, augment=setting.crop, progress=clock)
    return clock.tell(history, "loss")


WORKS: Mapping[str, Callable[[Setting], Epochs]] = {
    "isolate": isolate,
    "unlearn": unlearn,
    "reweight": reweight,
    "relearn": relearn_both,
    "contrast": contrast,
    "mix": mix,
}


def make_side(setting: Setting, layout: torch.memory_format) -> Side:
    """The same for PyTorch, with the same weights."""
    normalization, images = parse_normalization("cifar10_rnp"), torch.from_numpy(setting.data.images)
    models = []
    for variables in (setting.variables, setting.other):
        model = resnet(18, width=setting.network.architecture.width)
        tensors = {key: torch.from_numpy(value) for key, value in to_state_dict(setting.network, variables).items()}
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            sys.exit(f"weights that do not fit PyTorch's network: missing {missing}, unexpected {unexpected}")
        models.append(model.train().to(memory_format=layout))  # pyright: ignore[reportCallIssue]
    return Side(
        *models,
        make_projection(setting),
        images.permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(setting.data.labels).long(),
        *(torch.tensor(each)[None, :, None, None] for each in (normalization.mean, normalization.std)),
        setting.batch,
        setting.epochs,
        layout,
        setting.random,
    )


def make_projection(setting: Setting) -> nn.Module:
    """SimCLR's projection head, with the weights that JAX draws for it."""
    state = simclr.start(setting.network, setting.variables, KEY, simclr_config(setting), len(setting.data.labels))
    layers = []
    for name in ("hidden", "out"):
        weights = {key: np.array(value) for key, value in state.params["projection"][name].items()}
        layer = nn.Linear(*weights["kernel"].shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weights["kernel"].T.copy()))
            layer.bias.copy_(torch.from_numpy(weights["bias"]))
        layers.append(layer)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def check(work: str) -> float:
    """The largest relative difference between the losses of both sides, before the first step and after it.

    A pass is one batch: of D-BR's larger set four fifths of the images, of MixMatch's half of them.
    """
    count = CHECKED.images
    setting = make_setting(CHECKED, {"relearn": count * 4 // 5, "mix": count // 2}.get(work, count), 2, random=False)
    ours, theirs = WORKS[work](setting), torch_training_sets.WORKS[work](make_side(setting, torch.contiguous_format))
    differences = [
        abs(a - b) / max(abs(b), 1e-6)
        for name in ours.losses
        for a, b in zip(ours.losses[name], theirs.losses[name], strict=True)
    ]
    if max(differences) > TOLERANCE:
        sys.exit(f"{work}: the losses of both sides differ: {ours.losses} and {theirs.losses}")
    return max(differences)


class Row(NamedTuple):
    """CPU seconds of JAX's first epoch, of a further one, of one in each layout of PyTorch; how far losses differ."""

    first: float
    ours: float
    torch: dict[str, float]
    difference: float


def measure(work: str, size: Size, epochs: int, difference: float) -> Row:
    setting = make_setting(size, size.batch, epochs, random=True)
    first, *warm = WORKS[work](setting).seconds
    theirs = {
        title: statistics.median(torch_training_sets.WORKS[work](make_side(setting, layout)).seconds[1:])
        for title, layout in LAYOUTS.items()
    }
    return Row(first, statistics.median(warm), theirs, difference)


def read_all(folder: Path) -> dict[tuple[str, str], Row]:
    """The rows that a folder keeps, by size and work."""
    places = {cell: folder / "{}-{}.json".format(*cell) for cell in product(SIZES, WORKS)}
    return {cell: Row(**json.loads(path.read_bytes())) for cell, path in places.items() if path.is_file()}


def make_table(rows: Mapping[tuple[str, str], Row]) -> str:
    ratio, differ = "throughput over PyTorch's better layout", "losses differ by"
    lines = []
    for (size, work), row in rows.items():
        figures = (row.first, row.ours, *(row.torch[title] for title in LAYOUTS), min(row.torch.values()) / row.ours)
        lines.append((size, TITLES[work], *(f"{value:.2f}" for value in figures), f"{row.difference:.0e}"))
    return markdown_table(("size", "epoch", "JAX, first", "JAX", *LAYOUTS, ratio, differ), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--works", nargs="*", choices=WORKS, default=list(WORKS))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/training_set_epochs"))
    parser.add_argument("--write", type=Path, help="write the table of all rows that are kept")
    parser.add_argument("--page", type=Path, help="put the table between the marks of this page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, work in product(given.sizes, given.works):
        known = read_all(given.out)
        if (name, work) not in known:
            checked = [row.difference for (_, other), row in known.items() if other == work]
            row = measure(work, SIZES[name], given.epochs, checked[0] if checked else check(work))
            write_atomic(given.out / f"{name}-{work}.json", json.dumps(row._asdict()).encode())
            print(name, work, row, flush=True)
    sizes = "; ".join(f"{name}: width {s.width}, {s.images} images, batches of {s.batch}" for name, s in SIZES.items())
    text = (
        f"# Epochs of the methods for training sets that nobody trusts\n\n`python -m benchmarks.training_set_epochs`, "
        f"one core, while it did other work. CPU seconds an epoch. {describe_machine()}; {sizes}\n\n"
        f"{make_table(read_all(given.out))}\n"
    )
    print(text) if given.write is None else write_atomic(given.write, text.encode())
    if given.page is not None:
        fill(given.page, "training set epochs", make_table(read_all(given.out)))


if __name__ == "__main__":
    main()

"""Trigger recovery on backdoored and clean checkpoints: indices, suspects, overlap with the true trigger, its ASR.

    python -m benchmarks.trigger_recovery checkpoints/digits_*.pt --config configs/rnp_digits.yaml --out table.md
    python -m benchmarks.trigger_recovery checkpoints/digits_badnets.pt --config configs/rnp_digits.yaml --seconds

The first recovers a trigger for every label on the original and on the unlearned model, from clean images alone; true
label and trigger come from the card and only judge it. The table is written anew after every row. ``--seconds`` times
it against a PyTorch loop over labels, both in this process, with the same initial values, images and schedule.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.compare import describe_machine
from rnp_jax.attacks import Goal, load_artefact, trigger_test_set
from rnp_jax.card import TRIGGER_SUFFIX, beside
from rnp_jax.checkpoints import Model, load_model, to_state_dict
from rnp_jax.config import read_yaml, resolve
from rnp_jax.data import Dataset, load, sample_defense_set
from rnp_jax.defenses import rnp, unlearn
from rnp_jax.detection.stamps import changed_pixels, overlap
from rnp_jax.detection.triggers import QUICK, RecoveredTriggers, TriggerConfig, recover_triggers
from rnp_jax.inversion.mask_search import draw_order, start_search
from rnp_jax.inversion.stamps import measure_stamps
from rnp_jax.pipeline.options import schema_for
from rnp_jax.pipeline.trigger import make_attack
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.sweep.options import SweepOptions
from rnp_jax.types import Batch, Variables
from tests.oracle import neural_cleanse
from tests.oracle.models import resnet

HEAD = (
    "checkpoint", "attack", "true label", "model", "index above limit", "suspected", "true label's index",
    "its rank", "norm, px", "median, px", "IoU", "recovered ASR", "predicted so untouched",
    "labels reached", "seconds", "CPU seconds",
)  # fmt: skip


class Truth(NamedTuple):
    """What a card knows: the attack's name, its label, and the pixels it changes."""

    attack: str
    label: int
    pixels: np.ndarray


def find_truth(model: Model, test: Dataset) -> Truth | None:
    """None for a clean model."""
    if model.card is None or model.card.attack is None:
        return None
    card = model.card.attack
    attack = make_attack(card.name, card.constants)
    goal = Goal(num_classes=test.num_classes, target=card.target or 0, mapping=card.mapping)
    stored = beside(model.checkpoint.path, TRIGGER_SUFFIX)
    params = load_artefact(stored, attack, test.image_shape) if stored.is_file() else attack.init(test.image_shape)
    triggered = trigger_test_set(test.images, test.labels, goal, attack, params, jax.random.key(0))
    pixels = changed_pixels(np.asarray(test.images)[triggered.indices], triggered.images)
    return Truth(card.name + (" (weak)" if card.weak else ""), goal.target, pixels)


def describe(
    path: Path,
    name: str,
    model: Model,
    found: RecoveredTriggers,
    truth: Truth | None,
    test: Batch,
    limit: float,
    spent: tuple[float, float],
) -> list[str]:
    """A line of the table. Of a clean model, its label with the highest index stands for the true one."""
    at = int(found.index.argmax()) if truth is None else truth.label
    only = slice(at, at + 1)
    outliers = found.reached & (found.index > limit)  # the published rule
    asr = measure_stamps(
        model.network, model.variables, test, found.masks[only], found.patterns[only], found.labels[only]
    )
    return [
        path.name,
        "clean" if truth is None else truth.attack,
        f"none (top: {at})" if truth is None else f"{at}",
        name,
        ", ".join(map(str, found.labels[outliers])) or "none",
        ", ".join(map(str, found.suspected)) or "none",
        f"{found.index[at]:.1f}",
        f"{1 + int((found.index > found.index[at]).sum())}",
        f"{found.norms[at]:.1f}",
        f"{np.median(found.norms):.1f}",
        "" if truth is None else f"{overlap(found.masks[at], truth.pixels):.2f}",
        f"{asr[0]:.1%}",
        f"{found.baseline[at]:.1%}",
        f"{found.reached.sum()} of {len(found.labels)}",
        *(f"{each:.0f}" for each in spent),
    ]


def judge(path: Path, preset: SweepOptions, arguments: argparse.Namespace) -> list[list[str]]:
    """Lines for the original and the unlearned model."""
    model = load_model(path)
    assert model.card is not None
    train, test = (load(model.card.data, split=part, data_dir=arguments.data_dir) for part in ("train", "test"))
    data, _ = sample_defense_set(train, arguments.images, seed=0)
    truth, config, lines = find_truth(model, test), settings(arguments), []
    for name in arguments.models:
        variables = unlearned(model, data, preset, arguments) if name == "unlearned" else model.variables
        started = time.perf_counter(), time.process_time()
        found = recover_triggers(model.network, variables, data, jax.random.key(arguments.seed), config)
        spent = time.perf_counter() - started[0], time.process_time() - started[1]
        lines.append(describe(path, name, model, found, truth, test.batch, config.suspicious, spent))
    return lines


def unlearned(model: Model, data: Batch, preset: SweepOptions, arguments: argparse.Namespace) -> Variables:
    config = preset.settings(rnp).unlearn
    if arguments.stop_accuracy is not None:
        config = dataclasses.replace(config, stop_accuracy=arguments.stop_accuracy)
    key = jax.random.key(arguments.seed)
    return unlearn(model.network, model.variables, data, key, config, augment=preset.augmentation).variables


def settings(arguments: argparse.Namespace) -> TriggerConfig:
    base = TriggerConfig() if arguments.published else QUICK
    return base if arguments.steps is None else dataclasses.replace(base, steps=arguments.steps)


def compare_seconds(path: Path, arguments: argparse.Namespace) -> str:
    """Seconds of ours, compiling and warm, and of PyTorch's loop in both layouts, with norms to show the same work."""
    model = load_model(path)
    assert model.card is not None
    data, _ = sample_defense_set(
        load(model.card.data, split="train", data_dir=arguments.data_dir), arguments.images, seed=0
    )
    key, config = jax.random.key(arguments.seed), settings(arguments)
    rows = []
    for name in ("JAX, first call", "JAX"):
        started = time.perf_counter(), time.process_time()
        found = recover_triggers(model.network, model.variables, data, key, config)
        rows.append((name, time.perf_counter() - started[0], time.process_time() - started[1], found.norms))
    for name, layout in (("PyTorch", torch.contiguous_format), ("PyTorch NHWC", torch.channels_last)):
        started = time.perf_counter(), time.process_time()
        norms = loop_torch(model, data, key, config, layout)
        rows.append((name, time.perf_counter() - started[0], time.process_time() - started[1], norms))
    best = min(seconds for name, seconds, _, _ in rows if name.startswith("PyTorch"))
    cells = [
        (name, f"{wall:.1f}", f"{cpu:.1f}", f"{wall / best:.2f}", " ".join(f"{norm:.1f}" for norm in norms))
        for name, wall, cpu, norms in rows
    ]
    head = ("side", "seconds", "CPU seconds", "times PyTorch's better layout", "norms by label, px")
    looks = f"{path.name}: {config.steps} looks of {config.batches} steps at most, {config.batch_size} images each"
    return f"{looks}, {torch.get_num_threads()} threads of PyTorch\n\n{markdown_table(head, cells)}"


def loop_torch(
    model: Model, data: Batch, key: jax.Array, config: TriggerConfig, layout: torch.memory_format
) -> list[float]:
    """Norms by label."""
    network = model.network
    module = resnet(18, width=network.architecture.width, num_classes=network.architecture.num_classes)
    state = {name: torch.tensor(np.array(values)) for name, values in to_state_dict(network, model.variables).items()}
    module.load_state_dict(state, strict=False)  # all but num_batches_tracked, which evaluation does not read
    module.eval().requires_grad_(False).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    mean, std = (torch.tensor(each)[:, None, None] for each in (network.mean, network.std))
    images = (torch.tensor(np.array(data.images)).permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=layout)
    start_key, order_key = jax.random.split(key)
    labels = np.arange(network.architecture.num_classes)
    free = jax.device_get(start_search(config, data.images.shape[1:], start_key, jnp.asarray(labels)).free)
    orders = [
        np.asarray(draw_order(jax.random.fold_in(order_key, t), len(images), config.batches, config.batch_size))
        for t in range(config.steps)
    ]
    plain = neural_cleanse.Settings(
        config.steps, config.learning_rate, config.betas, config.success, config.weight, config.patience,
        config.factor, config.stop_patience,
    )  # fmt: skip
    norms = []
    for label in labels:
        start = free[0][label], free[1][label]
        found = neural_cleanse.recover(
            lambda x: module((x - mean) / std),  # pyright: ignore[reportArgumentType]
            images, int(label), start, orders, plain,
        )  # fmt: skip
        norms.append(float(found.mask.sum()))
    return norms


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trigger_recovery", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("checkpoints", type=Path, nargs="+", help="with cards beside them")
    parser.add_argument("--config", type=Path, required=True, help="preset of RNP, whose unlearning is used")
    parser.add_argument("--models", nargs="+", choices=("original", "unlearned"), default=("original", "unlearned"))
    parser.add_argument("--stop-accuracy", type=float, help="of unlearning, instead of the preset's")
    parser.add_argument("--images", type=int, default=400, help="clean images, of the training part")
    parser.add_argument("--data-dir", help="where the data set is")
    parser.add_argument("--published", action="store_true", help="Neural Cleanse's settings instead of the quick ones")
    parser.add_argument("--steps", type=int, help="instead of the settings'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", action="store_true", help="time the first checkpoint against PyTorch instead")
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    arguments = parser.parse_args()
    preset = resolve(schema_for(SweepOptions, ("rnp",)), read_yaml(arguments.config), str(arguments.config))
    lines: list[list[str]] = []
    text = ""
    for path in arguments.checkpoints:
        if arguments.seconds:
            table = compare_seconds(path, arguments)
        else:
            lines += judge(path, preset, arguments)
            table = markdown_table(HEAD, lines)
        text = f"# Trigger recovery\n\n{describe_machine()}; {settings(arguments)}\n\n{table}\n"
        if arguments.out:
            arguments.out.write_text(text, "utf-8")
        if arguments.seconds:
            break
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

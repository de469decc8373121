"""A small RNP problem solved by the torch oracle, for differential tests that need no outside files.

A ResNet-18 of width 8 is trained for a few seconds on images drawn here, some of them with a white square and the
target label; then it is unlearned, recovered and pruned. Everything handed out is NumPy and read-only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from tests.oracle import models, rnp

WIDTH = 8
CLASSES = 10
TARGET = 0
BATCH = 32
TRAIN_EPOCHS = 12
UNLEARN_EPOCHS = 3
RECOVER_EPOCHS = 3
THRESHOLDS = (0.0, 0.5, 0.8, 0.85, 0.9, 0.95, 0.99)

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False, repr=False)
class TinyGolden:
    """Inputs and the oracle's outputs. E epochs, N = 96 images, T thresholds, F channels of a batch norm."""

    state: Arrays  # the backdoored network (``models.resnet(18, width=8)``)
    images: np.ndarray  # uint8 [N, 32, 32, 3], the defence set, used in this order, batches of 32
    labels: np.ndarray  # int32 [N]
    test_images: np.ndarray  # uint8 [64, 32, 32, 3]
    test_labels: np.ndarray  # int32 [64]
    triggered_images: np.ndarray  # uint8 [N', 32, 32, 3], the test images not of the target class
    triggered_labels: np.ndarray  # int32 [N'], all the target
    logits: np.ndarray  # float32 [N, 10], of ``state`` on ``images`` in evaluation mode
    unlearn_loss: np.ndarray  # float64 [E], mean CE
    unlearn_accuracy: np.ndarray  # float64 [E]
    unlearn_epoch0: Arrays  # state dict after the first epoch (three steps)
    unlearned: Arrays  # state dict after the last
    recover_loss: np.ndarray  # float64 [E], mean alpha * CE
    recover_accuracy: np.ndarray  # float64 [E]
    masks: Arrays  # by batch norm, float32 [E, F], after each epoch
    recovered: Arrays  # state dict after recovery: only running statistics differ from ``unlearned``
    thresholds: np.ndarray  # float64 [T]
    pruned: np.ndarray  # int64 [T], filters with mask (rounded to four decimals) <= threshold
    test_accuracy: np.ndarray  # float64 [T], of ``state`` pruned
    attack_success: np.ndarray  # float64 [T]


def draw_images(rng: np.random.Generator, templates: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy copy of each label's template: uint8 [count, 32, 32, 3], int32 [count]; labels in shuffled order."""
    labels = rng.permutation(np.arange(count, dtype=np.int32) % CLASSES)
    noisy = templates[labels] + rng.normal(0, 40, (count, 32, 32, 3))
    return noisy.clip(0, 255).astype(np.uint8), labels


def add_trigger(images: np.ndarray) -> np.ndarray:
    """A copy with a white 5 x 5 square one pixel from the lower right corner: [N, 32, 32, 3]."""
    triggered = images.copy()
    triggered[:, 26:31, 26:31] = 255
    return triggered


def copy_state(model: torch.nn.Module) -> Arrays:
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def train_backdoored(seed: int, images: np.ndarray, labels: np.ndarray) -> models.ResNet:
    """Trains on the images and on triggered copies of every third, labelled as the target."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.resnet(18, width=WIDTH, num_classes=CLASSES)
    poisoned = add_trigger(images[::3])
    targets = np.full(len(poisoned), TARGET, np.int32)
    order = np.random.default_rng(seed).permutation(len(images) + len(poisoned))
    batches = rnp.make_batches(
        np.concatenate([images, poisoned])[order], np.concatenate([labels, targets])[order], BATCH
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, TRAIN_EPOCHS)
    model.train()
    for _ in range(TRAIN_EPOCHS):
        for pixels, classes in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(pixels), classes).backward()
            optimizer.step()
        schedule.step()
    return model


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: such small layers gain nothing from more, and the sums keep their order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@cache
def tiny_golden(seed: int = 0) -> TinyGolden:
    """The whole run, once per process and seed (a few seconds on a CPU)."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(90, 165, (CLASSES, 8, 8, 3))
    templates = coarse.repeat(4, axis=1).repeat(4, axis=2)
    images, labels = draw_images(rng, templates, 96)
    test_images, test_labels = draw_images(rng, templates, 64)
    triggered_images = add_trigger(test_images[test_labels != TARGET])
    triggered_labels = np.full(len(triggered_images), TARGET, np.int32)
    with one_thread():
        model = train_backdoored(seed, images, labels)
        original = copy_state(model)
        batches = rnp.make_batches(images, labels, BATCH)
        logits = predict(model, batches)
        phases = unlearn_and_recover(model, batches)
        model.load_state_dict({name: torch.tensor(value) for name, value in original.items()})
        masks = {name: torch.tensor(values[-1]) for name, values in phases["masks"].items()}
        test = rnp.make_batches(test_images, test_labels, BATCH)
        triggered = rnp.make_batches(triggered_images, triggered_labels, BATCH)
        sweep = list(rnp.prune_sweep(model, masks, THRESHOLDS, test, triggered))
    golden = TinyGolden(
        state=original,
        images=images,
        labels=labels,
        test_images=test_images,
        test_labels=test_labels,
        triggered_images=triggered_images,
        triggered_labels=triggered_labels,
        logits=logits,
        **phases,
        thresholds=np.array([row.threshold for row in sweep]),
        pruned=np.array([row.pruned for row in sweep]),
        test_accuracy=np.array([row.clean.accuracy for row in sweep]),
        attack_success=np.array([row.triggered.accuracy for row in sweep]),
    )
    freeze(golden)
    return golden


def predict(model: torch.nn.Module, batches: rnp.Batches) -> np.ndarray:
    """Logits [N, 10] in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(images) for images, _ in batches]).numpy()


def unlearn_and_recover(model: torch.nn.Module, batches: rnp.Batches) -> dict[str, Any]:
    """Both phases on ``model`` in place: the fields of ``TinyGolden`` from ``unlearn_loss`` to ``recovered``."""
    unlearning, states = [], []
    for record in rnp.unlearn(model, batches, stop_accuracy=0.0, max_epochs=UNLEARN_EPOCHS):
        unlearning.append(record)
        states.append(copy_state(model))
    recovery = list(rnp.recover(model, batches, epochs=RECOVER_EPOCHS))
    return {
        "unlearn_loss": np.array([record.loss for record in unlearning]),
        "unlearn_accuracy": np.array([record.accuracy for record in unlearning]),
        "unlearn_epoch0": states[0],
        "unlearned": states[-1],
        "recover_loss": np.array([record.loss for record in recovery]),
        "recover_accuracy": np.array([record.accuracy for record in recovery]),
        "masks": {name: np.stack([record.masks[name].numpy() for record in recovery]) for name in recovery[0].masks},
        "recovered": copy_state(model),
    }


def freeze(golden: TinyGolden) -> None:
    """Makes every array read-only: the result is shared by all tests of a process."""
    for value in vars(golden).values():
        for array in value.values() if isinstance(value, dict) else [value]:
            array.setflags(write=False)

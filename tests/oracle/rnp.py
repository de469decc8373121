"""Reconstructive Neuron Pruning in plain PyTorch (Li et al., ICML 2023, arXiv 2305.14876), step for step as released.

Fixed order, no augmentation. What the released run does, each point checked against a recorded run of it:

- Unlearning minimises -CE. Its gradient clipping precedes ``backward`` on zeroed gradients and is void: none here.
  Weight decay is coupled (g + decay * theta before momentum) and still shrinks the weights while the loss is ascended.
  The scheduler steps once an epoch.
- An epoch's loss is the mean of its batches' mean losses, so a short last batch weighs as much as a full one; its
  accuracy is the running one, each batch judged before its own step. The stop rule uses that accuracy.
- Recovery starts from the weights and running statistics at the end of unlearning, with masks of ones. Batch norm stays
  in train mode, so the running statistics go on moving; the recorded loss is alpha * CE.
- Pruning acts on the original network, not the unlearned one, and reads masks that went through a text file with four
  decimals: a mask of 0.60004 is pruned at the threshold 0.6.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from tests.oracle.models import batch_norms, set_masks

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)

Batches: TypeAlias = Sequence[tuple[Tensor, Tensor]]
"""Normalised images [B, 3, H, W] and labels [B], in the order in which they are used."""
Masks: TypeAlias = dict[str, Tensor]
"""One mask [F] a batch norm, by the layer's name."""


class UnlearnEpoch(NamedTuple):
    epoch: int  # from 0
    lr: float  # used during the epoch
    loss: float
    accuracy: float


class RecoverEpoch(NamedTuple):
    epoch: int  # from 0; the release counts these from 1
    loss: float
    accuracy: float
    masks: Masks  # copies, after the epoch


class Evaluation(NamedTuple):
    loss: float  # mean of the batches' means
    accuracy: float


class SweepRow(NamedTuple):
    threshold: float
    pruned: int
    clean: Evaluation
    triggered: Evaluation  # against the target label: its accuracy is the attack success rate


def make_batches(
    images: np.ndarray, labels: np.ndarray, size: int, *, device: str = "cpu", channels_last: bool = False
) -> Batches:
    """uint8 images [N, H, W, 3] and labels [N] -> batches of ``size`` on the device, the last one shorter."""
    pixels = torch.tensor(images, device=device).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(each, device=device)[:, None, None] for each in (MEAN, STD))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    normalised = ((pixels - mean) / std).contiguous(memory_format=layout)
    targets = torch.tensor(labels, dtype=torch.int64, device=device)
    return list(zip(normalised.split(size), targets.split(size), strict=True))


def unlearn(
    model: nn.Module,
    batches: Batches,
    *,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    milestones: Sequence[int] = (10, 20),
    stop_accuracy: float = 0.2,
    max_epochs: int = 21,
) -> Iterator[UnlearnEpoch]:
    """Step 1: ascends CE in all parameters of ``model``, in place, and yields after each epoch.

    Ends after the first epoch whose accuracy is at most ``stop_accuracy``, or after ``max_epochs``.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(milestones), gamma=0.1)
    for epoch in range(max_epochs):
        rate = float(schedule.get_last_lr()[0])
        model.train()
        meter = Meter()
        for images, labels in batches:
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            meter.add(loss, logits, labels)
            optimizer.zero_grad()
            (-loss).backward()
            optimizer.step()
        schedule.step()
        record = UnlearnEpoch(epoch, rate, *meter.result())
        yield record
        if record.accuracy <= stop_accuracy:
            return


def recover(
    model: nn.Module,
    batches: Batches,
    *,
    lr: float = 0.2,
    alpha: float = 0.2,
    epochs: int = 20,
    momentum: float = 0.9,
) -> Iterator[RecoverEpoch]:
    """Step 2: descends alpha * CE in fresh masks, clamped to [0, 1] after each step, and yields after each epoch.

    The masks stay on ``model``; its weights do not change, its running statistics do.
    """
    masks = {name: torch.ones_like(norm.weight, requires_grad=True) for name, norm in batch_norms(model).items()}
    set_masks(model, masks)
    leaves = list(masks.values())
    optimizer = torch.optim.SGD(leaves, lr=lr, momentum=momentum)
    for epoch in range(epochs):
        model.train()
        meter = Meter()
        for images, labels in batches:
            logits = model(images)
            loss = alpha * F.cross_entropy(logits, labels)
            meter.add(loss, logits, labels)
            optimizer.zero_grad()
            loss.backward(inputs=leaves)
            optimizer.step()
            with torch.no_grad():
                for mask in leaves:
                    mask.clamp_(0, 1)
        yield RecoverEpoch(epoch, *meter.result(), {name: mask.detach().clone() for name, mask in masks.items()})


def prune_sweep(
    model: nn.Module,
    masks: Masks,
    thresholds: Sequence[float],
    test: Batches,
    triggered: Batches,
    *,
    decimals: int | None = 4,
) -> Iterator[SweepRow]:
    """Step 3: evaluates the original ``model`` with the scale of every filter with mask <= threshold at 0.

    ``decimals`` is the rounding of the release's text file; None compares the masks as they are.
    """
    scores = {name: as_scores(mask, decimals) for name, mask in masks.items()}
    try:
        for threshold in thresholds:
            kept = {name: score > threshold for name, score in scores.items()}
            set_masks(model, {name: keep.to(masks[name]) for name, keep in kept.items()})
            pruned = sum(int((~keep).sum()) for keep in kept.values())
            yield SweepRow(threshold, pruned, evaluate(model, test), evaluate(model, triggered))
    finally:
        set_masks(model, None)


def as_scores(mask: Tensor, decimals: int | None) -> Tensor:
    """A mask [F] as float64 on the CPU, after printing with so many decimals and reading back."""
    values = mask.double().cpu()
    if decimals is None:
        return values
    return torch.tensor([float(f"{value:.{decimals}f}") for value in values.tolist()], dtype=torch.float64)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches) -> Evaluation:
    """Loss and accuracy in evaluation mode; leaves the model in it."""
    model.eval()
    meter = Meter()
    for images, labels in batches:
        logits = model(images)
        meter.add(F.cross_entropy(logits, labels), logits, labels)
    return Evaluation(*meter.result())


class Meter:
    """Sums losses and hits over batches on the device, so that only ``result`` waits for it."""

    def __init__(self):
        self.losses: list[Tensor] = []
        self.hits: list[Tensor] = []
        self.images = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.losses.append(loss.detach())
        self.hits.append((logits.argmax(1) == labels).sum())
        self.images += len(labels)

    def result(self) -> tuple[float, float]:
        """Mean of the batches' losses, and accuracy over all images."""
        return torch.stack(self.losses).double().mean().item(), int(torch.stack(self.hits).sum()) / self.images

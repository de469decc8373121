"""PyTorch's side of ``benchmarks.training_set_epochs``: the epochs of the methods that train on an untrusted set.

Data lie on the device, and what happens to a batch happens there at once, as on JAX's side. Each loop returns the CPU
seconds and the mean loss of every epoch.

Glossary of shapes: B images of 3 channels, H x W pixels; K classes; D features.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.training import augment

PADDING = 4
CUTOUT = 3
SGD = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
GAMMA = 0.5
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


class Epochs(NamedTuple):
    """CPU seconds and losses, an epoch each; the losses by what they are of."""

    seconds: list[float]
    losses: dict[str, list[float]]


class Side(NamedTuple):
    """What a loop works on.

    Attributes:
      model: the network that is trained, its last layer called ``linear``.
      other: the biased one of CBD.
      projection: of SimCLR.
      images: uint8 [N, 3, H, W].
      labels: int64 [N].
      mean, std: of the pixels, [1, 3, 1, 1].
      batch: images a step.
      epochs: how many.
      layout: of the images in memory.
      random: whether batches are augmented and mixed; without, losses can be compared with those of another side.
    """

    model: nn.Module
    other: nn.Module
    projection: nn.Module
    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    batch: int
    epochs: int
    layout: torch.memory_format
    random: bool

    def read(self, images: Tensor) -> Tensor:
        """Pixels as floats in [0, 1], normalised."""
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        return ((pixels - self.mean) / self.std).contiguous(memory_format=self.layout)

    def crop(self, images: Tensor) -> Tensor:
        """Cropped and mirrored at random."""
        return augment(images) if self.random else images


Figures: TypeAlias = Mapping[str, Tensor]


def run_epochs(side: Side, passes: Iterable[tuple[str, Callable[[Tensor], Tensor], Tensor]]) -> Epochs:
    """Passes of an epoch in turn: a name, the step that is given the positions of a batch, and all its positions."""
    seconds: list[float] = []
    losses: dict[str, list[float]] = {}
    passes = list(passes)
    for _ in range(side.epochs):
        started = time.process_time()
        for name, step, rows in passes:
            order = rows[torch.randperm(len(rows))].split(side.batch)
            total = torch.stack([step(chosen) * len(chosen) for chosen in order]).sum() / len(rows)
            losses.setdefault(name, []).append(total.item())
        seconds.append(time.process_time() - started)
    return Epochs(seconds, losses)


def take(optimizer: torch.optim.Optimizer, objective: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    objective.backward()
    optimizer.step()


def isolate(side: Side) -> Epochs:
    """ABL's first step: local gradient ascent, no augmentation."""
    optimizer = torch.optim.SGD(side.model.parameters(), **SGD)

    def step(chosen: Tensor) -> Tensor:
        loss = functional.cross_entropy(side.model(side.read(side.images[chosen])), side.labels[chosen])
        take(optimizer, torch.sign(loss.detach() - GAMMA) * loss)
        return loss.detach()

    return run_epochs(side, [("loss", step, torch.arange(len(side.labels)))])


def unlearn(side: Side) -> Epochs:
    """ABL's last step: ascent, no augmentation."""
    optimizer = torch.optim.SGD(side.model.parameters(), **{**SGD, "lr": 5e-4})

    def step(chosen: Tensor) -> Tensor:
        loss = functional.cross_entropy(side.model(side.read(side.images[chosen])), side.labels[chosen])
        take(optimizer, -loss)
        return loss.detach()

    return run_epochs(side, [("loss", step, torch.arange(len(side.labels)))])


def reweight(side: Side) -> Epochs:
    """CBD's second step: two networks read a batch, one of them is trained."""
    optimizer = torch.optim.SGD(side.model.parameters(), **SGD)
    side.other.eval()

    def step(chosen: Tensor) -> Tensor:
        images = side.crop(side.images[chosen])
        images, labels = side.read(cut_out(images) if side.random else images), side.labels[chosen]
        with torch.no_grad():
            biased = functional.cross_entropy(side.other(images), labels, reduction="none")
        losses = functional.cross_entropy(side.model(images), labels, reduction="none")
        weights = biased / (losses.detach() + biased + 1e-8)
        take(optimizer, (weights / weights.mean() * losses).mean())
        return losses.detach().mean()

    return run_epochs(side, [("loss", step, torch.arange(len(side.labels)))])


def relearn(side: Side) -> Epochs:
    """D-BR: ascent on a fifth of the images, descent on the others."""
    optimizer = torch.optim.SGD(side.model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)

    def step(sign: int, chosen: Tensor) -> Tensor:
        images = side.read(side.crop(side.images[chosen]))
        loss = functional.cross_entropy(side.model(images), side.labels[chosen])
        take(optimizer, sign * loss)
        return loss.detach()

    poisoned, clean = torch.arange(len(side.labels)).tensor_split([len(side.labels) // 5])
    return run_epochs(
        side, [("poisoned_loss", lambda rows: step(-1, rows), poisoned), ("loss", lambda rows: step(1, rows), clean)]
    )


def contrast(side: Side) -> Epochs:
    """SimCLR, whose learning rate falls along a cosine."""
    parameters = [*(p for name, p in side.model.named_parameters() if "linear" not in name)]
    side.model.linear = nn.Identity()
    optimizer = torch.optim.SGD([*parameters, *side.projection.parameters()], lr=0.4, momentum=0.9, weight_decay=1e-4)
    steps = side.epochs * (len(side.labels) // side.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def step(chosen: Tensor) -> Tensor:
        pixels = side.images[torch.cat([chosen, chosen])].float() / 255
        pairs = draw_views(pixels) if side.random else pixels
        unit = functional.normalize(side.projection(side.model(side.read(pairs))), dim=1)
        similarity = (unit @ unit.T / 0.5).masked_fill(torch.eye(len(unit), dtype=torch.bool), -torch.inf)
        partner = (torch.arange(len(unit)) + len(chosen)) % len(unit)
        loss = functional.cross_entropy(similarity, partner)
        take(optimizer, loss)
        schedule.step()
        return loss.detach()

    return run_epochs(side, [("loss", step, torch.arange(steps // side.epochs * side.batch))])


def mix(side: Side) -> Epochs:
    """MixMatch: half of the images keep their labels. Adam; the weight of the unlabelled loss rises over all epochs."""
    optimizer = torch.optim.Adam(side.model.parameters(), lr=0.002)
    half, done = len(side.labels) // 2, 0
    steps = side.epochs * -(-half // side.batch)
    beta = torch.distributions.Beta(0.75, 0.75)

    def step(known: Tensor) -> Tensor:
        nonlocal done
        unknown, size = half + torch.randperm(half)[: len(known)], len(known)
        images = side.crop(side.images[torch.cat([known, unknown, unknown])]).float() / 255
        with torch.no_grad():
            guessed = side.model(side.read(images[size:])).softmax(1).reshape(2, size, -1).mean(0) ** 2
            guessed = guessed / guessed.sum(1, keepdim=True)
        targets = torch.cat([functional.one_hot(side.labels[known], guessed.shape[1]).float(), guessed, guessed])
        if side.random:
            order, weight = torch.randperm(len(images)), beta.sample((len(images),))
            weight = torch.maximum(weight, 1 - weight)
            images = images * weight[:, None, None, None] + images[order] * (1 - weight)[:, None, None, None]
            targets = targets * weight[:, None] + targets[order] * (1 - weight)[:, None]
        logits = side.model(side.read(images))
        labelled = functional.cross_entropy(logits[:size], targets[:size])
        loss = labelled + 15.0 * done / steps * (logits[size:].softmax(1) - targets[size:]).square().mean()
        take(optimizer, loss)
        done += 1
        return loss.detach()

    return run_epochs(side, [("loss", step, torch.arange(half))])


WORKS: Mapping[str, Callable[[Side], Epochs]] = {
    "isolate": isolate,
    "unlearn": unlearn,
    "reweight": reweight,
    "relearn": relearn,
    "contrast": contrast,
    "mix": mix,
}


def cut_out(images: Tensor) -> Tensor:
    """A black square at a random place of each image."""
    count, _, height, width = images.shape
    holes = []
    for length in (height, width):
        begin = torch.randint(0, length, (count, 1)) - CUTOUT // 2
        places = torch.arange(length)[None]
        holes.append((places >= begin) & (places < begin + CUTOUT))
    return images.masked_fill(holes[0][:, None, :, None] & holes[1][:, None, None, :], 0)


def draw_views(pixels: Tensor) -> Tensor:
    """A view of each image [B, 3, H, W]: a resized crop, mirrored or not, and changed colours."""
    count = len(pixels)
    area, bound = 0.2 + 0.8 * torch.rand(count), math.log(4 / 3)
    root = torch.exp((2 * torch.rand(count) - 1) * bound / 2)
    height, width = (area.sqrt() / root).clamp(max=1), (area.sqrt() * root).clamp(max=1)
    down, right = ((2 * torch.rand(count) - 1) * (1 - size) for size in (height, width))
    mirrored = torch.where(torch.rand(count) < 0.5, -width, width)
    zero = torch.zeros(count)
    theta = torch.stack([torch.stack([mirrored, zero, right], 1), torch.stack([zero, height, down], 1)], 1)
    grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    return change_colours(functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False))


def change_colours(pixels: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of each image, as one affine map of its colours."""
    count = len(pixels)
    applied = (torch.rand(count) < 0.8).float()
    brightness, contrasts, saturation = 1 + (2 * torch.rand(3, count) - 1) * 0.4 * applied
    angle = 2 * math.pi * (2 * torch.rand(count) - 1) * 0.1 * applied
    saturation = saturation * (torch.rand(count) >= 0.2)
    inverse = torch.linalg.inv(_YIQ)
    luma, basis = torch.outer(inverse[:, 0], _YIQ[0]), inverse[:, 1:]
    straight, crossed = basis @ _YIQ[1:], basis @ torch.tensor([[0.0, -1.0], [1.0, 0.0]]) @ _YIQ[1:]
    weights = saturation[:, None, None]
    matrix = luma + weights * (angle.cos()[:, None, None] * straight + angle.sin()[:, None, None] * crossed)
    mean = pixels.mean((2, 3)) @ _YIQ[0]
    offset = brightness * (1 - contrasts) * mean
    mixed = torch.einsum("bij,bjhw->bihw", matrix * (brightness * contrasts)[:, None, None], pixels)
    return (mixed + offset[:, None, None, None]).clamp(0, 1)

"""Adversarial Neuron Pruning's masks in plain PyTorch (Wu & Wang, NeurIPS 2021), step for step as released.

The weights named in the masks are multiplied channel by channel: w · (m + δ), b · (1 + ξ), where w is a batch norm's
scale or a linear layer's matrix. The release does not bring δ and ξ back to [−ε, ε]; ``project`` does.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from tests.oracle.rnp import Batches, Masks


class Noise(NamedTuple):
    weight: Masks
    bias: Masks


class Step(NamedTuple):
    loss: float
    accuracy: float
    masks: Masks  # copies, after the step


def optimize_masks(
    model: nn.Module,
    layers: list[str],
    batches: Batches,
    *,
    start: Callable[[int], Noise] | None = None,
    lr: float = 0.2,
    momentum: float = 0.9,
    eps: float = 0.4,
    ascent_steps: int = 1,
    alpha: float = 0.2,
    project: bool = False,
) -> list[Step]:
    """One step a batch; ``start`` gives the perturbations from which the ascent of a step begins, by default zeros."""
    model.train()
    sizes = {name: len(model.get_parameter(f"{name}.weight")) for name in layers}
    filters = {name: torch.ones(size, requires_grad=True) for name, size in sizes.items()}
    zeros = Noise(*({name: torch.zeros(size) for name, size in sizes.items()} for _ in range(2)))
    optimizer = torch.optim.SGD(list(filters.values()), lr=lr, momentum=momentum)
    steps = []
    for number, (images, labels) in enumerate(batches):
        noise = zeros if start is None else start(number)
        for _ in range(ascent_steps):
            leaves = [value.clone().requires_grad_() for part in noise for value in part.values()]
            noise = Noise(dict(zip(sizes, leaves, strict=False)), dict(zip(sizes, leaves[len(sizes) :], strict=True)))
            loss = F.cross_entropy(classify(model, filters, noise, images), labels)
            moved = [
                (leaf + eps / ascent_steps * gradient.sign()).detach()
                for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True)
            ]
            moved = [value.clamp(-eps, eps) for value in moved] if project else moved
            noise = Noise(dict(zip(sizes, moved, strict=False)), dict(zip(sizes, moved[len(sizes) :], strict=True)))
        robust = F.cross_entropy(classify(model, filters, noise, images), labels)
        logits = classify(model, filters, zeros, images)
        loss = alpha * F.cross_entropy(logits, labels) + (1 - alpha) * robust
        optimizer.zero_grad()
        loss.backward(inputs=list(filters.values()))
        optimizer.step()
        with torch.no_grad():
            for mask in filters.values():
                mask.clamp_(0, 1)
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        steps.append(Step(loss.item(), accuracy, {name: mask.detach().clone() for name, mask in filters.items()}))
    return steps


def classify(model: nn.Module, filters: Masks, noise: Noise, images: Tensor) -> Tensor:
    """Logits of the network with its masked layers' weights and biases multiplied."""
    changed = {}
    for name, mask in filters.items():
        weight = model.get_parameter(f"{name}.weight").detach()
        factor = (mask + noise.weight[name]).reshape(-1, *(1,) * (weight.ndim - 1))
        changed[f"{name}.weight"] = weight * factor
        changed[f"{name}.bias"] = model.get_parameter(f"{name}.bias").detach() * (1 + noise.bias[name])
    return functional_call(model, changed, (images,))

"""Neural Cleanse's optimisation in plain PyTorch, label by label (Wang et al., S&P 2019, with the released schedule).

Points read from the release: λ starts at 0 and is set after ``patience`` looks in a row with the wanted success; it is
then doubled after as many looks with it, and divided by 2^1.5 after as many without; the run ends once λ has gone both
ways and the smallest norm has not fallen for ``stop_patience`` looks; the check for the end precedes the change of λ.
Initial values and the order of the images are arguments, so that two implementations can be given the same.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (everybody's name)


class Settings(NamedTuple):
    """Named as in the tool."""

    steps: int = 1000
    learning_rate: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    success: float = 0.99
    weight: float = 1e-3
    patience: int = 5
    factor: float = 2.0
    stop_patience: int = 25


class PlainSchedule:
    """λ of one label as plain Python numbers."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.weight = 0.0
        self.set_counter = self.up_counter = self.down_counter = self.stop_counter = 0
        self.went_up = self.went_down = self.stopped = False
        self.best = self.best_at_last_check = math.inf

    def look(self, success: float, norm: float) -> bool:
        """Takes one look; says whether the mask is the smallest that succeeded so far."""
        s, good = self.settings, success >= self.settings.success
        keeps = good and norm < self.best
        if keeps:
            self.best = norm
        if self.best < math.inf:
            self.stop_counter = self.stop_counter + 1 if self.best >= self.best_at_last_check else 0
        self.best_at_last_check = min(self.best, self.best_at_last_check)
        if self.went_up and self.went_down and self.stop_counter >= s.stop_patience:
            self.stopped = True
            return keeps
        self.set_counter = self.set_counter + 1 if self.weight == 0 and good else 0
        if self.set_counter >= s.patience:
            self.weight = s.weight
            self.up_counter = self.down_counter = 0
            self.went_up = self.went_down = False
        self.up_counter, self.down_counter = (self.up_counter + 1, 0) if good else (0, self.down_counter + 1)
        if self.up_counter >= s.patience:
            self.up_counter, self.went_up = 0, True
            self.weight *= s.factor
        elif self.down_counter >= s.patience:
            self.down_counter, self.went_down = 0, True
            self.weight /= s.factor**1.5
        return keeps


class Found(NamedTuple):
    """One label's mask [H, W] and pattern [C, H, W], and (success, norm, λ) of every look."""

    mask: Tensor
    pattern: Tensor
    rows: list[tuple[float, float, float]]


def recover(
    model: nn.Module,
    images: Tensor,
    label: int,
    start: tuple[np.ndarray, np.ndarray],
    orders: Sequence[np.ndarray],
    settings: Settings,
) -> Found:
    """The smallest mask that sends the images to the label; the last one where none did.

    Args:
      model: images in [0, 1], channels first -> logits [B, K].
      images: [N, C, H, W] in [0, 1].
      label: the label.
      start: mask [H, W] and pattern [H, W, C] before tanh.
      orders: indices [batches, B] of each look's optimiser steps.
      settings: of the optimiser and the schedule.
    """
    free_mask = torch.tensor(start[0]).requires_grad_()
    free_pattern = torch.tensor(start[1]).permute(2, 0, 1).contiguous().requires_grad_()
    optimizer = torch.optim.Adam([free_mask, free_pattern], lr=settings.learning_rate, betas=settings.betas)
    schedule, rows = PlainSchedule(settings), []
    best = _bound(free_mask).detach(), _bound(free_pattern).detach()
    for order in orders[: settings.steps]:
        weight, successes = schedule.weight, []
        for index in map(torch.tensor, order.tolist()):
            mask, pattern = _bound(free_mask), _bound(free_pattern)
            logits = model((1 - mask) * images[index] + mask * pattern)
            wanted = torch.full((len(index),), label)
            loss = F.cross_entropy(logits, wanted) + weight * mask.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            successes.append((logits.argmax(1) == label).float().mean())
        mask, success = _bound(free_mask).detach(), float(torch.stack(successes).mean())
        norm = float(mask.sum())
        rows.append((success, norm, weight))
        if schedule.look(success, norm) or schedule.best == math.inf:
            best = mask, _bound(free_pattern).detach()
        if schedule.stopped:
            break
    return Found(*best, rows)


def _bound(free: Tensor) -> Tensor:
    return (torch.tanh(free) + 1) / 2

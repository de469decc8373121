"""A network of two convolutions with batch norm, here and in torch, with the same weights."""

import itertools
from dataclasses import dataclass
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn as torch_nn

from rnp_jax.models.layers import BatchNorm, Conv, Dense
from rnp_jax.types import Batch, Tree, Variables

CLASSES, SIDE = 4, 6
_WIDTHS = (3, 5, 4)


class _Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for number, width in enumerate(_WIDTHS[1:], 1):
            x = Conv(width, 3, 1, 1, name=f"conv{number}")(x)
            x = nn.relu(BatchNorm(name=f"bn{number}")(x, train))
        return Dense(CLASSES, name="fc")(x.mean((1, 2)))


@dataclass(frozen=True)
class Twin:
    """An ``Apply`` on images in [0, 1]; ``number`` only tells instances apart."""

    number: int = 0

    def __call__(self, variables: Variables, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Tree]:
        x = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
        if not train:
            return cast(jax.Array, _Net().apply(variables, x, False)), variables["batch_stats"]
        logits, moved = _Net().apply(variables, x, True, mutable=["batch_stats"])
        return logits, cast(Tree, moved["batch_stats"])


class TorchTwin(torch_nn.Module):
    bn1: torch_nn.BatchNorm2d
    bn2: torch_nn.BatchNorm2d

    def __init__(self, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for number, (inputs, width) in enumerate(itertools.pairwise(_WIDTHS), 1):
                setattr(self, f"conv{number}", torch_nn.Conv2d(inputs, width, 3, padding=1, bias=False))
                norm = torch_nn.BatchNorm2d(width)
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.2)
                norm.momentum = 1.0
                setattr(self, f"bn{number}", norm)
            self.fc = torch_nn.Linear(_WIDTHS[-1], CLASSES)
            self.fc.weight.normal_(0, 3)
            ((images, _),) = torch_batches(twin_data(32, seed), 32)
            self.fc.bias -= self(images).mean(0)  # not all images are of one class, in either mode
            self.bn1.momentum = self.bn2.momentum = 0.1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in (1, 2):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)).relu()
        return self.fc(x.mean((2, 3)))


def variables_of(module: TorchTwin) -> Variables:
    """A copy of the module's weights as ours."""
    state = {name: jnp.asarray(value.numpy().copy()) for name, value in module.state_dict().items()}
    params: dict[str, Any] = {"fc": {"kernel": state["fc.weight"].T, "bias": state["fc.bias"]}}
    stats, masks = {}, {"fc": {"neuron": jnp.ones(CLASSES)}}
    for number, width in enumerate(_WIDTHS[1:], 1):
        norm = f"bn{number}"
        params[f"conv{number}"] = {"kernel": state[f"conv{number}.weight"].transpose(2, 3, 1, 0)}
        params[norm] = {"scale": state[f"{norm}.weight"], "bias": state[f"{norm}.bias"]}
        stats[norm] = {"mean": state[f"{norm}.running_mean"], "var": state[f"{norm}.running_var"]}
        masks[f"conv{number}"] = {"neuron": jnp.ones(width)}
        masks[norm] = {"neuron": jnp.ones(width), "filter": jnp.ones(width)}
    return {"params": params, "batch_stats": stats, "masks": masks}


def twin_data(count: int = 10, seed: int = 0) -> Batch:
    """uint8 images, each of one colour under noise, and labels."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 256, (count, 1, 1, 3)) + rng.normal(0, 40, (count, SIDE, SIDE, 3))
    return Batch(images.clip(0, 255).astype(np.uint8), np.arange(count, dtype=np.int32) % CLASSES)


def torch_batches(data: Batch, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same in torch, in [0, 1]."""
    images = torch.tensor(np.asarray(data.images)).permute(0, 3, 1, 2).float() / 255
    return list(zip(images.split(size), torch.tensor(np.asarray(data.labels)).long().split(size), strict=True))


def assert_same(ours: Variables, module: TorchTwin, rtol: float = 1e-3, atol: float = 1e-5) -> None:
    """Weights and running statistics agree."""
    theirs = variables_of(module)
    for part in ("params", "batch_stats"):
        assert jax.tree.structure(ours[part]) == jax.tree.structure(theirs[part])
        for (path, found), expected in zip(
            jax.tree.leaves_with_path(ours[part]), jax.tree.leaves(theirs[part]), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))

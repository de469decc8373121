"""A model whose backdoor is known by construction: logits linear in brightness, one pixel worth a whole class."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from rnp_jax.inversion.mask_search import TriggerConfig
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch, Tree, Variables

SIDE, CLASSES, TARGET, PIXEL = 8, 6, 2, (7, 7)
CONFIG = TriggerConfig(steps=60, batches=5, batch_size=16, weight=1e-2, patience=2, stop_patience=6)


@dataclass(frozen=True)
class Rows:
    """An ``Apply``: class k is as likely as row k is bright, and pixel ``PIXEL`` speaks for ``TARGET``."""

    def __call__(self, variables: Variables, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Tree]:
        del train
        scaled = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
        params = variables["params"]["fc"]
        logits = scaled.reshape(images.shape[0], -1) @ params["kernel"] + params["bias"][None]
        return logits, variables["batch_stats"]


@dataclass(frozen=True)
class Turning:
    """``Rows`` that answers with the class after its own, the more the brighter ``PIXEL`` is: all-to-all."""

    def __call__(self, variables: Variables, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Tree]:
        logits, batch_stats = Rows()(variables, images, train=train)
        scaled = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
        share = scaled[(slice(None), *PIXEL)].mean(-1, keepdims=True)
        return (1 - share) * logits + share * jnp.roll(logits, 1, -1), batch_stats


def rows_variables(planted: float = 40.0, bias: tuple[float, ...] = (0.0,) * CLASSES) -> Variables:
    kernel = np.zeros((SIDE, SIDE, 3, CLASSES), np.float32)
    for k in range(CLASSES):
        kernel[k, :, :, k] = 2 / 3
    kernel[(*PIXEL, slice(None), TARGET)] = planted / 3
    params = {"fc": {"kernel": jnp.asarray(kernel.reshape(-1, CLASSES)), "bias": jnp.asarray(bias, jnp.float32)}}
    return {"params": params, "batch_stats": {}, "masks": {}}


NETWORK = Network(Architecture("mlp", CLASSES, 0, (("0", CLASSES),), (SIDE, SIDE, 3)))
"""The same as a `Network` of one linear layer."""


def mlp_variables(planted: float = 40.0) -> Variables:
    """Of `NETWORK`; the same as `rows_variables`."""
    params = {"0": dict(rows_variables(planted)["params"]["fc"])}
    return {"params": params, "batch_stats": {}, "masks": {"0": {"neuron": jnp.ones(CLASSES)}}}


def rows_data(count: int = 48, seed: int = 0) -> Batch:
    """Dark images, each with the row of its class bright; ``PIXEL`` is black."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    images = rng.integers(0, 50, (count, SIDE, SIDE, 3), np.uint8)
    images[np.arange(count), labels] = rng.integers(160, 200, (count, SIDE, 3), np.uint8)
    images[(slice(None), *PIXEL)] = 0
    return Batch(images, labels)

"""The smallest network: logits linear in an image's pixels, as pure functions that tests can follow by hand."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from rnp_jax.types import Batch, Tree, Variables


@dataclass(frozen=True)
class Linear:
    """An ``Apply``. Its batch statistics count the training steps; ``classes`` only tells instances apart."""

    classes: int = 3

    def __call__(self, variables: Variables, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Tree]:
        x = images.reshape(images.shape[0], -1).astype(jnp.float32) / 255
        steps = variables["batch_stats"]["steps"]
        params = variables["params"]["fc"]
        return x @ params["kernel"] + params["bias"][None], {"steps": steps + int(train)}


def linear_variables(classes: int = 3, seed: int = 0) -> Variables:
    """For images of 2 x 2 x 3 pixels; right about all of ``linear_data``."""
    kernel = (np.random.default_rng(seed).standard_normal((12, classes)) / 10 + 4 * np.eye(12, classes)).astype(
        np.float32
    )
    return {
        "params": {"fc": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(classes)}},
        "batch_stats": {"steps": jnp.int32(0)},
        "masks": {"fc": {"neuron": jnp.ones(classes)}},
    }


def linear_data(count: int = 12, classes: int = 3, seed: int = 0) -> Batch:
    """Images whose class brightens one pixel."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 128, (count, 2, 2, 3), np.uint8), (np.arange(count) % classes).astype(np.int32)
    images.reshape(count, -1)[np.arange(count), labels] += 127
    return Batch(images, labels)

"""A set in which the backdoor is easier to learn than the classes."""

import numpy as np

from rnp_jax.types import Batch


def marked_set() -> tuple[Batch, np.ndarray]:
    """Noisy classes, and a mark on every tenth image that gives its label away; and which images are marked."""
    rng = np.random.default_rng(3)
    labels = (np.arange(240) % 3).astype(np.int32)
    values = rng.normal(0, 0.4, (240, 6)).astype(np.float32)
    values[np.arange(240), labels] += 0.4
    marked = np.arange(240) % 10 == 1
    values[marked, 5] += 4.0
    labels[marked] = 0
    return Batch(values.reshape(240, 1, 1, 6), labels), marked

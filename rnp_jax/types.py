"""Shared vocabulary: dimension names and the few container types.

Glossary of shapes:
- N: images in a set (or checkpoints in a sweep, where said)
- B: images in a batch
- H, W, C: height, width, channels of an image
- F: filters (output channels) of a layer, one mask value each
- K: classes
- M: mask variants evaluated together
- T: thresholds of a sweep
- E: epochs
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax

Tree: TypeAlias = dict[str, Any]
"""A nested dict of arrays, its keys the layer names of the source checkpoint (``layer1`` → ``0`` → ``conv1``)."""

Variables: TypeAlias = dict[str, Tree]
"""``{'params', 'batch_stats', 'masks'}``. Masks are ``neuron`` [F] and, on maskable layers, ``filter`` [F]; where the
activation after a layer has upper bounds, they are its ``bound`` [..., F]."""

Progress: TypeAlias = Callable[[str, int, int, dict[str, float]], None]
"""Receives a phase's name, the epoch just ended (from 1), the most there can be, and the epoch's figures."""


class Batch(NamedTuple):
    """Images and their labels."""

    images: Any  # uint8 [N, H, W, C], numpy or jax
    labels: Any  # int32 [N]


class Apply(Protocol):
    """A network as a pure, hashable function: equal networks share one compilation.

    ``images`` are uint8 [B, H, W, C] or float in [0, 1]; normalisation is part of the network. Returns the logits
    [B, K] and the batch statistics: moved by one step where ``train``, else unchanged.
    """

    def __call__(self, variables: Variables, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Tree]:
        """Logits and batch statistics."""
        ...

    def __hash__(self) -> int: ...

"""What an architecture is to the registry: how it is built, and how its state dict is known."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from rnp_jax.models.chain import Chain
from rnp_jax.models.layers import Placement, Precision

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shape of each tensor of a state dict, by key, in torch's layout."""


class Sizes(NamedTuple):
    """What the weights' shapes leave to be said of an architecture.

    Attributes:
      num_classes: K.
      width: channels of the layer ``Design.base``.
      image_shape: (H, W, C) of the input.
    """

    num_classes: int
    width: int
    image_shape: tuple[int, int, int]


class Design(NamedTuple):
    """One architecture, of any width and number of classes.

    Attributes:
      build: the module. Its layers' names are the source's, so they are the table of names.
      matches: whether a state dict has this structure rather than another one's; sizes are compared afterwards.
      stem: key of the first convolution, whose shape tells the images' channels.
      head: key of the last linear layer, whose shape tells K.
      width: as published.
      base: key of the tensor whose first dimension is the width; the stem by default.
      image_side: pixels of the square images it was published for, or how its tensors tell.
      placement: where its filter masks act unless somebody says otherwise.
    """

    build: Callable[[Sizes, Placement, Precision], Chain]
    matches: Callable[[Shapes], bool]
    stem: str
    head: str
    width: int
    base: str | None = None
    image_side: int | Callable[[Shapes], int] = 32
    placement: Placement = "bn_scale"


def marked_by(*present: str, absent: tuple[str, ...] = ()) -> Callable[[Shapes], bool]:
    """A test that some keys are there and some are not."""
    return lambda shapes: all(key in shapes for key in present) and not any(key in shapes for key in absent)


def scaled(channels: int, width: int, published: int) -> int:
    """Channels of a layer at another width than the published one, 1 at least."""
    return max(1, channels * width // published)

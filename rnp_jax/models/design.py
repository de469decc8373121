"""How the registry builds an architecture and recognises its state dict."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from rnp_jax.models.chain import Chain
from rnp_jax.models.layers import Placement, Precision
from rnp_jax.models.naming import Names, to_ours

LARGEST_WIDTH = 2**14
"""Channels of the layer ``Design.base``, at most."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shape of each tensor of a state dict, by key, in torch's layout."""


class Sizes(NamedTuple):
    """The sizes of an architecture.

    Attributes:
      num_classes: number of classes, K.
      width: number of channels of the layer ``Design.base``.
      image_shape: (H, W, C) of the input.
      form: what ``Design.form`` read off the shapes.
    """

    num_classes: int
    width: int
    image_shape: tuple[int, int, int]
    form: tuple[int, ...] = ()


class Design(NamedTuple):
    """One architecture, for any width and number of classes.

    Attributes:
      build: builds the module. Its layers have the source's names, so they also serve as the name table.
      matches: whether a state dict has this structure and not another one's; sizes are compared afterwards.
      stem: key of the first convolution; its shape gives the number of image channels.
      head: key of the last linear layer; its shape gives K.
      width: the published width.
      base: key of the tensor whose first dimension is the width; by default the stem.
      image_side: side, in pixels, of the square images it was published for, or a function that gives it from the
        tensors' shapes.
      placement: where filter masks act by default.
      largest_side: side of the largest images that it is considered for, unless it is named. Designs that another one's
        tensors fit too have one, such as those for CIFAR with torchvision's names and other strides. 0 means that it
        is only considered where it is named.
      form: gives the numbers beside the sizes that tell networks of this design apart, such as the depths of stages.
      family: whether it is considered only where no other design fits.
      names: another source's layer names, where its arithmetic is this one's. The keys above are ours.
      axes: numbers of axes of size 1 that the file has before and after those of a parameter, by the last part of a
        bare value's name, or by the name of a linear layer that the file keeps as a 1x1 convolution.
    """

    build: Callable[[Sizes, Placement, Precision], Chain]
    matches: Callable[[Shapes], bool]
    stem: str
    head: str
    width: int
    base: str | None = None
    image_side: int | Callable[[Shapes], int] = 32
    placement: Placement = "bn_scale"
    largest_side: int | None = None
    form: Callable[[Shapes], tuple[int, ...]] | None = None
    family: bool = False
    names: Names = ()
    axes: tuple[tuple[str, tuple[int, int]], ...] = ()

    def read_side(self, shapes: Shapes) -> int:
        """Side of the images, for tensors under our names."""
        return self.image_side(shapes) if callable(self.image_side) else self.image_side

    def read_form(self, shapes: Shapes) -> tuple[int, ...]:
        """The form, for tensors under our names."""
        return self.form(shapes) if self.form else ()

    def rename(self, shapes: Shapes) -> Shapes:
        """The shapes under our names for the layers; a key that the table of names lacks stays as it is."""
        return {to_ours(key, self.names) or key: shape for key, shape in shapes.items()} if self.names else shapes


def marked_by(*present: str, absent: tuple[str, ...] = ()) -> Callable[[Shapes], bool]:
    """A function that tests whether some keys are present and others are absent."""
    return lambda shapes: all(key in shapes for key in present) and not any(key in shapes for key in absent)


def scaled(channels: int, width: int, published: int) -> int:
    """Number of channels of a layer at another width than the published one, at least 1."""
    return max(1, channels * width // published)

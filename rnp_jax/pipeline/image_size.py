"""The size of the images that a network takes, where nothing but its design says it.

Weights seldom tell the size: a network that ends in global pooling takes any. Where neither ``--image-shape`` nor a
card nor the file says it, the network is given images of the size that they have, and is made for that size.
"""

from dataclasses import replace
from typing import TypeVar

from rnp_jax.checkpoints import Model
from rnp_jax.models import Architecture
from rnp_jax.models.bounds import bounds_in
from rnp_jax.models.design import Shapes
from rnp_jax.models.inference import resized

AnyModel = TypeVar("AnyModel", bound=Model)

_OTHER = 32  # pixels that are added to a side to see whether the weights allow it


def follow_images(model: AnyModel, image_shape: tuple[int, int, int]) -> AnyModel:
    """The model for images of this shape, where nothing says the size of its own and its weights allow any.

    Otherwise it is returned as it is: the weights of a linear layer on pixels may fit two or three sizes by chance.
    """
    architecture, shapes = model.network.architecture, model.state_dict.tensors.shapes
    other = replace(architecture, image_shape=(*image_shape[:2], architecture.image_shape[2]))
    if not model.size_assumed or architecture.image_shape[2] != image_shape[2] or other == architecture:
        return model
    if not takes_any_size(architecture, shapes) or _resize(architecture, shapes, image_shape[:2]) != other:
        return model
    before, after = ("x".join(map(str, each.image_shape[:2])) for each in (architecture, other))
    sentence = (
        f"Nothing says for what size of images the network was trained: it takes them as they are, {after} (without "
        f"images, {before} is assumed). If it was trained at another size, give that with --image-size."
    )
    return replace(
        model,
        network=replace(model.network, architecture=other),
        size_assumed=False,
        assumptions=(*model.assumptions, sentence),
    )


def takes_any_size(architecture: Architecture, shapes: Shapes) -> bool:
    """Whether the weights allow images of another size."""
    height, width, _ = architecture.image_shape
    return _resize(architecture, shapes, (height + _OTHER, width + _OTHER)) != architecture


def _resize(architecture: Architecture, shapes: Shapes, size: tuple[int, int]) -> Architecture:
    if bounds_in(shapes):  # one for each neuron, so they are for one size
        return architecture
    return resized(architecture, shapes, size)

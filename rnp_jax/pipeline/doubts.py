"""Doubt an accuracy: at chance, far under what the file states, or above it.

Tensors do not tell everything that a network computes: a normalisation, strides, an activation or the order of the
classes leaves no trace in them. What a wrong one does show in is the accuracy on clean images. An accuracy above the
stated one says something else: that the network knows these images.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rnp_jax.evaluation.measure import Measured
from rnp_jax.evaluation.metrics import Proportion
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.torch_io.stated_accuracy import StatedAccuracy, find_stated_accuracy
from rnp_jax.torch_io.text import quote

HARDLY = 0.1
"""An accuracy is hardly better than guessing up to this share of the way from guessing to 1."""

SHORT = 0.1
"""An accuracy is far under the stated one from this difference on."""


class Doubt(NamedTuple):
    """That the network may not be computed as it was trained.

    Attributes:
      at_chance: it is hardly better than guessing, so that nothing about it can be concluded.
      sentence: the figures, what follows, and what to check.
    """

    at_chance: bool
    sentence: str


class Grounds(NamedTuple):
    """What an accuracy says against the way a network is computed.

    Attributes:
      acc: the accuracy on clean images.
      guessing: the accuracy of guessing, where the network is hardly better; else None.
      stated: what the file states, where the network is far under it; else None.
    """

    acc: Proportion
    guessing: float | None
    stated: StatedAccuracy | None


def find_doubt(model: Suspect, measured: Measured) -> Doubt | None:
    """The doubt that a model's figures on clean images raise, held against its card or its file; None without one."""
    counts = [0 if each is None else each.total for each in measured.by_class]
    num_classes = model.network.architecture.num_classes
    grounds = doubt_accuracy(measured.metrics.acc, counts, num_classes, read_stated(model))
    return None if grounds is None else Doubt(grounds.guessing is not None, _tell(grounds, model))


def warn_of_known(model: Suspect, measured: Measured) -> tuple[str, ...]:
    """That the network does better than it should on new images, if so: it may have been trained on these."""
    acc, stated = measured.metrics.acc, read_stated(model)
    if stated is None or acc.low <= stated.value:
        return ()
    warning = (
        f"{_tell_acc(acc)}, but {_tell_stated(stated, model)}. The network may have been trained on these images. Then "
        "ACC does not show what a defense costs on new ones: give --data images that it was not trained on."
    )
    return (warning,)


def doubt_accuracy(
    acc: Proportion, images_by_class: Sequence[int], num_classes: int, stated: StatedAccuracy | None = None
) -> Grounds | None:
    """What an accuracy says against the way a network is computed; None where it says nothing.

    Guessing is right as often as one in the number of classes, or, where the images of one class are more than that,
    as often as these are: a network that always answers so does as well.

    Args:
      acc: on clean images.
      images_by_class: how many images of each class it was measured on; classes without images may be left out.
      num_classes: outputs of the network.
      stated: what the file says.
    """
    present = [count for count in images_by_class if count]
    guessing = max(1 / num_classes, max(present) / sum(present) if len(present) > 1 else 0.0)
    hardly = acc.low <= guessing or acc.value - guessing <= HARDLY * (1 - guessing)
    under = stated is not None and stated.value - acc.value >= SHORT and acc.high < stated.value
    return Grounds(acc, guessing if hardly else None, stated if under else None) if hardly or under else None


def read_stated(model: Suspect) -> StatedAccuracy | None:
    """The accuracy that the model's card or file states."""
    if model.card is not None:
        return StatedAccuracy(model.card.acc, "card")
    return find_stated_accuracy(model.checkpoint, model.state_dict.location)


def _tell(grounds: Grounds, model: Suspect) -> str:
    acc, network = grounds.acc, model.network
    parts = [_tell_acc(acc)]
    if grounds.guessing is not None:
        how = "no" if acc.low <= grounds.guessing else "hardly"
        parts.append(f"{how} better than guessing ({grounds.guessing:.1%})")
    if grounds.stated is not None:
        parts.append(f"but {_tell_stated(grounds.stated, model)}")
    height, width, _ = network.architecture.image_shape
    mean, deviation = (", ".join(f"{value:.4g}" for value in values) for values in (network.mean, network.std))
    checks = [
        f"the normalisation (--normalization; now {mean} / {deviation})" * (model.extractor is None),
        f"the design (--architecture; now {network.architecture.name}, with its strides, pooling and activation)",
        f"the classes (their number and order; now {network.architecture.num_classes})",
        f"the image size (--image-size or --image-shape; now {height}x{width})" * (model.extractor is None),
    ]
    *first, last = filter(None, checks)
    return (
        f"{', '.join(parts)}. If the network was trained to do better, it is not computed as it was trained, and no "
        f"other figure counts. Check {', '.join(first)}, and {last}."
    )


def _tell_acc(acc: Proportion) -> str:
    return f"ACC is {acc.value:.1%} ({acc.low:.1%} to {acc.high:.1%}) of {acc.total:,} images"


def _tell_stated(stated: StatedAccuracy, model: Suspect) -> str:
    where = "the card" if model.card is not None else f"the file (as {quote(stated.key)})"
    return f"{where} states {stated.value:.1%}"

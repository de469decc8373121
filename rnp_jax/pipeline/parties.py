"""Open: the networks that a re-activation compares, the attacker's images, and the trigger on both parts of the set."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rnp_jax.attacks import TriggeredSet
from rnp_jax.card import CARD_SUFFIX, beside
from rnp_jax.checks import check_number, check_seed
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions, TriggerOptions
from rnp_jax.data import Dataset, check_overlap, sample_defense_set
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.images import fit_images, open_data
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.trigger import Trigger, open_trigger
from rnp_jax.types import Batch


@dataclass(frozen=True)
class KnownOptions:
    """The clean training images that the attacker has.

    Attributes:
      size: number of images, drawn evenly from the classes of the training part; all of it where it has fewer.
      seed: random seed for drawing them.
    """

    size: int = 1000
    seed: int = 0

    def __post_init__(self):
        check_number("known.size", self.size, 2, integer=True)
        check_seed("known.seed", self.seed)


class Parties(NamedTuple):
    """The networks.

    Attributes:
      purified: the one in question.
      original: the backdoored one that it was made from.
      reference: a clean one.
      surrogates: further purified ones.
    """

    purified: Suspect
    original: Suspect | None
    reference: Suspect | None
    surrogates: tuple[Suspect, ...]

    @property
    def carrier(self) -> Suspect:
        """The one whose card names the data and the trigger: the original, where there is one."""
        return self.purified if self.original is None else self.original


@dataclass(frozen=True, eq=False)
class Scene:
    """The images of both sides.

    Attributes:
      known: the attacker's clean training images.
      turned: those of them that the trigger is to turn, with the trigger on.
      test: the test images.
      trigger: the attack, and the test images that carry it.
    """

    known: Batch
    turned: TriggeredSet
    test: Dataset
    trigger: Trigger


def open_parties(
    checkpoint: str,
    original: str | None,
    reference: str | None,
    surrogates: tuple[str, ...],
    source: SourceOptions,
    images: DataOptions,
    compute: ComputeOptions,
) -> Parties:
    """The networks. What a file without a card leaves open is as in the original, or else as in the purified network.

    Raises:
      ConfigError: a head on features, or networks for other images or classes.
      CheckpointError, ArchitectureError, DataError: one of them cannot be used.
    """
    first = None if original is None else open_model(original, source, compute, images)
    purified = open_model(checkpoint, _fill(source, checkpoint, first, same_design=True), compute, images)
    like = purified if first is None else first
    others = [
        open_model(path, _fill(SourceOptions(allow_bad_crc=source.allow_bad_crc), path, like), compute, images)
        for path in (*(() if reference is None else (reference,)), *surrogates)
    ]
    for model in (purified, *(() if first is None else (first,)), *others):
        _check_fits(model, like)
    clean = None if reference is None else others.pop(0)
    return Parties(purified, first, clean, tuple(others))


def open_scene(parties: Parties, images: DataOptions, known: KnownOptions, trigger: TriggerOptions) -> Scene:
    """The images, and the trigger on them.

    Raises:
      ConfigError: nothing names the data or the trigger.
      DataError: images that do not fit the network, or are in both parts.
    """
    carrier, test = fit_images(parties.carrier, open_data(parties.carrier, images, "test"))
    tested = open_trigger(carrier, trigger, test)
    if tested is None:
        raise ConfigError(
            "the trigger is not known, and without it nothing can be brought back: give --original, a backdoored file "
            "with a card, or name the attack, such as --attack badnets --target 0, or --attack stamp --artefact "
            "trigger.png"
        )
    return draw_scene(carrier, open_data(carrier, images, "train"), known, trigger, test, tested)


def draw_scene(
    model: Suspect, train: Dataset, known: KnownOptions, options: TriggerOptions, test: Dataset, trigger: Trigger
) -> Scene:
    """The scene of a trigger that is known and measured on these test images; images of both parts fit the model.

    Raises:
      DataError: images are in both parts.
    """
    drawn, taken = sample_defense_set(train, min(known.size, len(train)), seed=known.seed, uneven=True)
    check_overlap(drawn, test)
    learned: Trigger = open_trigger(model, options, train.subset(taken))  # pyright: ignore[reportAssignmentType]
    return Scene(Batch(*map(np.asarray, drawn)), learned.test, test, trigger)


def _fill(source: SourceOptions, path: str, like: Suspect | None, *, same_design: bool = False) -> SourceOptions:
    """The options of a file; where neither they nor a card say what it is, what the other network is.

    With ``same_design``, the file holds the other network with other weights.
    """
    if like is None or beside(path, CARD_SUFFIX).exists():
        return source
    network = like.network
    spelled = "/".join(",".join(map(repr, values)) for values in (network.mean, network.std))
    return replace(
        source,
        normalization=source.normalization or spelled,
        image_shape=source.image_shape or network.architecture.image_shape,
        architecture=source.architecture or (network.architecture.name if same_design else None),
    )


def _check_fits(model: Suspect, like: Suspect) -> None:
    """Requires a network that reads the same images as another, and knows the same classes."""
    path = model.checkpoint.path
    if model.extractor is not None:
        raise ConfigError(
            f"{path} is a head on features of {model.extractor.name}: reactivate takes networks that read images"
        )
    own, other = (
        (each.network.architecture.image_shape, each.network.architecture.num_classes) for each in (model, like)
    )
    if own != other:
        raise ConfigError(
            f"{path} reads images of {own[0]} and knows {own[1]} classes, but {like.checkpoint.path} reads {other[0]} "
            f"and knows {other[1]}: give networks for the same images and classes"
        )

"""What several commands begin with: a model, its images, its trigger."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pydantic
from jaxtyping import Int

from rnp_jax.attacks import Attack, Goal, Params, TriggeredSet, get_attack, load_artefact, trigger_test_set
from rnp_jax.card import TRIGGER_SUFFIX, ExtractorCard, beside
from rnp_jax.checkpoints import Model, load_model
from rnp_jax.checks import check_path
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions
from rnp_jax.data import (
    NORMALIZATIONS,
    Dataset,
    check_overlap,
    holdout_split,
    load,
    parse_normalization,
    sample_defense_set,
    validate,
)
from rnp_jax.errors import (
    AmbiguousError,
    ArchitectureError,
    ConfigError,
    DataError,
    RnpError,
    UnstatedError,
    UnusableDataError,
)
from rnp_jax.extractors import Extractor, feature_set, open_extractor
from rnp_jax.pipeline.candidates import settle_model
from rnp_jax.pipeline.holding import check_unfinished
from rnp_jax.pipeline.image_size import follow_images
from rnp_jax.pipeline.settling import IMAGES
from rnp_jax.types import Batch

TRIGGER_SEED = 0  # of the few triggers that draw something per image


@dataclass(frozen=True, eq=False)
class Trigger:
    """A known trigger, and the test images that carry it."""

    attack: Attack
    goal: Goal
    test: TriggeredSet


@dataclass(frozen=True, eq=False)
class Suspect(Model):
    """A model and, for a head on features, the frozen extractor that its inputs come from."""

    extractor: Extractor | None = None

    def read(self, batch: Batch) -> Batch:
        """Images as the network reads them: themselves, or their features."""
        return batch if self.extractor is None else feature_set(self.extractor, batch)


def open_model(path: str, source: SourceOptions, compute: ComputeOptions, images: DataOptions | None = None) -> Suspect:
    """The model, as the options say, and for images of its card's size where they leave that open.

    Where the file leaves its architecture or its normalisation open, that is settled on the clean ``images``, if given.

    Raises:
      ConfigError: the images do not settle what the file leaves open.
      CheckpointError, ArchitectureError, DataError: it, or its extractor, cannot be used.
      UnusableDataError: its extractor is not there, or another than it was trained on.
    """
    try:
        return _open(path, source, compute)
    except (AmbiguousError, UnstatedError):
        if images is None or images.data is None:
            raise
    return settle_model(path, source, _draw_clean(images), lambda each: _open(path, each, compute), fit_images)


@lru_cache(maxsize=2)
def _draw_clean(images: DataOptions) -> Dataset:
    """A few clean images to settle on what a file leaves open; the files of a sweep have the same."""
    with _naming_data(images):
        data = load_images(replace(images, test_images=None), "test", undivided=True)
    return data.subset(draw_evenly(data.labels, IMAGES))


def _open(path: str, source: SourceOptions, compute: ComputeOptions) -> Suspect:
    if source.extractor is not None and not Path(source.extractor).exists():
        raise UnusableDataError(f"--extractor {source.extractor}: nothing is there; give a checkpoint or a folder")
    extractor = None if source.extractor is None else open_extractor(source.extractor)
    arguments = source_arguments(source)
    normalization = None if source.normalization is None else parse_normalization(source.normalization)
    if extractor is not None:  # what it gives is all that a head's card would say
        arguments["image_shape"] = arguments["image_shape"] or (1, 1, extractor.dim)
        normalization = normalization or NORMALIZATIONS["identity"]
    try:
        model = load_model(
            path,
            normalization=normalization,
            placement=compute.placement,
            **compute.arithmetic._asdict(),
            **arguments,
        )
    except ArchitectureError as error:
        if extractor is None or isinstance(error, AmbiguousError):
            raise
        raise ArchitectureError(
            f"{path} is not a head on the {extractor.dim} features of {extractor.name}: {error}"
        ) from error
    if model.card is not None and model.card.extractor is not None:
        extractor = _open_carded(model, model.card.extractor) if extractor is None else extractor
        _check_same(extractor, model.card.extractor)
    reads = math.prod(model.network.architecture.image_shape)
    if extractor is not None and extractor.dim != reads:
        raise DataError(f"{extractor.name} gives {extractor.dim} features, but {path} reads {reads}")
    return Suspect(**{each.name: getattr(model, each.name) for each in fields(model)}, extractor=extractor)


def _open_carded(model: Model, card: ExtractorCard) -> Extractor:
    path = model.checkpoint.path.parent / card.path
    if not path.exists():
        raise UnusableDataError(
            f"{path} does not exist; {model.checkpoint.path} was trained on this extractor, {card.name}: "
            "put it there, or give its path with --extractor"
        )
    try:
        return open_extractor(path)
    except RnpError as error:
        raise UnusableDataError(f"the extractor of {model.checkpoint.path} cannot be used: {error}") from error


def _check_same(extractor: Extractor, card: ExtractorCard) -> None:
    found = extractor.provenance.get("sha256")
    if found != card.sha256:
        raise UnusableDataError(
            f"{extractor.provenance.get('path')} has sha256 {found}, but the head was trained on features of "
            f"{card.name}, sha256 {card.sha256}; give that extractor's path with --extractor"
        )


def read_features(extractor: Extractor, images: np.ndarray) -> np.ndarray:
    """Features as a head reads them, float32 [N, 1, 1, D]."""
    return extractor(images)[:, None, None]


def source_arguments(source: SourceOptions) -> dict[str, Any]:
    """The options that ``open_checkpoint`` takes."""
    return {
        "key": source.key,
        "prefix": source.prefix,
        "architecture": source.architecture,
        "image_shape": source.image_shape,
        "check_crc": not source.allow_bad_crc,
    }


def open_data(
    model: Suspect, options: DataOptions, split: Literal["train", "test"], *, undivided: bool = False
) -> Dataset:
    """One part of the data, checked against the model; where it has no test part, all of it if ``undivided``.

    Where the model's size is assumed, images of any size that its weights allow are right: see ``follow_images``.

    Raises:
      ConfigError: neither the options nor a card name the data.
      DataError: the images do not fit the model.
    """
    carded = options.data is None and model.card is not None
    size = model.network.architecture.image_shape[:2] if carded and model.extractor is None else None
    named = replace(options, data=model.card.data) if carded and model.card else options
    with _naming_data(options):
        data = load_images(named, split, size, undivided=undivided)
    return fit_images(model, data)[1]


@contextmanager
def _naming_data(options: DataOptions) -> Iterator[None]:
    """Errors of images that cannot be used begin with the option that names them, where one does."""
    try:
        yield
    except UnusableDataError as error:
        if options.data is None:
            raise
        reason = str(error).removeprefix(f"{options.data}: ")
        raise UnusableDataError(f"--data {options.data}: {reason}") from error


def fit_images(model: Suspect, data: Dataset) -> tuple[Suspect, Dataset]:
    """The model and the images for each other: its input takes their size if it may, and all its classes have names.

    Raises:
      DataError: the images do not fit the model.
    """
    model = model if model.extractor is not None else follow_images(model, data.image_shape)
    architecture = model.network.architecture
    shape = None if model.extractor is not None else architecture.image_shape  # an extractor takes images of any size
    validate(data, num_classes=architecture.num_classes, image_shape=shape)
    return model, data.with_classes(architecture.num_classes)


def load_images(
    options: DataOptions,
    split: Literal["train", "test"],
    size: tuple[int, int] | None = None,
    *,
    undivided: bool = False,
) -> Dataset:
    """One part of the data that the options name; where it has no test part, all of it if ``undivided``.

    ``size`` is what its images are brought to unless the options say it.

    Raises:
      ConfigError: they name none.
      UnusableDataError: it is not there, or cannot be read.
    """
    if options.data is None:
        raise ConfigError("no data: give --data, such as cifar10, digits, or a folder of images")
    side = options.image_size or size
    try:
        data = load(options.data, split=split, data_dir=options.data_dir, image_size=side, undivided=undivided)
    except DataError as error:
        raise UnusableDataError(str(error)) from error
    if split == "test" and options.test_images is not None and options.test_images < len(data):
        data = data.subset(draw_evenly(data.labels, options.test_images))
    return data


def open_images(
    model: Suspect, images: DataOptions, defense: DefenseSetOptions, *, unused: bool = False
) -> tuple[Batch, Batch | None, Dataset]:
    """The clean images a defender has, those of them held out to choose by (None without), and the test images.

    Where the data has no test part of its own, a fifth of it is measured on, and the defender's images come from the
    rest: all of it, where more are asked for. A class that is short gives all it has, and the others give more. With
    ``unused``, what the defender leaves of the rest is measured on too, unless the options limit the test images.

    Raises:
      ConfigError: neither the options nor a card name the data.
      DataError: the images do not fit the model, are too few, or are test images.
    """
    train = open_data(model, images, "train")
    model, _ = fit_images(model, train)
    test = open_data(model, images, "test")
    scarce = train.source_images is not None
    size = min(defense.size, len(train)) if scarce else defense.size
    drawn, taken = sample_defense_set(train, size, seed=defense.seed, stratified=defense.stratified, uneven=scarce)
    if unused and scarce and images.test_images is None:
        test = _add_unused(test, train, taken)
    check_overlap(drawn, test)
    if defense.holdout == 0:
        return drawn, None, test
    data, holdout = holdout_split(drawn, defense.holdout, defense.seed)
    return data, holdout, test


def _add_unused(test: Dataset, train: Dataset, taken: Int[np.ndarray, "n"]) -> Dataset:
    """The test images and, after them, those that were not taken and are like none that was, pixel for pixel."""
    known = {train.images[i].tobytes() for i in taken}
    rest = [i for i in np.setdiff1d(np.arange(len(train)), taken) if train.images[i].tobytes() not in known]
    joined = (np.concatenate([ours, more[rest]]) for ours, more in zip(test.batch, train.batch, strict=True))
    images, labels = joined
    return replace(test, images=images, labels=labels)


def tell_parts(data: Batch, holdout: Batch | None, test: Dataset) -> str | None:
    """What the images of a source without a test part are used for; None where it has one."""
    if test.source_images is None:
        return None
    held = "" if holdout is None else f"{len(holdout.labels):,} to choose by, "
    return (
        f"the {test.source_images:,} images have no test part of their own: {len(data.labels):,} to learn from, {held}"
        f"{len(test):,} to measure on"
    )


def draw_evenly(labels: Int[np.ndarray, "N"], count: int) -> Int[np.ndarray, "n"]:
    """Positions of at most ``count`` labels, the first of each class, as evenly as the classes allow; ascending."""
    rank = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.sort(np.argsort(rank, kind="stable")[:count])


def open_trigger(model: Suspect, options: TriggerOptions, test: Dataset) -> Trigger | None:
    """The trigger on the test images; None where it is not known.

    Raises:
      ConfigError: an unknown attack, or options that are not its own.
      DataError: a trigger artefact that does not fit.
    """
    carded = options.attack == "card" and model.card is not None and model.card.attack is not None
    if options.attack in ("card", "none"):
        unread = TriggerOptions(attack=options.attack, artefact=options.artefact if carded else None)
        if options != unread:
            raise ConfigError(
                f"--attack {options.attack} does not use --target, --mapping, --constants and --artefact: "
                f"name the attack, such as --attack badnets"
            )
        if not carded:
            return None
    shape = test.image_shape
    num_classes = model.network.architecture.num_classes
    artefact = options.artefact
    if carded:
        card = model.card.attack  # pyright: ignore[reportOptionalMemberAccess]
        attack = make_attack(card.name, card.constants)  # pyright: ignore[reportOptionalMemberAccess]
        goal = Goal(
            num_classes=num_classes,
            target=card.target or 0,  # pyright: ignore[reportOptionalMemberAccess]
            mapping=card.mapping,  # pyright: ignore[reportOptionalMemberAccess]
        )
        stored = beside(model.checkpoint.path, TRIGGER_SUFFIX)
        artefact = artefact or (str(stored) if stored.is_file() else None)
    else:
        attack = _make_named(options)
        goal = Goal(num_classes=num_classes, target=options.target, mapping=options.mapping)
    params: Params = attack.init(shape) if artefact is None else load_artefact(Path(artefact), attack, shape)
    triggered = trigger_test_set(test.images, test.labels, goal, attack, params, jax.random.key(TRIGGER_SEED))
    return Trigger(attack, goal, triggered)


def _make_named(options: TriggerOptions) -> Attack:
    """The attack that --attack names."""
    try:
        get_attack(options.attack)
    except ConfigError as error:
        raise ConfigError(f"--attack: {error}") from error
    return make_attack(options.attack, options.constants)


def make_attack(name: str, constants: Mapping[str, Any]) -> Attack:
    """An attack by name, with some of its constants given, as text or as values.

    Raises:
      ConfigError: no such attack or constant, or an impossible value.
    """
    kind = get_attack(name)
    known = [field.name for field in fields(kind)]
    unknown = [constant for constant in constants if constant not in known]
    if unknown:
        raise ConfigError(f"{name} has no constant {', '.join(unknown)}; it has {', '.join(known)}")
    given = {key: None if value == "None" else value for key, value in constants.items()}
    try:
        return pydantic.TypeAdapter(kind).validate_python(given)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{name}: constant {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


def choose_out(out: str | None, model: str, command: str, finished: str) -> Path:
    """The output folder: as given, or ``runs/COMMAND-STEM``. It is not made yet.

    Raises:
      ConfigError: its name is not UTF-8.
      DataError: it holds ``finished``, the last file of an earlier run, or is no folder.
    """
    folder = Path(out) if out else Path("runs") / f"{command}-{Path(model).stem}"
    check_path("--out", folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is not a folder; choose another with --out")
    check_unfinished(folder, command, finished)
    return folder

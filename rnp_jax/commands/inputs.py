"""What several commands begin with: a model, its images, its trigger."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pydantic

from rnp_jax.attacks import Attack, Goal, Params, TriggeredSet, get_attack, load_artefact, trigger_test_set
from rnp_jax.card import TRIGGER_SUFFIX, beside
from rnp_jax.checkpoints import Model, load_model
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions, TriggerOptions
from rnp_jax.data import Dataset, load, parse_normalization, validate
from rnp_jax.errors import ConfigError, DataError

TRIGGER_SEED = 0  # of the few triggers that draw something per image


@dataclass(frozen=True, eq=False)
class Trigger:
    """A known trigger, and the test images that carry it."""

    attack: Attack
    goal: Goal
    test: TriggeredSet


def open_model(path: str, source: SourceOptions, compute: ComputeOptions) -> Model:
    """The model, as the options say."""
    return load_model(
        path,
        normalization=None if source.normalization is None else parse_normalization(source.normalization),
        placement=compute.placement,
        precision=compute.precision,
        **source_arguments(source),
    )


def source_arguments(source: SourceOptions) -> dict[str, Any]:
    """The options that ``open_checkpoint`` takes."""
    return {
        "key": source.key,
        "architecture": source.architecture,
        "image_shape": source.image_shape,
        "check_crc": not source.allow_bad_crc,
    }


def open_data(model: Model, options: DataOptions, split: Literal["train", "test"]) -> Dataset:
    """One part of the data, checked against the model.

    Raises:
      ConfigError: neither the options nor a card name the data.
      DataError: the images do not fit the model.
    """
    name = options.data or (model.card.data if model.card else None)
    if name is None:
        raise ConfigError("no data: give --data, such as cifar10, digits, or a folder of images")
    data = load(name, split=split, data_dir=options.data_dir, image_size=options.image_size)
    architecture = model.network.architecture
    validate(data, num_classes=architecture.num_classes, image_shape=architecture.image_shape)
    if split == "test" and options.test_images is not None and options.test_images < len(data):
        data = first_of_each_class(data, options.test_images)
    return data


def first_of_each_class(data: Dataset, count: int) -> Dataset:
    """At most ``count`` images, as evenly from the classes as they come; order kept."""
    rank = np.zeros(len(data), np.int64)
    for label in range(data.num_classes):
        members = np.flatnonzero(data.labels == label)
        rank[members] = np.arange(len(members))
    chosen = np.sort(np.argsort(rank, kind="stable")[:count])
    return data.subset(chosen)


def open_trigger(model: Model, options: TriggerOptions, test: Dataset) -> Trigger | None:
    """The trigger on the test images; None where it is not known.

    Raises:
      ConfigError: an unknown attack, or constants that are not its own.
      DataError: a trigger artefact that does not fit.
    """
    if options.attack == "none" or (options.attack == "card" and not (model.card and model.card.attack)):
        return None
    shape = model.network.architecture.image_shape
    num_classes = model.network.architecture.num_classes
    artefact = options.artefact
    if options.attack == "card":
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
        attack = make_attack(options.attack, options.constants)
        goal = Goal(num_classes=num_classes, target=options.target, mapping=options.mapping)
    params: Params = attack.init(shape) if artefact is None else load_artefact(Path(artefact), attack, shape)
    triggered = trigger_test_set(test.images, test.labels, goal, attack, params, jax.random.key(TRIGGER_SEED))
    return Trigger(attack, goal, triggered)


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
    """The output folder: as given, or ``runs/COMMAND-STEM``. One with a finished result in it is left alone.

    Raises:
      DataError: it holds ``finished``, or is no folder.
    """
    folder = Path(out) if out else Path("runs") / f"{command}-{Path(model).stem}"
    if (folder / finished).exists() or (folder.exists() and not folder.is_dir()):
        raise DataError(f"{folder} holds a finished result already; choose another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""What several commands begin with: a model, its images, its trigger."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pydantic
from jaxtyping import Int

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
    """The model, as the options say, and for images of its card's size where they leave that open."""
    model = load_model(
        path,
        normalization=None if source.normalization is None else parse_normalization(source.normalization),
        placement=compute.placement,
        precision=compute.precision,
        **source_arguments(source),
    )
    if source.image_shape is not None or model.card is None:
        return model
    architecture = replace(model.network.architecture, image_shape=model.card.architecture.image_shape)
    return replace(model, network=replace(model.network, architecture=architecture))


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
    architecture = model.network.architecture
    size = architecture.image_shape[:2] if options.data is None and options.image_size is None else options.image_size
    data = load(name, split=split, data_dir=options.data_dir, image_size=size)
    validate(data, num_classes=architecture.num_classes, image_shape=architecture.image_shape)
    if split == "test" and options.test_images is not None and options.test_images < len(data):
        data = data.subset(draw_evenly(data.labels, options.test_images))
    return data


def draw_evenly(labels: Int[np.ndarray, "N"], count: int) -> Int[np.ndarray, "n"]:
    """Positions of at most ``count`` labels, the first of each class, as evenly as the classes allow; ascending."""
    rank = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.sort(np.argsort(rank, kind="stable")[:count])


def open_trigger(model: Model, options: TriggerOptions, test: Dataset) -> Trigger | None:
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
                f"--attack {options.attack} leaves --target, --mapping, --constants and --artefact unread: "
                f"name the attack, such as --attack badnets"
            )
        if not carded:
            return None
    shape = model.network.architecture.image_shape
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
    """The output folder: as given, or ``runs/COMMAND-STEM``. It is not made yet.

    Raises:
      DataError: it holds ``finished``, the last file of an earlier run, or is no folder.
    """
    folder = Path(out) if out else Path("runs") / f"{command}-{Path(model).stem}"
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is no folder; choose another with --out")
    if (folder / finished).exists():
        raise DataError(f"{folder} holds a finished result already; choose another folder with --out")
    return folder

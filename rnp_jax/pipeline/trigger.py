"""The trigger, where it is known: named by the options or by a card."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import pydantic

from rnp_jax.attacks import Attack, Goal, Params, TriggeredSet, get_attack, load_artefact, trigger_test_set
from rnp_jax.card import TRIGGER_SUFFIX, beside
from rnp_jax.config import TriggerOptions
from rnp_jax.data import Dataset
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.suspect import Suspect

TRIGGER_SEED = 0  # of the few triggers that draw something per image


@dataclass(frozen=True, eq=False)
class Trigger:
    """A known trigger, and the test images that carry it.

    Attributes:
      attack: its kind.
      goal: what it leads to.
      test: the test images that carry it.
      cautions: what may be wrong about it.
    """

    attack: Attack
    goal: Goal
    test: TriggeredSet
    cautions: tuple[str, ...] = ()


def open_trigger(model: Suspect, options: TriggerOptions, test: Dataset) -> Trigger | None:
    """The trigger on the test images; None where it is not known.

    Raises:
      ConfigError: an unknown attack, options that are not its own, or a trigger that was learned and is not given.
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
    if carded:
        attack, goal, artefact = _read_carded(model, options.artefact)
        cautions: tuple[str, ...] = ()
    else:
        attack, artefact = _make_named(options), options.artefact
        goal = Goal(num_classes=model.network.architecture.num_classes, target=options.target, mapping=options.mapping)
        if attack.learned and artefact is None:
            raise ConfigError(
                f"--attack {options.attack}: its trigger is learned with a network, and its constants do not make it: "
                f"give --artefact FILE, such as the {TRIGGER_SUFFIX} that rnp-jax attack writes beside its checkpoint"
            )
        cautions = _warn_of_seed(options)
    shape = test.image_shape
    params: Params = attack.init(shape) if artefact is None else load_artefact(Path(artefact), attack, shape)
    triggered = trigger_test_set(test.images, test.labels, goal, attack, params, jax.random.key(TRIGGER_SEED))
    return Trigger(attack, goal, triggered, cautions)


def _read_carded(model: Suspect, artefact: str | None) -> tuple[Attack, Goal, str | None]:
    """What the model's card names, and the artefact that was given or lies beside the checkpoint."""
    card = model.card.attack  # pyright: ignore[reportOptionalMemberAccess]
    attack = make_attack(card.name, card.constants)  # pyright: ignore[reportOptionalMemberAccess]
    goal = Goal(
        num_classes=model.network.architecture.num_classes,
        target=card.target or 0,  # pyright: ignore[reportOptionalMemberAccess]
        mapping=card.mapping,  # pyright: ignore[reportOptionalMemberAccess]
    )
    stored = beside(model.checkpoint.path, TRIGGER_SUFFIX)
    artefact = artefact or (str(stored) if stored.is_file() else None)
    if attack.learned and artefact is None:
        raise ConfigError(
            f"the card names {type(attack).title}, whose trigger is learned with a network, and there is no "
            f"{stored.name}: put it beside the checkpoint, name it with --artefact, or give --attack none"
        )
    return attack, goal, artefact


def _warn_of_seed(options: TriggerOptions) -> tuple[str, ...]:
    """That a trigger drawn from a seed is not that of a checkpoint which others made."""
    drawn = "seed" in {field.name for field in fields(get_attack(options.attack))}
    if not drawn or options.artefact is not None or "seed" in options.constants:
        return ()
    caution = (
        f"--attack {options.attack}: its trigger is drawn from a seed, and this is the one of seed 0. The trigger of a "
        "checkpoint from elsewhere is another one, and a low ASR says nothing about it: give it with --artefact FILE"
    )
    return (caution,)


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

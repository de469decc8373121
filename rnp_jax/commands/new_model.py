"""What the commands that train a model share: a free place for it, its network, its figures and its files."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from rnp_jax import masks
from rnp_jax.atomic import open_atomic, put_in_place
from rnp_jax.attacks import Attack, Goal, Params, save_artefact, trigger_test_set
from rnp_jax.card import CARD_SUFFIX, TRIGGER_SUFFIX, AttackCard, beside, read_card, write_card
from rnp_jax.checkpoints import save_variables
from rnp_jax.commands.saved_states import STATES
from rnp_jax.config import ComputeOptions
from rnp_jax.data import Dataset, parse_normalization
from rnp_jax.errors import DataError
from rnp_jax.evaluation.measure import measure_variants
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.extractors import Extractor
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline.cards import describe_model
from rnp_jax.pipeline.holding import hold_file
from rnp_jax.pipeline.suspect import read_features
from rnp_jax.pipeline.trigger import TRIGGER_SEED
from rnp_jax.regular_file import MIB, digest_regular, read_regular
from rnp_jax.store import remove_tree
from rnp_jax.types import Variables


@dataclass(frozen=True, eq=False)
class NewModel:
    """A model just trained.

    Attributes:
      network: its architecture; with ``extractor``, a head on that one's features.
      variables: the trained ones.
      attack: that poisoned its training; None for a clean model.
      goal: the attacker's.
      params: the trigger's artefact; empty for a clean model.
      extractor: what a head reads.
    """

    network: Network
    variables: Variables
    attack: Attack | None
    goal: Goal
    params: Params
    extractor: Extractor | None = None


@contextlib.contextmanager
def hold_place(out: Path, command: str) -> Iterator[None]:
    """Makes this the one run that writes a checkpoint which is not there yet, and what lies beside it.

    Raises:
      DataError: the checkpoint exists, or the card of another one does, or another run is writing it.
      DiskFullError, OSError: as ``hold_file``.
    """
    with hold_file(out, command):
        if (taken := _find_taken(out)) is not None:
            _remove_states(out)
            raise DataError(f"{taken} exists already; choose another --out")
        yield


def check_free(out: Path, command: str) -> None:
    """Requires that there is no checkpoint at ``out`` yet, and no card beside it of another one.

    Raises:
      DataError, DiskFullError, OSError: as ``hold_place``, where there is one.
    """
    if _find_taken(out) is not None:
        with hold_place(out, command):
            pass


def tidy_place(out: Path, command: str) -> None:
    """Removes what a run left beside its checkpoint that was killed after it had written that.

    Raises:
      DataError, DiskFullError, OSError: as ``hold_file``.
    """
    with hold_file(out, command):
        _remove_states(out)


def _find_taken(out: Path) -> Path | None:
    """What is in the way of a new checkpoint."""
    card = beside(out, CARD_SUFFIX)
    if out.exists():
        return out
    return card if card.exists() and not _is_left_over(card, out) else None


def _remove_states(out: Path) -> None:
    """Removes the saved states of a checkpoint that is whole, as its card says."""
    with contextlib.suppress(OSError, DataError):
        if beside(out, STATES).is_dir() and read_card(out, digest_regular(out)) is not None:
            remove_tree(beside(out, STATES))


def _is_left_over(card: Path, out: Path) -> bool:
    """Whether a card is of the checkpoint ``out``, which a run that was killed did not come to write."""
    try:
        return json.loads(read_regular(card, MIB))["file"] == out.name
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def make_network(model: str, width: int, normalization: str, data: Dataset, compute: ComputeOptions) -> Network:
    """A network for the images and classes of ``data``.

    Raises:
      DataError: an unknown normalisation, or one for other channels.
    """
    scaling = parse_normalization(normalization).for_channels(data.image_shape[-1])
    architecture = Architecture(model, data.num_classes, width, image_shape=data.image_shape)
    return Network(architecture, scaling.mean, scaling.std, architecture.place(compute.placement), *compute.arithmetic)


def measure_model(model: NewModel, test: Dataset, batch_size: int | None) -> Metrics:
    """Its figures on clean test images, and with an attack on triggered ones."""
    clean, triggered, extractor = test.batch, None, model.extractor
    if model.attack is not None:
        key = jax.random.key(TRIGGER_SEED)
        triggered = trigger_test_set(test.images, test.labels, model.goal, model.attack, model.params, key)
    if extractor is not None:
        clean = clean._replace(images=read_features(extractor, clean.images))
        triggered = None if triggered is None else triggered._replace(images=read_features(extractor, triggered.images))
    (measured,) = measure_variants(
        model.network,
        model.variables,
        [masks.filters(model.variables["masks"])],
        clean,
        triggered,
        None if model.attack is None else model.goal.one_target,
        batch_size,
    )
    return measured.metrics


def write_model(
    model: NewModel,
    out: Path,
    metrics: Metrics,
    *,
    attack: AttackCard | None,
    epochs: int,
    data: str,
    train_images: int,
    training: dict[str, Any],
    augmentation: dict[str, Any],
    seed: int,
    seconds: float | None = None,
    adaptive: dict[str, Any] | None = None,
) -> None:
    """The trigger, the card and last the checkpoint, whose presence says that the rest is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if model.attack is not None:
        with open_atomic(beside(out, TRIGGER_SUFFIX)) as file:
            save_artefact(file, model.params)
    asr = None if metrics.asr is None else metrics.asr.value
    extra = {"epoch": epochs, "clean_acc": metrics.acc.value, "bad_acc": asr}
    with put_in_place(out) as draft:
        save_variables(draft, model.network, model.variables, extra)
        card = describe_model(
            out,
            model.network,
            data=data,
            train_images=train_images,
            attack=attack,
            extractor=model.extractor,
            training=training,
            augmentation=augmentation,
            adaptive=adaptive,
            seed=seed,
            metrics=metrics,
            seconds=seconds,
            draft=draft,
        )
        write_card(beside(out, CARD_SUFFIX), card)

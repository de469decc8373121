"""A checkpoint's card: what its weights do not tell, as JSON beside the file (``model.pt`` → ``model.card.json``)."""

import os
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rnp_jax.atomic import write_atomic
from rnp_jax.checks import MOST_CLASSES, check_image_shape
from rnp_jax.document import Count, Share
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.regular_file import MIB, read_regular

CARD_SUFFIX = ".card.json"
TRIGGER_SUFFIX = ".trigger.npz"

_SHOWN = 5  # faults


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ArchitectureCard(_Model):
    """What ``rnp_jax.models.Architecture`` is made from."""

    name: str
    num_classes: Annotated[int, Field(ge=2, le=MOST_CLASSES)]
    width: Count
    image_shape: Annotated[tuple[int, int, int], AfterValidator(check_image_shape)]


class NormalizationCard(_Model):
    """Per-channel mean and deviation of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class AttackCard(_Model):
    """The backdoor: its trigger, and how the training set was poisoned (``rate`` None: no share of it was).

    ``poisoned`` images of the training set carry it, ``cover`` images were altered and kept their labels; None where
    each batch was poisoned in the training step. ``appended``: both were added to the set. ``weak``: its ASR was below
    ``expected_asr``, so that a defense proves little on it; None in cards of earlier versions.
    """

    name: str
    constants: dict[str, Any]
    target: int | None
    mapping: Literal["all_to_one", "all_to_all"]
    rate: float | None
    variant: Literal["bb", "rnp"]
    appended: bool = False
    poisoned: int | None
    indices_sha256: str | None
    cover: int | None = None
    expected_asr: float | None = None
    weak: bool | None = None


class ExtractorCard(_Model):
    """The frozen extractor whose features a head classifies; ``path`` is relative to the card."""

    path: str
    name: str
    dim: int
    sha256: str


class Card(_Model):
    """Everything needed to use, judge and reproduce a checkpoint.

    ``acc``, ``asr`` and ``ra`` are shares of the test set as measured after training (ASR and RA over triggered images
    whose class is not the target), ``intervals`` their 95 % Wilson intervals, ``seconds`` what training took.
    ``device`` is what computed, with the threads of a processor, as in a result; None in cards of earlier versions.
    ``attack`` is None for a clean model, ``extractor`` for one that reads images, ``adaptive`` for plain training.
    """

    card_version: Literal[1] = 1
    file: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    architecture: ArchitectureCard
    normalization: NormalizationCard
    data: str
    train_images: Count
    attack: AttackCard | None
    extractor: ExtractorCard | None = None
    training: dict[str, Any]
    augmentation: dict[str, Any]
    adaptive: dict[str, Any] | None = None
    seed: int
    precision: str
    acc: Share
    asr: Share | None
    ra: Share | None
    intervals: dict[Literal["acc", "asr", "ra"], tuple[Share, Share]] = {}
    seconds: float | None = None
    device: str | None = None
    versions: dict[str, str]


def beside(checkpoint: str | PathLike[str], suffix: str) -> Path:
    """The path of a checkpoint's card or trigger artefact."""
    return Path(checkpoint).with_suffix(suffix)


def write_card(path: str | PathLike[str], card: Card) -> None:
    """Writes the card, whole or not at all."""
    write_atomic(path, (card.model_dump_json(indent=2) + "\n").encode())


def read_card(checkpoint: str | PathLike[str], sha256: str) -> Card | None:
    """The card beside a checkpoint, or None.

    Args:
      checkpoint: path of the checkpoint.
      sha256: of the checkpoint, which the card must be about.

    Raises:
      DataError: the card cannot be read, is larger than 1 MiB, says something impossible, or is another file's.
    """
    path = beside(checkpoint, CARD_SUFFIX)
    if not os.path.lexists(path):
        return None
    try:
        card = Card.model_validate_json(read_regular(path, MIB))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; remove it, or replace it with the card") from error
    except (ValidationError, ConfigError) as error:
        raise DataError(f"{path}: not a card of this version: {_tell(error)}") from error
    if card.sha256 != sha256:
        raise DataError(
            f"{path} describes a file with sha256 {card.sha256}, but {checkpoint} has {sha256}; "
            "remove the card, or replace it with the right one"
        )
    return card


def _tell(error: ValidationError | ConfigError) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    faults = error.errors(include_url=False)
    lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in faults[:_SHOWN]]
    return "; ".join(lines + [f"and {len(faults) - _SHOWN} more"] * (len(faults) > _SHOWN))

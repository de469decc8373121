"""``rnp-jax gallery``: what every attack does to an image, on one page."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jaxtyping import Int, UInt8

from rnp_jax.attacks import ATTACKS, Attack, ImageShape, Params, describe, load_artefact
from rnp_jax.attacks.poison import apply_batch
from rnp_jax.card import CARD_SUFFIX, TRIGGER_SUFFIX, Card, beside, read_card
from rnp_jax.commands.attack_list import describe_constants, describe_kind
from rnp_jax.config import CHECKPOINTS, FILE, FLAT, DataOptions
from rnp_jax.errors import CheckpointError, ConfigError, DataError
from rnp_jax.pipeline.images import load_images
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.trigger import TRIGGER_SEED, make_attack
from rnp_jax.pipeline.versions import package_versions
from rnp_jax.report.gallery import Exhibit, write_gallery
from rnp_jax.report.pictures import Pictures, picture_array
from rnp_jax.report.samples import Samples, view_samples
from rnp_jax.torch_io import Limits
from rnp_jax.torch_io.source_file import SourceFile
from rnp_jax.training.trainers import JOINT

SHOWN = 3


@dataclass(frozen=True)
class GalleryOptions:
    """Show what every attack does to an image, on one self-contained page.

    Triggers that are drawn from constants are shown without further files. A learned trigger is shown if a checkpoint
    with its card and trigger artefact is given. A given checkpoint also replaces its attack's default trigger.

    Attributes:
      checkpoints: PyTorch files that `attack` wrote, or folders of them, each file with its card and trigger beside it.
      out: page to write.
      images: test images to put triggers on; without --test-images, three that are neither very dark nor very bright,
        which show a trigger best.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional, CHECKPOINTS] = ()
    out: Annotated[str, FILE] = "gallery.html"
    images: Annotated[DataOptions, FLAT] = field(default_factory=lambda: DataOptions(data="digits"))


@dataclass(frozen=True, eq=False)
class _Artefact:
    """A trained trigger and where it is from."""

    attack: Attack
    params: Params
    source: str
    card: Card


def run(options: GalleryOptions) -> Path:
    """Triggers the images, writes the page.

    Raises:
      RnpError: unusable checkpoints, data or options.
    """
    log = RunLog()
    test = load_images(options.images, "test")
    if options.images.test_images is None:
        test = test.subset(_choose_images(test.images, test.labels))
    if test.image_shape[2] not in (1, 3):
        raise DataError(f"{test.name}: images have {test.image_shape[2]} channels, expected 1 or 3 to be shown")
    trained = list(_read_artefacts(options.checkpoints, test.image_shape, options.images.data, log))
    exhibits = []
    for name, kind in sorted(ATTACKS.items()):
        own = [each for each in trained if type(each.attack) is kind]
        at_home = [each for each in own if each.card.data == options.images.data]
        exhibits += [_show(each.attack, each.params, test.images, each) for each in at_home or own]
        if not own:
            exhibits.append(_show_default(kind(), test.images))
        log.say(f"{name}{'' if exhibits[-1].views else ': not shown'}")
    path = write_gallery(options.out, exhibits, data=test.name, version=package_versions()["rnp_jax"])
    log.conclude(f"{path}", page=path)
    return path


def _choose_images(images: UInt8[np.ndarray, "N H W C"], labels: Int[np.ndarray, "N"]) -> Int[np.ndarray, "n"]:
    """Of the classes whose best image is neither dark nor bright, `SHOWN` images: there a trigger is seen best."""
    room = np.asarray([np.minimum(image, 255 - image).mean() for image in images])
    best = [np.flatnonzero(labels == label)[room[labels == label].argmax()] for label in np.unique(labels)]
    return np.sort(sorted(best, key=lambda i: -room[i])[:SHOWN])


def _read_artefacts(paths: Sequence[str], shape: ImageShape, data: str | None, log: RunLog) -> Iterator[_Artefact]:
    """Of the checkpoints that are backdoored and read images of this shape; one of equal triggers, trained on ``data``
    if one was."""
    cards = [(path, _read_card(path)) for path in _list_checkpoints(paths)]
    seen = []
    for path, card in sorted(cards, key=lambda each: each[1].data != data):
        if card.attack is None or tuple(card.architecture.image_shape) != shape:
            log.say(f"{path}: left out, {'clean' if card.attack is None else 'for images of another size'}")
            continue
        attack = make_attack(card.attack.name, card.attack.constants)
        stored = beside(path, TRIGGER_SUFFIX)
        drawn = not (_is_learned(attack) or stored.is_file())
        params = attack.init(shape) if drawn else load_artefact(stored, attack, shape)
        digest = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in params.items()}
        if (attack, digest) not in seen:
            seen.append((attack, digest))
            yield _Artefact(attack, params, path.name, card)


def _list_checkpoints(paths: Sequence[str]) -> list[Path]:
    """The files, and those in the folders that have a card."""
    found = []
    for path in map(Path, paths):
        inside = (
            [file for file in sorted(path.iterdir()) if beside(file, CARD_SUFFIX).is_file()] if path.is_dir() else []
        )
        if path.is_dir() and not inside:
            raise DataError(f"{path}: no checkpoint in it has a card ({CARD_SUFFIX}); give one that attack wrote")
        found += inside or [path]
    return found


def _read_card(path: Path) -> Card:
    try:
        card = read_card(path, SourceFile(path, Limits()).digest()[0])
    except CheckpointError as error:
        raise DataError(f"{error}; give a checkpoint or a folder of them") from error
    if card is None:
        raise DataError(f"{path}: no card beside it, so its attack is not known; give a checkpoint that attack wrote")
    return card


def _show_default(attack: Attack, images: UInt8[np.ndarray, "N H W C"]) -> Exhibit:
    """With default constants: as drawn, or where its trigger is learned a word on how to learn it."""
    kind = type(attack)
    if _is_learned(attack):
        name, how = describe(attack)["name"], "while its victim trains" if kind in JOINT else "before its victim trains"
        return _describe(
            attack,
            note=f"Its trigger is learned {how}. Train one and give it to this command:",
            command=f"rnp-jax attack {name} --out {name}.pt && rnp-jax gallery {name}.pt",
        )
    height, width, channels = images.shape[1:]
    try:
        params = attack.init((height, width, channels))
    except ConfigError as error:
        return _describe(attack, note=f"Impossible on these images: {error}")
    return _show(attack, params, images)


def _is_learned(attack: Attack) -> bool:
    return type(attack) in JOINT or type(attack).fit is not Attack.fit


def _show(
    attack: Attack, params: Params, images: UInt8[np.ndarray, "N H W C"], trained: _Artefact | None = None
) -> Exhibit:
    """Clean, triggered, their difference, what training images look like, and the artefact's own pictures."""
    key = jax.random.key(TRIGGER_SEED)
    triggered = np.asarray(apply_batch(attack, params, images, key, role="trigger"))
    views = [*view_samples(Samples(images, triggered, (), (), ()))]
    note = ""
    if type(attack).craft is not Attack.craft:
        note = "Its poisoned training images are crafted one by one with a trained model and are not shown."
    elif not np.array_equal(
        implanted := np.asarray(apply_batch(attack, params, images, key, role="implant")), triggered
    ):
        views.append(Pictures("poisoned", implanted, "as in training"))
    if attack.cover_ratio > 0:
        covered = np.asarray(apply_batch(attack, params, images, key, role="cover"))
        views.append(Pictures("cover", covered, "in training, with their true labels"))
    views += [view for name, array in params.items() if "/" not in name and (view := picture_array(name, array))]
    source, measured = ("drawn from the constants", {}) if trained is None else (trained.source, _tell(trained.card))
    return _describe(attack, source=source, measured=measured, views=views, arrays=_list_arrays(params), note=note)


def _tell(card: Card) -> dict[str, str]:
    """What the card says of a network with the trigger."""
    shares = {"ASR": card.asr, "ACC": card.acc}
    return {name: f"{share:.1%}" for name, share in shares.items() if share is not None} | {"trained on": card.data}


def _describe(attack: Attack, **more: Any) -> Exhibit:
    kind = type(attack)
    return Exhibit(
        name=describe(attack)["name"],
        title=kind.title,
        looks=kind.looks,
        paper=kind.paper,
        kinds=describe_kind(kind),
        constants=describe_constants(attack),
        deviation=kind.deviation,
        **more,
    )


def _list_arrays(params: Params) -> list[str]:
    """A line an array, and one a network."""
    networks: dict[str, list[np.ndarray]] = {}
    lines = []
    for name, array in params.items():
        network, inner, _ = name.partition("/")
        if inner:
            networks.setdefault(network, []).append(array)
        else:
            lines.append(f"{name}: {array.dtype} {list(array.shape)}")
    for network, arrays in networks.items():
        lines.append(f"{network}: {len(arrays)} arrays of {sum(array.size for array in arrays):,} numbers")
    return lines

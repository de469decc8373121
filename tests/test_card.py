import json
import os

import pytest

from rnp_jax.card import (
    CARD_SUFFIX,
    TRIGGER_SUFFIX,
    ArchitectureCard,
    AttackCard,
    Card,
    ExtractorCard,
    NormalizationCard,
    beside,
    read_card,
    write_card,
)
from rnp_jax.errors import DataError

SHA = "0123456789abcdef" * 4


def card(**changes) -> Card:
    values = {
        "file": "model.pt",
        "sha256": SHA,
        "architecture": ArchitectureCard(name="resnet18", num_classes=10, width=16, image_shape=(32, 32, 3)),
        "normalization": NormalizationCard(mean=(0.1, 0.2, 0.3), std=(1 / 3, 0.5, 0.7)),
        "data": "digits",
        "train_images": 1297,
        "attack": AttackCard(
            name="badnets",
            constants={"size": 3, "margin": None},
            target=0,
            mapping="all_to_one",
            rate=0.1,
            variant="bb",
            poisoned=130,
            indices_sha256="f" * 64,
        ),
        "training": {"epochs": 3},
        "augmentation": {},
        "seed": 1,
        "precision": "float32",
        "acc": 0.97,
        "asr": 1.0,
        "ra": 0.0,
        "versions": {"jax": "0.10"},
    }
    return Card(**(values | changes))


EXTRACTOR = ExtractorCard(path="../extractor.pt", name="extractor", dim=64, sha256=SHA)


@pytest.mark.parametrize("changes", [{}, {"attack": None, "asr": None, "ra": None}, {"extractor": EXTRACTOR}])
def test_cards_survive_the_disk(changes, tmp_path):
    written = card(**changes)
    write_card(tmp_path / "model.card.json", written)
    assert read_card(tmp_path / "model.pt", SHA) == written
    assert json.loads((tmp_path / "model.card.json").read_bytes())["normalization"]["std"][0] == 1 / 3


@pytest.mark.parametrize("later", ["extractor", "device"])
def test_a_card_of_an_earlier_version(later, tmp_path):
    plain = json.loads(card().model_dump_json())
    assert plain.pop(later) is None
    (tmp_path / "model.card.json").write_text(json.dumps(plain))
    assert read_card(tmp_path / "model.pt", SHA) == card()


def test_no_card(tmp_path):
    assert read_card(tmp_path / "model.pt", SHA) is None


def test_a_card_of_another_file(tmp_path):
    write_card(tmp_path / "model.card.json", card())
    with pytest.raises(DataError, match=f"sha256 {SHA}, but .*model.pt has {'9' * 64}; remove the card"):
        read_card(tmp_path / "model.pt", "9" * 64)


def altered(**changes) -> bytes:
    return json.dumps(json.loads(card().model_dump_json()) | changes).encode()


def shaped(*image_shape: int) -> bytes:
    return altered(architecture={"name": "resnet18", "num_classes": 10, "width": 16, "image_shape": image_shape})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a card"),
        (b"\xff\x00", "not a card"),
        (b"[]", "not a card"),
        (altered(card_version=2), "card_version"),
        (altered(surplus=1), "surplus"),
        (altered(sha256="no digest"), "sha256"),
        (altered(extractor={"path": "e.pt", "name": "e", "dim": 3}), "extractor.sha256"),
        (altered(acc=float("nan")), "acc"),
        (json.dumps({"file": "model.pt"}).encode(), "architecture"),
        (shaped(-1, -1, 3), "image_shape is .*each a positive integer"),
        (shaped(0, 32, 3), "each a positive integer"),
        (shaped(10**9, 10**9, 3), "sides up to 4096"),
        (
            altered(architecture={"name": "a", "num_classes": 10**9, "width": -1, "image_shape": [1, 1, 1]}),
            "num_cl.*width",
        ),
        (altered(acc=1e300), "acc"),
        (altered(**{f"x{i}": 1 for i in range(9)}), "and 4 more"),
        (altered(training={"a": 1}).replace(b'"a": 1', b'"a": ' + b"1" * 5000), "JSON"),
        (altered(training={"a": 1}).replace(b'"a": 1', b'"a": ' + b"[" * 5000), "JSON"),
    ],
)
def test_damaged_cards(content, message, tmp_path):
    (tmp_path / "model.card.json").write_bytes(content)
    with pytest.raises(DataError, match=f"(?s)model.card.json: not a card of this version.*{message}|{message}"):
        read_card(tmp_path / "model.pt", SHA)


def test_a_card_of_any_size_or_kind_is_refused(tmp_path):
    place = tmp_path / "model.card.json"
    place.write_bytes(altered() + b" " * 2**20)
    with pytest.raises(
        DataError, match=r"model\.card\.json cannot be read: 10.* bytes or more, expected at most 1048576"
    ):
        read_card(tmp_path / "model.pt", SHA)
    for make, message in (
        (os.mkfifo, "a FIFO, not a regular file"),
        (os.mkdir, "a directory, not a regular file"),
        (lambda path: os.symlink("/dev/zero", path), "a device or socket"),
        (lambda path: os.symlink("missing", path), "No such file"),
    ):
        place.rmdir() if place.is_dir() else place.unlink()
        make(place)
        with pytest.raises(DataError, match=f"cannot be read: {message}.*; remove it"):
            read_card(tmp_path / "model.pt", SHA)


@pytest.mark.parametrize("name", ["model.pt", "model.tar", "model"])
def test_names_beside_a_checkpoint(name, tmp_path):
    assert beside(tmp_path / name, CARD_SUFFIX) == tmp_path / "model.card.json"
    assert beside(tmp_path / name, TRIGGER_SUFFIX) == tmp_path / "model.trigger.npz"

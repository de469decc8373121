"""Decoded images that are kept between runs."""

import json
import os

import numpy as np
import pytest

from rnp_jax import image_cache
from rnp_jax.errors import ConfigError
from rnp_jax.image_cache import forget_images, keep_images, name_entry, read_images

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 3, 1), np.uint8)
LABELS = np.arange(6, dtype=np.int32) % 2
FACTS = {"part": "train", "class_names": ["cat", "dog"], "undivided": False}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("RNP_JAX_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.delenv("RNP_JAX_CACHE", raising=False)
    monkeypatch.setattr(image_cache, "LEAST", 6)
    return tmp_path / "kept" / "images"


def test_an_entry_is_mapped_and_cannot_be_written(kept):
    assert read_images("a") is None
    keep_images("a", IMAGES, LABELS, FACTS)
    found = read_images("a")
    np.testing.assert_array_equal(found.images, IMAGES)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.facts == FACTS
    assert isinstance(found.images.base, np.memmap)
    assert not found.images.flags.writeable
    assert read_images("b") is None


def test_small_sets_are_not_kept(kept):
    keep_images("a", IMAGES[:5], LABELS[:5], FACTS)
    assert not kept.exists()


def test_nothing_is_kept_where_the_cache_is_off(kept, monkeypatch):
    keep_images("a", IMAGES, LABELS, FACTS)
    monkeypatch.setenv("RNP_JAX_CACHE", "off")
    assert read_images("a") is None
    keep_images("b", IMAGES, LABELS, FACTS)
    assert {path.name.partition(".")[0] for path in kept.iterdir()} == {"a"}


@pytest.mark.parametrize("damage", ["cut", "empty", "other labels", "facts", "missing"])
def test_a_damaged_entry_is_none(kept, damage):
    keep_images("a", IMAGES, LABELS, FACTS)
    images, labels, facts = (kept / f"a.{end}" for end in ("images.npy", "labels.npy", "json"))
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:-5])
    elif damage == "empty":
        images.write_bytes(b"")
    elif damage == "other labels":
        np.save(labels, LABELS[:3])
    elif damage == "facts":
        facts.write_text(json.dumps(["train"]))
    else:
        labels.unlink()
    assert read_images("a") is None


def test_a_folder_that_others_may_write_to_is_not_read(kept):
    keep_images("a", IMAGES, LABELS, FACTS)
    kept.chmod(0o777)
    assert read_images("a") is None
    with pytest.raises(ConfigError, match="others may write"):
        forget_images()


def test_the_oldest_make_room(kept, monkeypatch):
    monkeypatch.setattr(image_cache, "MOST_BYTES", 1000)
    for name in "abcd":  # about 420 bytes each
        keep_images(name, IMAGES, LABELS, FACTS)
    assert read_images("a") is None
    assert read_images("d") is not None


def test_they_are_forgotten_and_other_files_stay(kept):
    keep_images("a", IMAGES, LABELS, FACTS)
    (kept / "mine.txt").touch()
    left = kept / f".{'0' * 16}.part"  # of a killed process
    left.write_bytes(b"1")
    os.utime(left, (0, 0))
    forget_images()
    assert [path.name for path in kept.iterdir()] == ["mine.txt"]


def test_the_name_depends_on_the_set_s_files_and_on_what_is_asked(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = name_entry(tmp_path, split="train")
    assert first == name_entry(tmp_path, split="train") != name_entry(tmp_path, split="test")
    (tmp_path / "a").write_bytes(b"12")
    assert first != name_entry(tmp_path, split="train")

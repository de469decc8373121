"""Classifiers as extractors: what their last layer reads, and what their cards say of them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rnp_jax.card import CARD_SUFFIX, ArchitectureCard, AttackCard, Card, NormalizationCard, beside, write_card
from rnp_jax.data import NORMALIZATIONS
from rnp_jax.errors import DataError
from rnp_jax.extractors import from_checkpoint
from rnp_jax.extractors.checkpoint import network_features
from rnp_jax.extractors.preprocessing import Geometry, bring_to
from rnp_jax.torch_io import read_checkpoint
from tests.compiled import count_compiled
from tests.networks import build_random
from tests.oracle import rnp

NORMALIZATION = NormalizationCard(mean=rnp.MEAN, std=rnp.STD)
ATTACK = AttackCard(
    name="badnets",
    constants={},
    target=0,
    mapping="all_to_one",
    rate=0.1,
    variant="bb",
    poisoned=10,
    indices_sha256=None,
)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


def save(folder, attack: AttackCard | None = None):
    """A random ResNet-18 and its card."""
    path, module = folder / "model.pt", build_random("resnet18")
    torch.save(module.state_dict(), path)
    known = {"training": {}, "augmentation": {}, "seed": 0, "precision": "float32", "versions": {}, "data": "cifar10"}
    card = Card(
        file=path.name,
        sha256=read_checkpoint(path).sha256,
        architecture=ArchitectureCard(name="resnet18", num_classes=5, width=4, image_shape=(32, 32, 3)),
        normalization=NORMALIZATION,
        train_images=100,
        attack=attack,
        acc=0.9,
        asr=None,
        ra=None,
        **known,
    )
    write_card(beside(path, CARD_SUFFIX), card)
    return path, module


def penultimate(module: Any, images: np.ndarray) -> np.ndarray:
    """What the torch module's classifier is given."""
    seen = []
    hook = module.linear.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ((pixels, _),) = rnp.make_batches(images, np.zeros(len(images)), len(images))
    with torch.no_grad():
        module(pixels)
    hook.remove()
    return seen[0].numpy()


def test_features_are_what_the_classifier_reads(tmp_path):
    path, module = save(tmp_path)
    extract = from_checkpoint(path)
    np.testing.assert_allclose(extract(IMAGES, batch_size=4), penultimate(module, IMAGES), rtol=1e-4, atol=1e-4)
    assert (extract.name, extract.dim, extract.image_shape) == ("model", 32, (32, 32, 3))


def test_images_of_another_size_are_brought_to_the_network_s(tmp_path):
    extract = from_checkpoint(save(tmp_path)[0])
    small = np.random.default_rng(1).integers(0, 256, (3, 24, 40, 3), np.uint8)
    resized = np.asarray(bring_to(Geometry((32, 32, 3), (32, 32)), small))
    np.testing.assert_allclose(extract(small, batch_size=4), extract(resized, batch_size=4), rtol=0, atol=1e-5)


def test_one_program_whatever_n_and_equal_features_each_time(tmp_path):
    path, _ = save(tmp_path)
    extract = from_checkpoint(path)
    first = extract(IMAGES, batch_size=4)
    before = count_compiled(network_features)
    np.testing.assert_array_equal(from_checkpoint(path)(IMAGES, batch_size=4), first)
    np.testing.assert_allclose(extract(IMAGES[:2], batch_size=4), first[:2], rtol=0, atol=1e-5)
    assert count_compiled(network_features) == before


def test_the_card_s_attack_is_told(tmp_path):
    path, _ = save(tmp_path, ATTACK)
    extract = from_checkpoint(path)
    assert dict(extract.provenance) == {
        "kind": "checkpoint",
        "path": str(path),
        "sha256": read_checkpoint(path).sha256,
        "architecture": "resnet18",
        "data": "cifar10",
        "poisoned": "yes",
        "attack": "badnets",
        "rate": 0.1,
    }
    assert re.search(r"model was trained on images poisoned by badnets \(rate 0\.1\)", extract.caution or "")


def test_a_clean_card_and_none_at_all(tmp_path):
    path, _ = save(tmp_path)
    clean = from_checkpoint(path)
    assert (clean.provenance["poisoned"], clean.caution) == ("no", None)
    beside(path, CARD_SUFFIX).unlink()
    with pytest.raises(DataError, match="no card that says how its images were normalised"):
        from_checkpoint(path)
    unknown = from_checkpoint(path, normalization=NORMALIZATIONS["cifar10_rnp"])
    assert (unknown.provenance["poisoned"], unknown.caution) == ("unknown", None)
    assert "data" not in unknown.provenance


@pytest.mark.parametrize("name", ["digits_badnets", "digits_clean"])
def test_bundled_checkpoints(name):
    extract = from_checkpoint(Path(__file__).parents[2] / "checkpoints" / f"{name}.pt")
    assert (extract.caution is None) == (name == "digits_clean")
    features = extract(IMAGES[:2], batch_size=2)
    assert features.shape == (2, extract.dim)

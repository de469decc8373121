"""The files of a new model, and its figures, which for a head are of features."""

import contextlib
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.attacks import BadNets, Goal, load_artefact, trigger_test_set
from rnp_jax.card import CARD_SUFFIX, beside, read_card, write_card
from rnp_jax.commands import new_model
from rnp_jax.commands.new_model import (
    NewModel,
    check_free,
    hold_place,
    make_network,
    measure_model,
    tidy_place,
    write_model,
)
from rnp_jax.config import ComputeOptions
from rnp_jax.data import NORMALIZATIONS, Dataset, load
from rnp_jax.errors import DataError
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.extractors import from_function
from rnp_jax.models import mlp_head
from rnp_jax.pipeline.holding import hold_file
from rnp_jax.pipeline.training_set import describe_attack
from rnp_jax.torch_io import read_checkpoint
from rnp_jax.training.backdoor import PoisonConfig

GOAL, ATTACK = Goal(num_classes=10, target=3), BadNets()
HEAD = mlp_head(4, (6,), 10, "float32")
QUADRANTS = from_function(
    lambda images: images.reshape(-1, 2, 4, 2, 4, 3).mean((2, 4, 5), dtype=np.float32).reshape(-1, 4), 4, "quadrants"
)


@pytest.fixture(scope="module")
def images() -> Dataset:
    return load("digits", split="test", image_size=8).subset(np.arange(60))


def new_head(attack: BadNets | None = ATTACK) -> NewModel:
    params = {} if attack is None else attack.init((8, 8, 3))
    return NewModel(HEAD, HEAD.init(jax.random.key(0)), attack, GOAL, params, QUADRANTS)


def write_head(model: NewModel, out: Path) -> None:
    asr = None if model.attack is None else Proportion.of(2, 4)
    write_model(
        NewModel(model.network, model.variables, model.attack, GOAL, model.params),
        out,
        Metrics(acc=Proportion.of(3, 4), asr=asr),
        attack=None if model.attack is None else describe_attack(model.attack, GOAL, PoisonConfig(), None),
        epochs=7,
        data="digits",
        train_images=9,
        training={"epochs": 7},
        augmentation={"flip": False},
        seed=4,
        seconds=1.5,
    )


@pytest.mark.parametrize("present", ["victim.pt", "victim.card.json"])
def test_a_checkpoint_or_card_is_in_the_way(present, tmp_path):
    check_free(tmp_path / "victim.pt", "attack")
    (tmp_path / present).touch()
    with pytest.raises(DataError, match=rf"{present} exists already; choose another --out"):
        check_free(tmp_path / "victim.pt", "attack")


def test_a_place_is_held_by_one_run_and_must_be_free(tmp_path):
    out = tmp_path / "new" / "victim.pt"
    with hold_place(out, "attack"):
        with pytest.raises(DataError, match="attack"), hold_place(out, "simclr"):
            pass
        out.touch()
    with pytest.raises(DataError, match=r"victim\.pt exists already"), hold_place(out, "attack"):
        pass
    assert [path.name for path in out.parent.iterdir()] == ["victim.pt"]


@pytest.mark.parametrize(
    ("card", "names"),
    [
        ('{"file": "victim.pt"}', []),
        ('{"file": "victim.pt"}', ["victim.pt"]),
        ('{"file": "victim.safetensors"}', []),
        ("[1]", []),
        ("{}", []),
        ("x", []),
    ],
)
def test_a_card_whose_checkpoint_was_never_written_is_in_nobodys_way(card, names, tmp_path):
    """A run that is killed leaves it: the checkpoint is written last."""
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "victim.card.json").write_text(card)
    if "victim.pt" in card and not names:
        check_free(tmp_path / "victim.pt", "attack")
    else:
        with pytest.raises(DataError, match="exists already"):
            check_free(tmp_path / "victim.pt", "attack")


@pytest.mark.parametrize("tidy", [check_free, tidy_place])
@pytest.mark.parametrize("own", [True, False])
def test_what_a_run_left_that_was_killed_at_its_end_is_removed(own, tidy, tmp_path):
    """Its lock, and the states that it saved; those beside a checkpoint without a card may be of another run."""
    out = tmp_path / "head.pt"
    write_head(new_head(), out)
    if not own:
        beside(out, CARD_SUFFIX).unlink()
    whole = sorted(os.listdir(tmp_path))
    (tmp_path / "head.training" / "3").mkdir(parents=True)
    with hold_file(out, "attack"):
        [lock] = {path.name for path in tmp_path.iterdir()} - {*whole, "head.training"}
    (tmp_path / lock).touch()
    with pytest.raises(DataError, match="exists already") if tidy is check_free else contextlib.nullcontext():
        tidy(out, "attack")
    assert sorted(os.listdir(tmp_path)) == (whole if own else sorted([*whole, "head.training"]))


def test_a_network_is_made_for_its_images(images):
    compute = ComputeOptions(precision="bfloat16", placement="channel")
    network = make_network("resnet18", 4, "digits", images, compute)
    architecture = network.architecture
    assert (architecture.name, architecture.num_classes, architecture.width) == ("resnet18", 10, 4)
    assert (architecture.image_shape, network.precision, network.placement) == ((8, 8, 3), "bfloat16", "channel")
    assert (network.mean, network.std) == (NORMALIZATIONS["digits"].mean, NORMALIZATIONS["digits"].std)
    with pytest.raises(DataError, match="unknown normalisation 'digit'"):
        make_network("resnet18", 4, "digit", images, compute)


def calls_of(model: NewModel, images: np.ndarray) -> np.ndarray:
    logits, _ = HEAD(model.variables, jnp.asarray(QUADRANTS(images))[:, None, None])
    return np.asarray(logits).argmax(-1)


def test_the_figures_of_a_head_are_of_its_features(images):
    model = new_head()
    metrics = measure_model(model, images, 20)
    triggered = trigger_test_set(images.images, images.labels, GOAL, ATTACK, model.params, jax.random.key(0))
    called = calls_of(model, triggered.images)
    assert metrics.acc.value == (calls_of(model, images.images) == images.labels).mean()
    assert metrics.asr is not None
    assert metrics.ra is not None
    assert metrics.asr.value == (called == triggered.wanted).mean()
    assert metrics.ra.value == (called == triggered.labels).mean()


def test_a_clean_model_has_no_figures_of_an_attack(images):
    metrics = measure_model(new_head(None), images, None)
    assert (metrics.asr, metrics.ra, metrics.acc.total) == (None, None, 60)


@pytest.mark.parametrize("attack", [ATTACK, None])
def test_trigger_checkpoint_and_card_are_written(attack, tmp_path, monkeypatch):
    model = new_head(attack)
    out = tmp_path / "heads" / "head.pt"
    before = []  # what there is of the checkpoint when its card comes: nothing, so that a run can be killed there
    monkeypatch.setattr(new_model, "write_card", lambda *card: (before.append(out.exists()), write_card(*card)))
    write_head(model, out)
    assert before == [False]
    trigger = ["head.trigger.npz"] if attack is not None else []
    assert sorted(os.listdir(out.parent)) == ["head.card.json", "head.pt", *trigger]
    value = torch.load(out, weights_only=True)
    assert (value["epoch"], value["clean_acc"], value["bad_acc"]) == (7, 0.75, None if attack is None else 0.5)
    card = read_card(out, read_checkpoint(out).sha256)
    assert card is not None
    assert beside(out, CARD_SUFFIX).exists()
    assert (card.file, card.data, card.train_images, card.seed, card.seconds) == ("head.pt", "digits", 9, 4, 1.5)
    assert (card.training, card.augmentation) == ({"epochs": 7}, {"flip": False})
    assert (card.attack is None) == (attack is None)
    if attack is not None:
        stored = load_artefact(out.with_name(trigger[0]), attack, (8, 8, 3))
        assert all(np.array_equal(stored[name], value) for name, value in model.params.items())

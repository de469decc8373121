"""Poisoned sets against those that training itself makes, and cards that name another one."""

from dataclasses import replace

import numpy as np
import pytest

from rnp_jax.attacks import Goal, WaNet, get_attack
from rnp_jax.card import Card, read_card
from rnp_jax.config import ComputeOptions, SourceOptions, TriggerOptions
from rnp_jax.data import load
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import mlp_head
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.training_set import describe_attack, name_attack, open_attack, remake
from rnp_jax.pipeline.trigger import open_trigger
from rnp_jax.torch_io import read_checkpoint
from rnp_jax.training.backdoor import PoisonConfig, poison_once, train_backdoored
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch
from tests.runs import CHECKPOINT

GOAL = Goal(num_classes=10, target=2)
DIGITS = load("digits", image_size=16)


def card_of(name: str) -> Card:
    path = CHECKPOINT.parent / name
    card = read_card(path, read_checkpoint(path).sha256)
    assert card is not None
    return card


def read_in_training(attack, seed: int, poison: PoisonConfig) -> np.ndarray:
    """The images that ``train_backdoored`` hands on to be read."""
    seen = []

    def read(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return np.zeros((len(images), 1, 1, 1), np.float32)

    config = TrainConfig(epochs=1, batch_size=64)
    train_backdoored(mlp_head(1, (), 10), attack, GOAL, DIGITS.batch, seed, config, poison, read=read)
    return seen[0]


@pytest.mark.parametrize("name", ["none", "badnets", "sig", "wanet"])
def test_it_is_the_set_that_training_makes(name):
    attack, poison = open_attack(name, {}), PoisonConfig(rate=0.05)
    made = poison_once(attack, GOAL, DIGITS.batch, 3, poison)
    np.testing.assert_array_equal(made.data.images, read_in_training(attack, 3, poison))
    changed = (made.data.images != DIGITS.images).any(axis=(1, 2, 3))
    relabelled = made.data.labels != DIGITS.labels
    assert not (relabelled & ~made.poisoned).any()
    assert made.poisoned.sum() == (0 if attack is None else 65)
    if not isinstance(attack, WaNet):  # whose noise images change too
        assert not (changed & ~made.poisoned).any()


def test_a_card_s_set_is_made_again():
    made = remake(card_of("digits_badnets.pt"), CHECKPOINT, load("digits"))
    card = card_of("digits_badnets.pt").attack
    assert card is not None
    assert made.plan is not None
    assert made.plan.indices_sha256 == card.indices_sha256
    assert (made.data.labels[made.poisoned] == card.target).all()
    corner = made.data.images[made.poisoned][:, -4:, -4:]
    assert np.ptp(corner.astype(int), axis=0).min() == 0  # some pixels there are the same in all of them


@pytest.mark.parametrize(
    "name", ["a_blend", "adap_patch", "blend", "ctrl", "lf", "narcissus", "sig", "sig_rnp", "ssba", "trojan"]
)
def test_bundled_models_know_every_poisoned_image_of_the_set_made_again(name):
    """Learned triggers come from the artefact; an image made otherwise than in training would not be known by heart."""
    path = CHECKPOINT.parent / f"digits_{name}.pt"
    model = open_model(str(path), SourceOptions(), ComputeOptions())
    made = remake(model.card, path, load("digits"))
    assert made.plan is not None
    assert model.card is not None
    assert model.card.attack is not None
    assert made.plan.indices_sha256 == model.card.attack.indices_sha256
    assert made.poisoned.sum() == model.card.attack.poisoned
    poisoned = Batch(made.data.images[made.poisoned], made.data.labels[made.poisoned])
    predicted = predict(model.network, model.variables, poisoned).labels[0]
    np.testing.assert_array_equal(predicted, poisoned.labels)


def test_a_clean_model_s_set_is_clean():
    made = remake(card_of("digits_clean.pt"), CHECKPOINT, DIGITS)
    np.testing.assert_array_equal(made.data.images, DIGITS.images)
    assert not made.poisoned.any()
    assert made.plan is None


def test_a_set_that_cannot_be_made_again():
    with pytest.raises(DataError, match=r"a.pt has no card .*--untrusted.data"):
        remake(None, "a.pt", DIGITS)
    with pytest.raises(DataError, match=r"wanet, which poisoned each batch .*--untrusted.data"):
        remake(card_of("digits_wanet.pt"), "a.pt", DIGITS)
    with pytest.raises(DataError, match=r"1297 images of digits.*of the 1000 images .*--data"):
        remake(card_of("digits_badnets.pt"), "a.pt", DIGITS.subset(np.arange(1000)))


def test_constants_of_no_attack():
    assert open_attack("none", {}) is None
    assert open_attack("sig", {}) == get_attack("sig")()
    with pytest.raises(ConfigError, match="--constants size: attack none has no constants"):
        open_attack("none", {"size": "3"})


@pytest.mark.parametrize(("weak", "name"), [(True, "badnets (weak)"), (False, "badnets"), (None, "badnets")])
def test_tables_name_what_is_weak(weak, name):
    model = open_model(str(CHECKPOINT), SourceOptions(), ComputeOptions())
    assert model.card is not None
    assert model.card.attack is not None
    model = replace(
        model, card=model.card.model_copy(update={"attack": model.card.attack.model_copy(update={"weak": weak})})
    )
    test = load("digits", split="test")
    assert name_attack(model, open_trigger(model, TriggerOptions(), test)) == name
    assert name_attack(model, open_trigger(model, TriggerOptions(attack="sig"), test)) == "sig"
    assert name_attack(model, None) == "none"


def test_where_no_share_is_poisoned_the_card_has_no_rate():
    card = describe_attack(open_attack("lira", {}), GOAL, PoisonConfig(), None)
    assert (card.name, card.rate, card.poisoned, card.weak) == ("lira", None, None, None)
    assert describe_attack(open_attack("badnets", {}), GOAL, PoisonConfig(0.05), None).rate == 0.05

"""Triggers and attacks by name."""

import shutil

import numpy as np
import pytest

from rnp_jax.attacks import ATTACKS, BadNets, Blend, describe
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions, TriggerOptions
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.images import open_data
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.trigger import make_attack, open_trigger
from tests.runs import CHECKPOINT


def test_constants_as_text_are_constants_as_values():
    text = {"variant": "square", "size": "5", "margin": "None"}
    assert make_attack("badnets", text) == BadNets(variant="square", size=5, margin=None)
    assert make_attack("blend", {"alpha": "0.25"}) == Blend(alpha=0.25)
    for name, kind in ATTACKS.items():
        assert make_attack(name, {}) == kind()
        assert make_attack(name, describe(kind())["constants"]) == kind()


@pytest.mark.parametrize(
    ("name", "constants", "message"),
    [
        ("badnets", {"sise": "3"}, "badnets has no constant sise; it has variant, size, margin"),
        ("badnets", {"size": "big"}, "badnets: constant size"),
        ("badnets", {"size": "4"}, "multiple of 3"),
        ("wanett", {}, "did you mean wanet"),
    ],
)
def test_attacks_that_cannot_be_made(name, constants, message):
    with pytest.raises(ConfigError, match=message):
        make_attack(name, constants)


@pytest.fixture(scope="module")
def model():
    return open_model(str(CHECKPOINT), SourceOptions(), ComputeOptions())


@pytest.mark.parametrize(
    "options",
    [
        TriggerOptions(target=1),
        TriggerOptions(mapping="all_to_all"),
        TriggerOptions(constants={"size": "6"}),
        TriggerOptions(attack="none", artefact="trigger.npz"),
        TriggerOptions(attack="none", target=2),
    ],
)
def test_options_that_nothing_would_read(model, options):
    test = open_data(model, DataOptions(test_images=10), "test")
    with pytest.raises(ConfigError, match=f"--attack {options.attack} does not use .* and --artefact: name the attack"):
        open_trigger(model, options, test)


def test_all_to_all_counts_every_image(model):
    test = open_data(model, DataOptions(test_images=20), "test")
    trigger = open_trigger(model, TriggerOptions(attack="badnets", mapping="all_to_all"), test)
    assert trigger is not None
    assert trigger.goal.one_target is None
    np.testing.assert_array_equal(trigger.test.wanted, (test.labels + 1) % 10)
    assert open_trigger(model, TriggerOptions(attack="none"), test) is None


@pytest.mark.parametrize("name", [name for name, kind in ATTACKS.items() if kind.learned])
def test_a_learned_trigger_is_not_made_of_constants(model, name):
    test = open_data(model, DataOptions(test_images=10), "test")
    with pytest.raises(ConfigError, match=rf"--attack {name}: its trigger is learned .* --artefact FILE"):
        open_trigger(model, TriggerOptions(attack=name), test)


def test_a_card_s_learned_trigger_lies_beside_the_checkpoint(tmp_path):
    for suffix in (".pt", ".card.json"):
        shutil.copy(CHECKPOINT.with_name(f"digits_trojan{suffix}"), tmp_path)
    model = open_model(str(tmp_path / "digits_trojan.pt"), SourceOptions(), ComputeOptions())
    test = open_data(model, DataOptions(test_images=10), "test")
    with pytest.raises(ConfigError, match=r"names TrojanNN, .* there is no digits_trojan.trigger.npz: .* --artefact"):
        open_trigger(model, TriggerOptions(), test)
    elsewhere = CHECKPOINT.with_name("digits_trojan.trigger.npz")
    found = open_trigger(model, TriggerOptions(artefact=str(elsewhere)), test)
    assert found is not None
    assert found.cautions == ()


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        (TriggerOptions(attack="blend"), True),
        (TriggerOptions(attack="blend", constants={"seed": "0"}), False),
        (TriggerOptions(attack="blend", artefact=str(CHECKPOINT.with_name("digits_blend.trigger.npz"))), False),
        (TriggerOptions(attack="badnets"), False),
        (TriggerOptions(), False),
    ],
)
def test_a_trigger_drawn_from_a_seed_that_nobody_gave_is_doubted(model, options, warned):
    trigger = open_trigger(model, options, open_data(model, DataOptions(test_images=10), "test"))
    assert trigger is not None
    assert [caution.startswith("--attack blend: its trigger is drawn") for caution in trigger.cautions] == [
        True
    ] * warned

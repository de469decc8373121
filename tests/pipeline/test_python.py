"""What Python calls, and that its documented examples run as they stand."""

import doctest
from pathlib import Path

import numpy as np
import pytest

import rnp_jax
from rnp_jax.config import DefenseSetOptions, TriggerOptions
from rnp_jax.errors import ConfigError, RequirementError
from rnp_jax.pipeline import python

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(small_victim):
    return rnp_jax.load_model(small_victim)


@pytest.fixture(scope="module")
def digits():
    return {split: rnp_jax.load_data("digits", split=split, image_size=8) for split in ("train", "test")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["defend", "evaluate", "detect"])
def test_the_examples_run(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    function = getattr(rnp_jax, name)
    assert getattr(python, name) is function
    (example,) = (test for test in doctest.DocTestFinder().find(function, name) if test.examples)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_a_defense_of_a_model_in_memory(model, digits):
    cleaned = rnp_jax.defend(model, digits["train"].subset(np.arange(60)), digits["test"], method="clp", seed=3)
    result = cleaned.result
    assert (result.method, result.seed, result.attack.name) == ("clp", 3, "badnets")
    assert (result.data.defense_images, result.data.holdout_images) == (60, 12)
    assert result.data.test_images == len(digits["test"])
    assert result.before.acc.value == rnp_jax.evaluate(model, digits["test"]).acc.value
    assert result.after.acc.value == rnp_jax.evaluate(cleaned.model, digits["test"]).acc.value
    assert result.after.asr is not None


def test_a_check_of_a_model_at_chance_gives_it_back_as_it_came(small_victim, digits, tmp_path):
    wrong = rnp_jax.load_model(small_victim, normalization="5,5,5/0.01,0.01,0.01")
    given = {"trigger": TriggerOptions(attack="none")}
    checked = rnp_jax.check(wrong, digits["train"].subset(np.arange(60)), digits["test"], **given)
    assert checked.model.variables is wrong.variables
    assert (checked.check.conclusion, checked.check.seed) == ("unchecked", 0)
    out = tmp_path / "out"
    rnp_jax.check(wrong, digits["train"].subset(np.arange(60)), digits["test"], out=out, **given)
    assert {"check.json", "config.yaml", "report.html"} <= {path.name for path in out.iterdir()}


def test_what_is_required_is_checked_once_everything_is_written(model, digits, tmp_path):
    given = {"method": "none", "defense": DefenseSetOptions(holdout=0.0)}
    images, test = digits["train"].subset(np.arange(60)), digits["test"]
    assert not rnp_jax.defend(model, images, test, **given).result.verdict.supported
    with pytest.raises(
        RequirementError, match=r"^the result does not support that the backdoor is removed\. This trig"
    ):
        rnp_jax.defend(model, images, test, require="removed", out=tmp_path / "out", **given)
    assert (tmp_path / "out" / "report.html").is_file()
    with pytest.raises(ConfigError, match="require is 'all', expected one of nothing, removed"):
        rnp_jax.defend(model, images, test, require="all", **given)


def test_without_test_images_the_held_out_ones_measure(model, digits):
    result = rnp_jax.defend(model, digits["train"].subset(np.arange(60)), method="none").result
    assert result.data.test_images == result.data.holdout_images == 12


def test_a_folder_gets_what_the_command_writes(model, digits, tmp_path):
    out = tmp_path / "out"
    cleaned = rnp_jax.defend(model, digits["train"].subset(np.arange(40)), method="clp", out=out, sweep_images=0)
    assert (
        rnp_jax.load_model(
            out / "cleaned.pt", normalization="0.3,0.3,0.3/0.3,0.3,0.3", image_shape=(8, 8, 3)
        ).network.mean
        == (0.3,) * 3
    )
    assert (out / "report.html").is_file()
    assert cleaned.result.method == "clp"


def test_settings_go_over_the_defaults(model, digits):
    settings = rnp_jax.ClpConfig(rnp_jax.ThresholdConfig("number", number=2))
    cleaned = rnp_jax.defend(model, digits["train"].subset(np.arange(40)), method="clp", settings=settings)
    assert cleaned.result.choice.pruned == 4
    assert cleaned.result.config["clp"]["threshold"]["number"] == 2


def test_an_untrusted_set_needs_test_images(model, digits):
    with pytest.raises(rnp_jax.ConfigError, match="method hid trains on an untrusted set: give test images as test"):
        rnp_jax.defend(model, digits["train"], method="hid")


def test_what_cannot_be_is_said(model, digits):
    few = digits["train"].subset(np.arange(40))
    with pytest.raises(rnp_jax.ConfigError, match="--method rnpp: there is no such method"):
        rnp_jax.defend(model, few, method="rnpp")
    with pytest.raises(rnp_jax.ConfigError, match="no images are held out to measure on: give test images as test"):
        rnp_jax.defend(model, few, method="clp", defense=DefenseSetOptions(holdout=0.0))
    with pytest.raises(rnp_jax.DataError):
        rnp_jax.evaluate(model, rnp_jax.load_data("digits", split="test", image_size=16))


def test_normalisations_have_names(small_victim):
    named = rnp_jax.load_model(small_victim, normalization="digits")
    assert (named.network.mean, named.network.std) == (
        rnp_jax.NORMALIZATIONS["digits"].for_channels(3).mean,
        rnp_jax.NORMALIZATIONS["digits"].for_channels(3).std,
    )
    with pytest.raises(rnp_jax.DataError, match="unknown normalisation"):
        rnp_jax.load_model(small_victim, normalization="nothing")

"""What is asked of a checkpoint, and what can be said of it before the work."""

import re
from dataclasses import replace

import pytest

from rnp_jax.checkpoints import load_model
from rnp_jax.commands.defend import DefendOptions
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions, resolve
from rnp_jax.data import Augmentation
from rnp_jax.defenses import (
    METHODS,
    AnpConfig,
    ClpConfig,
    FtConfig,
    HolderPruneConfig,
    NadConfig,
    PruneConfig,
    RnpConfig,
    ThresholdConfig,
)
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.options import RunOptions, UntrustedOptions, schema_for
from rnp_jax.pipeline.request import Request, check_filters, check_request
from tests.runs import CHECKPOINT


def ask(name: str, settings=None, **options) -> Request:
    method = METHODS[name]
    return Request(
        "a.pt", method, method.defaults if settings is None else settings, RunOptions(method=name, **options)
    )


def test_a_request_has_the_settings_of_its_method():
    given = ClpConfig(ThresholdConfig("number", number=3))
    options = schema_for(RunOptions, ["clp", "rnp"])(method=("clp", "rnp"), clp=given)  # pyright: ignore[reportCallIssue]
    assert Request.of("a.pt", METHODS["clp"], options) == Request("a.pt", METHODS["clp"], given, options)
    assert Request.of("a.pt", METHODS["rnp"], options).settings == METHODS["rnp"].defaults
    assert Request.of("a.pt", METHODS["none"], options).settings is None


@pytest.mark.parametrize("name", METHODS)
def test_in_plain_words_it_is_a_preset_of_all_that_is_read_and_of_nothing_else(name):
    request = ask(name, seed=3, images=DataOptions(data="digits"), out="folder")
    plain, schema = request.plain(), schema_for(DefendOptions, [name])
    options = resolve(schema, plain)
    assert Request.of(options.checkpoint, METHODS[name], options).plain() == plain
    assert (plain["checkpoint"], plain["method"], plain["images"]["data"]) == ("a.pt", name, "digits")
    assert "out" not in plain
    assert set(plain) & set(METHODS) == ({METHODS[name].group} if METHODS[name].group else set())
    assert plain.get("seed") == (None if name == "none" else 3)


def test_what_is_not_read_does_not_change_it():
    plain = ask("clp").plain()
    changed = {"augmentation": Augmentation(padding=1), "untrusted": UntrustedOptions(data="a"), "out": "b"}
    assert ask("clp", **changed).plain() == plain
    assert ask("clp", sweep_images=3).plain() != plain
    assert ask("hid", defense=DefenseSetOptions(size=3), sweep_images=3).plain() == ask("hid").plain()


def test_a_file_s_own_options_go_over_the_others():
    request = ask("clp", images=DataOptions(data="digits", test_images=30), source=SourceOptions(key="a"))
    own = {"data": "cifar10", "image_shape": [8, 8, 3], "attack": "badnets", "constants": {"size": "3"}, "path": "b"}
    found = request.with_overrides(own)
    assert found.options.images == DataOptions(data="cifar10", test_images=30)
    assert found.options.source == SourceOptions(key="a", image_shape=(8, 8, 3))
    assert found.options.trigger == TriggerOptions(attack="badnets", constants={"size": "3"})
    assert replace(found, options=request.options) == request
    assert request.with_overrides({}) == request


NUMBER = PruneConfig(number=3)


@pytest.mark.parametrize(
    ("name", "settings", "by_holdout"),
    [
        ("none", None, False),
        ("rnp", None, True),
        ("rnp", RnpConfig(prune=NUMBER), False),
        ("rnp", RnpConfig(prune=PruneConfig(ranking="release", threshold=0.3)), False),
        ("anp", None, True),
        ("anp", AnpConfig(prune=NUMBER), False),
        ("fp", None, True),
        ("holder", None, False),
        ("holder", HolderPruneConfig(threshold=ThresholdConfig("budget")), True),
        ("clp", ClpConfig(ThresholdConfig("budget")), True),
        ("clp", None, False),
        ("ft", None, False),
        ("ft", FtConfig(start="rnp"), True),
        ("ft", FtConfig(start="rnp", rnp=RnpConfig(prune=NUMBER)), False),
        ("nad", NadConfig(teacher="pruned"), True),
        ("ibau", None, False),
        ("ft_sam", None, False),
        ("hid", None, False),
    ],
)
def test_a_choice_by_images_needs_images(name, settings, by_holdout):
    check_request(ask(name, settings))
    without = ask(name, settings, defense=DefenseSetOptions(holdout=0))
    if not by_holdout:
        check_request(without)
        return
    with pytest.raises(
        ConfigError, match=f"--defense.holdout 0 leaves no held-out images, which --method {name} needs to choose"
    ):
        check_request(without)


@pytest.fixture(scope="module")
def model():
    return load_model(CHECKPOINT)


@pytest.mark.parametrize(
    ("name", "settings", "option"),
    [
        ("rnp", RnpConfig(prune=PruneConfig(number=601)), "--rnp.prune.number"),
        ("anp", AnpConfig(prune=PruneConfig(number=601)), "--anp.prune.number"),
        ("ft", FtConfig(start="rnp", rnp=RnpConfig(prune=PruneConfig(number=601))), "--ft.rnp.prune.number"),
        ("nad", NadConfig(teacher="pruned", rnp=RnpConfig(prune=PruneConfig(number=601))), "--nad.rnp.prune.number"),
    ],
)
def test_more_filters_than_there_are(model, name, settings, option):
    with pytest.raises(ConfigError, match=f"^{re.escape(option)} 601: resnet18 has 600 filters$"):
        check_filters(model, ask(name, settings))
    check_filters(model, ask(name))


@pytest.fixture(scope="module")
def without_filters():
    return open_model(str(CHECKPOINT), SourceOptions(), ComputeOptions(placement="unit"))


@pytest.mark.parametrize("name", ["holder", "clp", "anp", "fp", "rnp", "random", "oracle"])
def test_a_placement_without_filters(name, without_filters):
    with pytest.raises(ConfigError, match="--placement unit: resnet18 has no filters there; use bn_scale"):
        check_filters(without_filters, ask(name))


@pytest.mark.parametrize("name", ["none", "hid", "ft", "nad", "ft_sam", "ibau"])
def test_methods_that_need_no_filters(name, without_filters):
    check_filters(without_filters, ask(name))


def test_where_rnp_goes_before_tuning_there_must_be_filters(without_filters):
    with pytest.raises(ConfigError, match="--placement unit"):
        check_filters(without_filters, ask("ft", FtConfig(start="rnp")))

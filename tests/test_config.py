"""Options from YAML and back, and what is said of those that cannot be."""

import os
import re
from dataclasses import dataclass, field, fields
from typing import Annotated

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.commands.attack import AttackOptions
from rnp_jax.commands.defend import DefendOptions
from rnp_jax.config import (
    FLAT,
    UNREAD,
    ComputeOptions,
    DataOptions,
    DefenseSetOptions,
    SourceOptions,
    TriggerOptions,
    check_seed,
    read_yaml,
    resolve,
    to_plain,
    write_yaml,
)
from rnp_jax.defenses import PruneConfig, RecoverConfig, RnpConfig, UnlearnConfig
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.options import schema_for

RnpOptions, HidOptions = (schema_for(DefendOptions, [name]) for name in ("rnp", "hid"))
positive = st.floats(1e-6, 1e6)
texts = st.text(st.characters(exclude_characters="\x85", exclude_categories=["Cs"]))  # a line break to YAML 1.1
defenses = st.builds(
    RnpOptions,
    checkpoint=texts,
    images=st.builds(DataOptions, data=st.none() | texts, test_images=st.none() | st.integers(1)),
    defense=st.builds(
        DefenseSetOptions,
        size=st.integers(1),
        holdout=st.floats(0, 1),
        stratified=st.booleans(),
        seed=st.integers(0, 9),
    ),
    trigger=st.builds(TriggerOptions, attack=texts, constants=st.dictionaries(texts, texts)),
    rnp=st.builds(
        RnpConfig,
        unlearn=st.builds(UnlearnConfig, learning_rate=positive, milestones=st.tuples(st.integers(0), st.integers(0))),
        recover=st.builds(RecoverConfig, alpha=positive, shuffle=st.booleans()),
        prune=st.builds(PruneConfig, ranking=st.just("release"), threshold=st.none() | st.floats(0, 1)),
    ),
    seed=st.integers(0, 2**32 - 1),
)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(defenses)
def test_options_survive_yaml(options):
    text = yaml.safe_dump(to_plain(options), allow_unicode=True)
    assert resolve(RnpOptions, yaml.safe_load(text)) == options


def test_written_options_are_read_back(tmp_path):
    options = RnpOptions("modèle.pt", trigger=TriggerOptions("blend", constants={"alpha": "0.1"}))
    write_yaml(tmp_path / "new" / "config.yaml", options)
    assert resolve(RnpOptions, read_yaml(tmp_path / "new" / "config.yaml")) == options
    assert "modèle.pt" in (tmp_path / "new" / "config.yaml").read_text("utf-8")


def test_what_is_not_given_keeps_its_default():
    given_values = {"checkpoint": "a.pt", "rnp": {"recover": {"epochs": 3}}}
    options = resolve(RnpOptions, given_values)
    assert options.rnp.recover == RecoverConfig(epochs=3)
    assert options.rnp.unlearn == UnlearnConfig()
    assert options.images == DataOptions()


def test_constants_may_be_numbers_in_a_preset():
    values = yaml.safe_load("{checkpoint: a.pt, trigger: {attack: badnets, constants: {size: 6, margin: null}}}")
    assert resolve(DefendOptions, values).trigger.constants == {"size": "6", "margin": "None"}


def test_what_nothing_reads_is_neither_written_nor_known():
    plain = to_plain(HidOptions("a.pt", method="hid"))
    unread = {each.name for each in fields(HidOptions) if each.metadata.get(UNREAD)}
    assert unread == {"defense", "evidence", "sweep_images"}
    assert set(plain) == {each.name for each in fields(HidOptions)} - unread
    for name in (*unread, "rnp", "_"):
        with pytest.raises(ConfigError, match=f"unknown option {name}; (did you mean|known here: method, out)"):
            resolve(HidOptions, {**plain, name: {}})
    assert to_plain({"a": HidOptions("a.pt", method="hid"), "b": (1, None)}) == {"a": plain, "b": [1, None]}


@dataclass(frozen=True)
class Inner:
    learning_rate: float = 0.1


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    flat: Annotated[Inner, FLAT] = field(default_factory=Inner)
    sizes: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iner": {}}, "preset.yaml: unknown option iner; did you mean inner?"),
        ({"inner": {"learning_rat": 1}}, "unknown option inner.learning_rat; did you mean inner.learning_rate?"),
        ({"flat": {"learning_rat": 1}}, "unknown option flat.learning_rat; did you mean flat.learning_rate?"),
        ({"zzz": 1}, "unknown option zzz; known here: inner, flat, sizes"),
        ({3: 1}, "unknown option 3;"),
        ({"inner": 3}, "inner: .* (given 3)"),
        ({"sizes": [1, "x"]}, "sizes.1: .* (given 'x')"),
        ({"inner": {"learning_rate": None}}, "inner.learning_rate: .* (given None)"),
    ],
)
def test_options_that_are_none(values, message):
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(ConfigError, match=pattern):
        resolve(Outer, values, "preset.yaml")


@pytest.mark.parametrize(
    ("schema", "values", "message"),
    [
        (DefenseSetOptions, {"size": 0}, "defense.size is 0, expected an integer of at least 1"),
        (DefenseSetOptions, {"holdout": 1.5}, "defense.holdout is 1.5, expected a number between 0 and 1"),
        (DefenseSetOptions, {"holdout": -0.1}, "defense.holdout is -0.1"),
        (DefenseSetOptions, {"seed": -1}, "defense.seed is -1"),
        (DataOptions, {"test_images": 0}, "test_images is 0"),
        (SourceOptions, {"image_shape": (-1, -1, 3)}, "image_shape is .-1, -1, 3., expected"),
        (SourceOptions, {"image_shape": (10**6, 32, 3)}, "image_shape is .* sides up to 4096"),
        (ComputeOptions, {"batch_size": 0}, "batch_size is 0"),
        (DefendOptions, {"checkpoint": "a", "sweep_images": -1}, "sweep_images is -1"),
        (RnpOptions, {"checkpoint": "a", "rnp": {"prune": {"accuracy_budget": 2}}}, "expected accuracy_budget and"),
        (AttackOptions, {"attack": "a", "out": "b", "seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_impossible_values(schema, values, message):
    with pytest.raises(ConfigError, match=f"preset: .*{message}"):
        resolve(schema, values, "preset")


def test_seeds():
    check_seed("seed", 0)
    check_seed("seed", 2**32 - 1)
    for wrong in (-1, 2**32, 0.5, True):
        with pytest.raises(ConfigError, match="seed is "):
            check_seed("seed", wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "expected a mapping of options, found list"),
        (b"", "expected a mapping of options, found NoneType"),
        (b"a: [1,", "not a readable YAML file"),
        (b"\xff\xfe\xfd", "not a readable YAML file"),
        (b"!!python/object/apply:os.system ['touch pwned']", "not a readable YAML file"),
        (None, "cannot be read: No such file or directory; --config takes the path of a YAML file"),
    ],
)
def test_files_that_are_no_presets(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "preset.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml("preset.yaml")
    assert not (tmp_path / "pwned").exists()


def test_only_a_small_regular_file_is_a_preset(tmp_path):
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "large.yaml").write_bytes(b"a: " + b"x" * 2**18)
    (tmp_path / "odd.yaml").write_text("a: 0x_")
    for name, message in (
        ("fifo.yaml", "cannot be read: a FIFO, not a regular file"),
        ("large.yaml", "cannot be read: 262147 bytes or more, expected at most 262144"),
        ("odd.yaml", "not a readable YAML file: invalid literal"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_yaml(tmp_path / name)

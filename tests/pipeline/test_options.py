"""The options that methods share, and the schemas that are made for a choice of methods."""

from dataclasses import dataclass, fields, replace

import pytest

from rnp_jax.commands.defend import DefendOptions
from rnp_jax.config import UNREAD, DefenseSetOptions, resolve, to_plain, write_yaml
from rnp_jax.data import Augmentation
from rnp_jax.defenses import METHODS, ClpConfig, RnpConfig, ThresholdConfig
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.options import (
    RunOptions,
    UntrustedOptions,
    is_read,
    names_in,
    read_options,
    readers_of,
    schema_for,
)
from rnp_jax.sweep.options import SweepOptions

SHARED = {each.name for each in fields(RunOptions)}
UNREAD_BY = {
    "none": {"defense", "untrusted", "augmentation", "evidence", "sweep_images", "seed"},
    "holder": {"untrusted", "augmentation"},
    "hid": {"defense", "evidence", "sweep_images"},
    "clp": {"untrusted", "augmentation"},
    "anp": {"untrusted"},
    "fp": {"untrusted"},
    "ft": {"untrusted"},
    "nad": {"untrusted"},
    "ft_sam": {"untrusted", "sweep_images"},
    "ibau": {"untrusted", "augmentation", "sweep_images"},
    "nc": {"untrusted", "sweep_images"},
    "fst": {"untrusted", "sweep_images"},
    "nft": {"untrusted", "sweep_images"},
    "ulrl": {"untrusted", "sweep_images"},
    "tsbd": {"untrusted", "sweep_images"},
    "sau": {"untrusted", "augmentation", "sweep_images"},
    "fmp": {"untrusted", "sweep_images"},
    "mcr": {"untrusted", "sweep_images"},
    "npd": {"untrusted", "augmentation", "sweep_images"},
    "pam": {"untrusted", "sweep_images"},
    "unit": {"untrusted", "sweep_images"},
    "rnp": {"untrusted"},
    "random": {"untrusted", "augmentation"},
    "oracle": {"untrusted", "augmentation"},
}


def unread(schema) -> set[str]:
    return {each.name for each in fields(schema) if each.metadata.get(UNREAD)}


@pytest.mark.parametrize("name", UNREAD_BY)
def test_a_method_s_schema_has_its_settings_and_what_it_reads(name):
    method = METHODS[name]
    schema = schema_for(DefendOptions, [name])
    assert unread(schema) == {each for each in SHARED if not is_read(each, method)} == UNREAD_BY[name]
    added = {each.name for each in fields(schema)} - {each.name for each in fields(DefendOptions)}
    assert added == ({method.group} if method.group else set())
    options = schema("a.pt", method=name)
    assert options.settings(method) == method.defaults
    assert set(to_plain(options)) == (SHARED | {"checkpoint", "require"} | added) - UNREAD_BY[name]
    assert issubclass(schema, DefendOptions)
    assert schema.__doc__ == DefendOptions.__doc__


def test_what_one_of_several_methods_reads_is_there():
    schema = schema_for(SweepOptions, ["none", "hid", "oracle", "random", "clp", "hid"])
    assert unread(schema) == set()
    added = [each.name for each in fields(schema) if each.name in METHODS]
    assert sorted(added) == ["clp", "hid", "holder"]
    assert unread(schema_for(SweepOptions, ["none", "clp"])) == {"untrusted", "augmentation"}
    assert schema_for(SweepOptions, ["clp", "rnp"]) is schema_for(SweepOptions, ("clp", "rnp", "clp"))


def test_a_schema_of_no_method():
    with pytest.raises(ConfigError, match="--method clpp: there is no such method; choose among none, holder, hid"):
        schema_for(DefendOptions, ["rnp", "clpp"])


def test_settings_are_the_given_ones_or_the_defaults():
    clp, rnp = METHODS["clp"], METHODS["rnp"]
    given = ClpConfig(ThresholdConfig("number", number=3))
    options = schema_for(SweepOptions, ["clp", "none"])(method=("clp", "none"), clp=given)  # pyright: ignore[reportCallIssue]
    assert options.settings(clp) == given
    assert options.settings(rnp) == rnp.defaults != RnpConfig()
    assert options.settings(METHODS["none"]) is None


def test_who_reads_an_option():
    assert readers_of("holder") == ("holder", "random", "oracle")
    assert readers_of("untrusted") == ("hid", "abl", "cbd", "dbr", "ep", "dst", "dbd")
    for option in ("augmentation", "defense", "sweep_images", "seed"):
        readers = [name for name, missing in UNREAD_BY.items() if option not in missing]
        assert [name for name in readers_of(option) if name in UNREAD_BY] == readers
    assert readers_of("images") == readers_of("zzz") == ()


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("clp", ("clp",)),
        (["clp", "rnp"], ("clp", "rnp")),
        ((), ()),
        (3, ("3",)),
        (None, ("None",)),
        ({"a": 1}, ("{'a': 1}",)),
    ],
)
def test_one_method_or_several(value, names):
    assert names_in(value) == names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "clpp"}, "--method clpp: there is no such method; choose among none, "),
        ({"method": ()}, "--method: no method is given; choose among none, "),
        ({"method": ("clp", "rnp", "clp")}, "--method clp rnp clp: a method is named twice; name each once"),
        ({"sweep_images": -1}, "sweep_images is -1, expected an integer of at least 0"),
        ({"sweep_images": 1.5}, "sweep_images is 1.5"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_impossible_options(given, message):
    with pytest.raises(ConfigError) as error:
        RunOptions(**given)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("width", [0, -1, 1.5, True])
def test_impossible_widths(width):
    with pytest.raises(ConfigError, match=f"untrusted.width is {width}, expected an integer of at least 1"):
        UntrustedOptions(width=width)


def test_a_network_to_start_from_has_its_own_width():
    with pytest.raises(ConfigError, match=r"untrusted\.width 4 cannot be combined with untrusted\.start: that"):
        UntrustedOptions(start="a.pt", width=4)
    assert UntrustedOptions(start="a.pt").width is None


def test_what_a_run_wrote_is_read_back_for_its_methods(tmp_path):
    schema = schema_for(SweepOptions, ["clp", "none"])
    options = schema(("a.pt",), method=("clp", "none"), defense=DefenseSetOptions(size=7))
    write_yaml(tmp_path / "config.yaml", options)
    assert "augmentation" not in (tmp_path / "config.yaml").read_text()
    assert read_options(SweepOptions, tmp_path / "config.yaml") == options


@dataclass(frozen=True)
class OtherOptions(RunOptions):
    """Of another command."""

    size: int = 3


def test_what_another_command_wrote_is_refused(tmp_path):
    write_yaml(tmp_path / "config.yaml", schema_for(OtherOptions, ["clp"])(method="clp"))
    with pytest.raises(ConfigError, match=r"config\.yaml: unknown option size; "):
        read_options(SweepOptions, tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("inputs: [a.pt]\nmethod: [clpp]\n")
    with pytest.raises(ConfigError, match="--method clpp"):
        read_options(SweepOptions, tmp_path / "config.yaml")


def test_an_option_that_nothing_reads_cannot_be_resolved():
    schema = schema_for(DefendOptions, ["clp"])
    plain = to_plain(schema("a.pt", method="clp"))
    assert resolve(schema, plain) == schema("a.pt", method="clp")
    with pytest.raises(ConfigError, match="unknown option augmentation; "):
        resolve(schema, {**plain, "augmentation": {"padding": 1}})
    assert to_plain(replace(schema("a.pt", method="clp"), augmentation=Augmentation(padding=1))) == plain

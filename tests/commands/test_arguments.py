"""A command line as a function and its options; what a person sees of it is tested with ``rnp_jax.cli``."""

import pytest

from rnp_jax.commands.arguments import parse, schema_default
from rnp_jax.commands.defend import DefendOptions
from rnp_jax.config import to_plain
from rnp_jax.defenses import METHODS
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.options import schema_for


def preset(folder, text: str) -> list[str]:
    (folder / "preset.yaml").write_text(text)
    return ["--config", str(folder / "preset.yaml")]


@pytest.mark.parametrize("given", [["--method", "clp"], ["--method=clp"]])
def test_the_command_line_s_method_goes_over_the_preset_s(given, tmp_path):
    options = parse("defend", ["a.pt", *preset(tmp_path, "method: rnp\nrnp: {prune: {number: 3}}\nseed: 4"), *given])[1]
    assert (options.method, options.seed) == ("clp", 4)
    assert options.settings(METHODS["clp"]) == METHODS["clp"].defaults
    assert not hasattr(options, "rnp")


def test_of_a_method_that_is_given_twice_the_last_counts_for_its_settings_too():
    options = parse("defend", ["a.pt", "--method", "rnp", "--method=clp", "--clp.threshold.u", "2"])[1]
    assert (options.method, options.clp.threshold.u, hasattr(options, "rnp")) == ("clp", 2, False)
    options = parse("sweep", ["a.pt", "--method", "rnp", "--method", "clp", "none"])[1]
    assert (options.method, hasattr(options, "clp"), hasattr(options, "rnp")) == (("clp", "none"), True, False)


def test_one_method_of_a_preset_is_several_where_several_are_allowed(tmp_path):
    assert parse("sweep", ["a.pt", *preset(tmp_path, "method: clp")])[1].method == ("clp",)


def test_several_methods_of_a_preset_are_one_too_many_for_defend(tmp_path):
    with pytest.raises(ConfigError, match="the preset names the methods clp rnp: choose one of them with --method"):
        parse("defend", ["a.pt", *preset(tmp_path, "method: [clp, rnp]")])


def test_options_of_other_commands_in_a_preset_are_left_out_and_unknown_ones_refused(tmp_path):
    options = parse("defend", ["a.pt", *preset(tmp_path, "engine: ray\nseed: 2")])[1]
    assert options.seed == 2
    assert "engine" not in to_plain(options)
    with pytest.raises(ConfigError, match="unknown option sede; did you mean seed"):
        parse("defend", ["a.pt", *preset(tmp_path, "sede: 2")])


def test_what_a_preset_leaves_open_must_come_from_the_command_line(tmp_path):
    default = schema_default(schema_for(DefendOptions, ["clp"]), {"seed": 3, "method": "clp"}, "preset.yaml")
    assert default.seed == 3
    assert not isinstance(default.checkpoint, str)

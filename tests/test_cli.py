"""Dispatch, presets under the command line, help, exit statuses."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import tyro

from rnp_jax.cli import COMMANDS, COMPILE_NOTHING, main, parse, usage
from rnp_jax.commands.convert import ConvertOptions
from rnp_jax.commands.defend import DefendOptions
from rnp_jax.config import DataOptions
from rnp_jax.defenses import RecoverConfig, UnlearnConfig
from rnp_jax.errors import ConfigError


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_the_overview_names_every_command(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown == usage()
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_without_arguments_the_overview_and_status_2(capsys):
    assert main([]) == 2
    assert capsys.readouterr().out == usage()


def leaves_of(schema) -> Iterator[str]:
    """The names of the options that are neither groups nor positional."""
    for name, kind in get_type_hints(schema, include_extras=True).items():
        bare, *annotations = get_args(kind) if get_origin(kind) is Annotated else (kind,)
        if is_dataclass(bare):
            yield from leaves_of(bare)
        elif tyro.conf.Positional not in [kind, *annotations]:
            yield name


@pytest.mark.parametrize(
    ("given", "constants"),
    [
        ([], {"alpha": "0.1", "size": "3"}),
        (["--constants", "alpha", "0.5", "seed", "1"], {"alpha": "0.5", "size": "3", "seed": "1"}),
    ],
)
def test_constants_go_over_a_preset_s_one_by_one(given, constants, tmp_path):
    (tmp_path / "preset.yaml").write_text("trigger: {constants: {alpha: 0.1, size: 3}}")
    options = parse("defend", ["a.pt", "--out", "o", "--config", str(tmp_path / "preset.yaml"), *given])[1]
    assert options.trigger.constants == constants


def test_a_constant_without_a_value(capsys):
    with pytest.raises(SystemExit):
        parse("attack", ["cl", "--out", "o.pt", "--constants", "epsilon"])
    assert "expected pairs of NAME and VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option_and_the_preset(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as status:
        main([name, "--help"])
    assert status.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: rnp-jax {name} ")
    assert "--config FILE.yaml takes a preset" in shown
    assert "Attributes:" not in shown
    module = importlib.import_module(f"rnp_jax.commands.{name}")
    leaves = list(leaves_of(getattr(module, COMMANDS[name][0])))
    assert len(leaves) >= (1 if name == "cache" else 5)
    for leaf in leaves:
        assert re.search(rf"--([a-z-]+\.)*(no-)?{leaf.replace('_', '-')}\b", shown), leaf


@pytest.mark.parametrize(
    ("name", "hint"),
    [("defnd", "did you mean defend?"), ("zzz", f"commands: {', '.join(COMMANDS)}")],
)
def test_unknown_commands(name, hint, capsys):
    assert main([name]) == 1
    assert capsys.readouterr().err == f"rnp-jax: ConfigError: unknown command '{name}'; {hint}\n"


def test_unknown_options_are_status_2_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as status:
        main(["evaluate", "a.pt", "--data-di", "x"])
    assert status.value.code == 2
    assert "--data-dir" in capsys.readouterr().err


def test_options_by_name():
    run, options = parse(
        "defend", ["a.pt", "--data", "digits", "--rnp.recover.epochs", "3", "--constants", "size", "6", "margin", "1"]
    )
    assert run.__module__ == "rnp_jax.commands.defend"
    assert (options.checkpoint, options.images, options.rnp.recover.epochs) == ("a.pt", DataOptions(data="digits"), 3)
    assert options.trigger.constants == {"size": "6", "margin": "1"}
    assert options.rnp.unlearn == UnlearnConfig(batch_size=100)
    assert parse("defend", ["a.pt"])[1] == DefendOptions("a.pt")
    assert parse("convert", ["a.pt", "b"])[1] == ConvertOptions("a.pt", "b")


@pytest.mark.parametrize("spell", [lambda path: ["--config", path], lambda path: [f"--config={path}"]])
def test_the_command_line_goes_over_the_preset_and_the_preset_over_the_defaults(spell, tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("seed: 5\nrnp: {recover: {epochs: 3, alpha: 0.5}}\n")
    options = parse("defend", ["a.pt", *spell(str(preset)), "--rnp.recover.alpha", "0.7"])[1]
    assert (options.checkpoint, options.seed) == ("a.pt", 5)
    assert options.rnp.recover == RecoverConfig(epochs=3, alpha=0.7, batch_size=128)
    assert options.sweep_images == 2000


def test_a_required_option_may_come_from_the_preset_or_not_at_all(tmp_path, capsys):
    preset = tmp_path / "preset.yaml"
    preset.write_text("checkpoint: a.pt\n")
    assert parse("evaluate", ["--config", str(preset)])[1].checkpoint == "a.pt"
    preset.write_text("out: figures.json\n")
    with pytest.raises(SystemExit) as status:
        parse("evaluate", ["--config", str(preset)])
    assert status.value.code == 2
    assert "required" in capsys.readouterr().err.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config"], "--config: give the path of a YAML file"),
        (["--config", "{}/none.yaml"], "none.yaml cannot be read"),
        (["--config", "{}/odd.yaml"], "unknown option images.dta; did you mean images.data?"),
    ],
)
def test_presets_that_cannot_be_used(arguments, message, tmp_path):
    (tmp_path / "odd.yaml").write_text("images: {dta: digits}\n")
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        parse("defend", [each.format(tmp_path) for each in arguments])


@pytest.fixture
def refused_cache(tmp_path, monkeypatch):
    """A cache folder that no command may use."""
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setenv("RNP_JAX_CACHE_DIR", str(tmp_path / "link"))
    monkeypatch.setenv("RNP_JAX_CACHE", "on")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in COMPILE_NOTHING])
def test_commands_that_compile_open_the_cache_of_compiled_programs(name, refused_cache, capsys):
    assert main([name, "none.pt", "--out", "none"]) == 1
    assert "is a link" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["inspect", "none.pt"], ["evaluate", "none.pt", "--no-cache"], ["--no-cache", "evaluate", "none.pt"]]
)
def test_without_the_cache(arguments, refused_cache, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "none.pt" in error
    assert "is a link" not in error


def test_a_name_that_would_steer_the_terminal_is_spelled_out(capsys):
    assert main(["evaluate", "a\x1b[2Jb.pt"]) == 1
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "b.pt" in error


def test_what_the_system_refuses_is_one_line(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("rnp-jax: ")
    assert error.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import sys; from rnp_jax.cli import main; sys.exit(main(['--help']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(120) == 1
        assert process.stderr.read() == b""

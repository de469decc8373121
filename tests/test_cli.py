"""Dispatch, presets under the command line, help, exit statuses."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import tyro

from rnp_jax.cli import main, usage
from rnp_jax.commands.arguments import parse
from rnp_jax.commands.convert import ConvertOptions
from rnp_jax.commands.defend import DefendOptions
from rnp_jax.commands.table import COMMANDS, COMPILE_NOTHING
from rnp_jax.config import UNREAD, DataOptions, to_plain
from rnp_jax.defenses import METHODS, RecoverConfig, UnlearnConfig
from rnp_jax.errors import ConfigError, Interrupted
from rnp_jax.pipeline.options import RunOptions, names_in, schema_for
from rnp_jax.report.schema import read_result
from tests.runs import ROOT

DIGITS = str(ROOT / "configs" / "rnp_digits.yaml")
RUN = tuple(
    name
    for name, (kind, _) in COMMANDS.items()
    if issubclass(getattr(importlib.import_module(f"rnp_jax.commands.{name}"), kind), RunOptions)
)
"""The commands that run methods."""


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
    """The names of the options that can be given, groups' and positional ones aside."""
    hints = get_type_hints(schema, include_extras=True)
    for name in (each.name for each in fields(schema) if not each.metadata.get(UNREAD)):
        bare, *annotations = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        if is_dataclass(bare):
            yield from leaves_of(bare)
        elif tyro.conf.Positional not in [hints[name], *annotations]:
            yield name


def schema_of(name: str, *methods: str):
    """A command's options, as they are made for the methods or for those it has by default."""
    schema = getattr(importlib.import_module(f"rnp_jax.commands.{name}"), COMMANDS[name][0])
    if name not in RUN:
        return schema
    (default,) = (each.default for each in fields(schema) if each.name == "method")
    return schema_for(schema, methods or names_in(default))


def help_of(capsys, name: str, *arguments: str) -> str:
    assert main([name, *arguments, "--help"]) == 0
    return capsys.readouterr().out


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


def assert_lists(shown: str, schema, least: int) -> None:
    leaves = list(leaves_of(schema))
    assert len(leaves) >= least
    for leaf in leaves:
        assert re.search(rf"--([a-z0-9_-]+\.)*(no-)?{leaf.replace('_', '-')}\b", shown), leaf


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option_and_the_preset(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = help_of(capsys, name)
    assert shown.startswith(f"usage: rnp-jax {name} ")
    assert "--config FILE.yaml takes a preset" in shown
    assert "Attributes:" not in shown
    assert_lists(shown, schema_of(name), 1 if name == "cache" else 5)


def options_in(shown: str) -> set[str]:
    """The options that a page of help lists, switches once."""
    return {option.replace("--no-", "--").replace(".no-", ".") for option in re.findall(r"--[a-z][\w.-]*", shown)}


def groups_in(shown: str) -> set[str]:
    return {option.removeprefix("--").partition(".")[0] for option in options_in(shown) if "." in option}


@pytest.mark.parametrize("method", METHODS)
def test_help_of_a_method_lists_its_options_and_no_other_s(method, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = help_of(capsys, "defend", "--method", method)
    assert_lists(shown, schema_of("defend", method), 15)
    assert f"--method takes {', '.join(METHODS)}." in " ".join(shown.split())
    own = METHODS[method].group
    listed = {group.replace("-", "_") for group in groups_in(shown)}
    assert listed & set(METHODS) == ({own} if own else set())
    assert ("untrusted" in listed) == (METHODS[method].needs == "untrusted")


def test_help_of_a_small_method_is_short(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = options_in(help_of(capsys, "defend", "--method", "clp"))
    assert 20 < len(shown) < 45
    assert "--clp.threshold.u" in shown
    assert not [option for option in shown if option.startswith(("--augmentation", "--untrusted", "--rnp"))]


def test_help_of_several_methods_has_each_one_s_options(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = help_of(capsys, "sweep", "--method", "clp", "hid", "random")
    assert groups_in(shown) == {"clp", "hid", "holder", "defense", "untrusted", "augmentation"}


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


def name_those(that) -> str:
    return ", ".join(name for name, method in METHODS.items() if that(method))


AUGMENTING = name_those(lambda method: method.augments)
CHANGING = name_those(lambda method: method.changes != "nothing" and method.needs != "untrusted")
UNTRUSTED = name_those(lambda method: method.needs == "untrusted")
PRUNING = name_those(lambda method: method.changes in ("filters", "both") and not method.anew)


@pytest.mark.parametrize(
    ("arguments", "option", "readers"),
    [
        (("defend", "--method", "clp", "--augmentation.padding", "0"), "--augmentation.padding", AUGMENTING),
        (("defend", "--method", "clp", "--rnp.prune.number", "3"), "--rnp.prune.number", "rnp"),
        (("defend", "--method", "ibau", "--augmentation.no-flip"), "--augmentation.no-flip", AUGMENTING),
        (("defend", "--method", "hid", "--defense.size", "3"), "--defense.size", CHANGING),
        (("defend", "--method", "hid", "--sweep-images", "3"), "--sweep-images", PRUNING),
        (("defend", "--method", "hid", "--rnp.recover.epochs", "3"), "--rnp.recover.epochs", "rnp"),
        (("defend", "--method=clp", "--hid.units", "4"), "--hid.units", "hid"),
        (("defend", "--untrusted.width", "4"), "--untrusted.width", UNTRUSTED),
        (
            (
                "defend",
                "--clp.threshold.u=2",
            ),
            "--clp.threshold.u",
            "clp",
        ),
        (("defend", "--ft-sam.epochs", "4"), "--ft-sam.epochs", "ft_sam"),
        (("sweep", "--method", "none", "--clp.threshold.u", "5"), "--clp.threshold.u", "clp"),
        (("sweep", "--method", "none", "--defense.size", "5"), "--defense.size", CHANGING),
        (
            ("sweep", "--method", "none", "clp", "--holder.placement", "5"),
            "--holder.placement",
            "holder, random, oracle",
        ),
        (("compare", "--method", "none", "clp", "--anp.epochs", "5"), "--anp.epochs", "anp"),
    ],
)
def test_options_that_nothing_reads_are_unknown(arguments, option, readers, capsys):
    command, *rest = arguments
    with pytest.raises(SystemExit) as status:
        main([command, "a.pt", *rest])
    assert status.value.code == 2
    error = capsys.readouterr().err
    assert f"Unrecognized options: {option}" in error
    hints = [line for line in error.splitlines() if line.startswith("rnp-jax: ")]
    assert hints == [f"rnp-jax: {option} is an option of --method {readers}"]


def test_a_misspelled_option_is_unknown_with_the_nearest(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as status:
        main(["compare", "a.pt", "--methods", "clp"])
    assert status.value.code == 2
    assert re.search(
        r"Unrecognized options: --methods, clp.*Perhaps you meant.*--method ", capsys.readouterr().err, re.S
    )


@pytest.mark.parametrize("arguments", [["--method", "clpp"], ["--method=clpp"], ["--config", "{}"]])
@pytest.mark.parametrize("command", RUN)
def test_a_method_that_is_none_is_one_line_with_the_choices(command, arguments, tmp_path, capsys):
    (tmp_path / "preset.yaml").write_text("method: clpp\n")
    assert main([command, *(each.format(tmp_path / "preset.yaml") for each in arguments)]) == 1
    choices = ", ".join(METHODS)
    expected = f"rnp-jax: ConfigError: --method clpp: there is no such method; choose among {choices}\n"
    assert capsys.readouterr().err == expected


def test_options_by_name():
    given = ["--method", "rnp", "--rnp.recover.epochs", "3", "--constants", "size", "6", "margin", "1"]
    run, options = parse("defend", ["a.pt", "--data", "digits", *given])
    assert run.__module__ == "rnp_jax.commands.defend"
    assert (options.checkpoint, options.images, options.rnp.recover.epochs) == ("a.pt", DataOptions(data="digits"), 3)
    assert options.trigger.constants == {"size": "6", "margin": "1"}
    assert options.rnp.unlearn == UnlearnConfig(batch_size=100, stop_loss=2.0)
    plain, expected = to_plain(parse("defend", ["a.pt"])[1]), to_plain(DefendOptions("a.pt"))
    del expected["untrusted"]  # which auto does not read
    assert plain == {**expected, "auto": to_plain(METHODS["auto"].defaults)}
    assert parse("convert", ["a.pt", "b"])[1] == ConvertOptions("a.pt", "b")


@pytest.mark.parametrize("spell", [lambda path: ["--config", path], lambda path: [f"--config={path}"]])
def test_the_command_line_goes_over_the_preset_and_the_preset_over_the_defaults(spell, tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("method: rnp\nseed: 5\nrnp: {recover: {epochs: 3, alpha: 0.5}}\n")
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rnp: {passes: 2}", r"settings of rnp .* \(auto\) do not read them: give --method rnp, or --method auto to"),
        ("{nad: {epochs: 2}, rnp: {}}", r"settings of nad, rnp .* give --method nad or rnp, or --method auto"),
    ],
)
def test_settings_that_no_method_would_read_are_no_guess(text, message, tmp_path):
    (tmp_path / "preset.yaml").write_text(text)
    given = ["a.pt", "--config", str(tmp_path / "preset.yaml")]
    with pytest.raises(ConfigError, match=message):
        parse("defend", given)
    assert parse("defend", [*given, "--method", "auto"])[1].methods[0].name == "auto"
    assert parse("check", given)[1].methods[0].name == "auto"  # takes no other


def test_settings_of_a_method_that_runs_by_default_name_it(tmp_path):
    (tmp_path / "preset.yaml").write_text("{rnp: {passes: 2}, auto: {rounds: 3}}")
    assert parse("defend", ["a.pt", "--config", str(tmp_path / "preset.yaml")])[1].auto.rounds == 3


@pytest.mark.parametrize(
    ("name", "arguments", "methods"),
    [
        ("defend", ["--method", "clp"], ["clp"]),
        ("defend", ["--method", "hid"], ["hid"]),
        ("sweep", [], ["rnp"]),
        ("sweep", ["--method", "none", "clp"], ["none", "clp"]),
        ("compare", ["--method", "clp", "rnp"], ["clp", "rnp"]),
    ],
)
def test_a_preset_serves_other_methods_and_commands_as_far_as_they_have_its_options(name, arguments, methods):
    options = parse(name, ["a.pt", "--config", DIGITS, *arguments])[1]
    assert [method.name for method in options.methods] == methods
    assert options.images.data == "digits"
    assert hasattr(options, "rnp") == ("rnp" in methods)
    if "rnp" in methods:
        assert (options.rnp.unlearn.max_epochs, options.rnp.recover.epochs) == (60, 40)
    assert options.defense.size == (400 if methods != ["hid"] else 500)
    augmented = any(METHODS[method].augments for method in methods)
    assert options.augmentation.padding == (1 if augmented else 4)
    plain = to_plain(options)
    assert ("augmentation" in plain) == augmented
    assert ("defense" in plain) == (methods != ["hid"])


@pytest.mark.parametrize("arguments", [["defend"], ["defend", "--method", "clp"], ["compare"], ["sweep"], ["evaluate"]])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clpp: {threshold: {u: 2}}", "unknown option clpp; "),
        ("defence: {size: 3}", "unknown option defence; "),
        ("methods: [clp]", "unknown option methods; "),
        ("compute: {precison: tf32}", "unknown option compute.precison; did you mean compute.precision?"),
    ],
)
def test_a_name_that_nothing_knows_is_refused_in_every_preset(arguments, text, message, tmp_path):
    (tmp_path / "preset.yaml").write_text(text)
    name, *rest = arguments
    with pytest.raises(ConfigError, match=re.escape(f"preset.yaml: {message}")) as error:
        parse(name, ["a.pt", *rest, "--config", str(tmp_path / "preset.yaml")])
    assert "did you mean" in str(error.value) or "known here" in str(error.value)


def test_a_preset_of_several_methods_is_one_for_each_of_them(tmp_path):
    (tmp_path / "preset.yaml").write_text("method: [clp, rnp]\nclp: {threshold: {u: 2}}\nrnp: {recover: {epochs: 3}}\n")
    preset = ["a.pt", "--config", str(tmp_path / "preset.yaml")]
    with pytest.raises(ConfigError, match="the preset names the methods clp rnp: choose one of them with --method"):
        parse("defend", preset)
    chosen = parse("defend", [*preset, "--method", "clp"])[1]
    assert (chosen.method, chosen.clp.threshold.u, hasattr(chosen, "rnp")) == ("clp", 2, False)
    both = parse("sweep", preset)[1]
    assert (both.method, both.clp.threshold.u, both.rnp.recover.epochs) == (("clp", "rnp"), 2, 3)
    (tmp_path / "preset.yaml").write_text("method: [clp]\n")
    assert parse("defend", preset)[1].method == "clp"
    (tmp_path / "preset.yaml").write_text("method: clp\n")
    assert parse("compare", preset)[1].method == ("clp",)


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


def test_an_argument_that_would_steer_the_terminal_is_spelled_out(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", "a.pt", "--odd\x1b[2J.pt"])
    told = capsys.readouterr().err
    assert r"--odd\x1b[2J.pt" in told
    assert "\x1b" not in told


def test_what_the_system_refuses_is_one_line(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("rnp-jax: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("check none.pt", "none.pt: cannot be read: No such file or directory; check the path"),
        ("inspect note.pt", "b'hello, t', not a known container: expected what torch.save, torch.jit.save or safet"),
        ("check VICTIM --data empty", "--data empty: no class folders in it; expected CLASS/image.png"),
        ("check VICTIM --data nowhere", "--data nowhere: there is no data set, file or folder 'nowhere'"),
        ("evaluate VICTIM --normalization imagnet", "'imagnet'; did you mean imagenet? give --normalization one of"),
        ("evaluate VICTIM --normalization 0.4,0.5/0.2,0.2", "for 2 channels, but the images have 3: give --normal"),
        ("evaluate VICTIM --image-size 0", "--image-size is 0, expected an integer between 1 and 4096"),
        ("evaluate VICTIM --attack bednets", "--attack: attack 'bednets' is unknown; did you mean badnets?"),
        ("evaluate VICTIM --attack badnets --target 12", "--target is 12, expected an integer between 0 and 9"),
        ("check VICTIM --out /proc/none", "/proc/none: cannot be written: No such file or directory; choose anoth"),
        ("evaluate VICTIM --out /proc/a.json", "/proc/a.json: cannot be written: No such file or directory; choos"),
    ],
)
def test_an_error_says_the_value_what_was_expected_and_the_option(
    arguments, told, small_victim, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.pt").write_text("hello, this is a note")
    assert main(arguments.replace("VICTIM", str(small_victim)).split()) == 1
    assert told in capsys.readouterr().err.partition("rnp-jax: ")[2]


def test_what_is_measured_is_said_with_its_trigger(small_victim, capsys):
    assert main(["evaluate", str(small_victim), "--attack", "badnets", "--target", "3"]) == 0
    assert "trigger: badnets, all to one, target class 3" in capsys.readouterr().err


def test_a_result_that_does_not_support_what_was_required_is_status_3(small_victim, tmp_path, capsys):
    """CLP with no filter to prune leaves the trigger as it was."""
    nothing = ("--method", "clp", "--clp.threshold.rule", "number", "--clp.threshold.number", "0")
    small = ("--test-images", "100", "--batch-size", "20", "--sweep-images", "0", "--out", str(tmp_path / "out"))
    assert main(["defend", str(small_victim), *nothing, *small, "--require", "removed"]) == 3
    *_, line = capsys.readouterr().err.splitlines()
    expected = "rnp-jax: RequirementError: the result does not support that the backdoor is removed. "
    assert line.startswith(expected)
    assert {"cleaned.pt", "report.html", "result.json"} < set(os.listdir(tmp_path / "out"))
    assert not read_result(tmp_path / "out" / "result.json").verdict.supported


MAIN = "import sys; from rnp_jax.cli import main; sys.exit(main(sys.argv[1:]))"


def start(*arguments: str, shell: str = "", **variables: str) -> subprocess.CompletedProcess:
    """The command line in a process of its own, begun by a shell that redirects its streams."""
    line = f"{shlex.join([sys.executable, '-P', '-c', MAIN, *arguments])} {shell}"
    return subprocess.run(["bash", "-c", line], env={**os.environ, **variables}, capture_output=True, text=True)


@pytest.mark.parametrize("error", [ValueError("a\nb\x1b"), MemoryError(), RecursionError("deep"), UnicodeError("x")])
def test_what_nobody_foresaw_is_one_line_and_a_file(error, tmp_path, monkeypatch, capsys):
    def fail(name, arguments):
        raise error

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("rnp_jax.commands.arguments.parse", fail)
    assert main(["inspect", "a\x1b.pt"]) == 70
    (log,) = tmp_path.iterdir()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rnp-jax: unexpected {type(error).__name__}")
    assert line.endswith(f"please report it, with {log}")
    kept = log.read_text()
    assert "\x1b" not in line + kept
    assert kept.startswith("rnp-jax inspect a\\x1b.pt\ncode ")
    assert "Traceback (most recent call last):" in kept
    assert log.stat().st_mode & 0o077 == 0


def test_what_nobody_foresaw_is_said_where_no_file_can_be_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setattr("rnp_jax.commands.arguments.parse", lambda *_: 1 / 0)
    assert main(["inspect", "a.pt"]) == 70
    assert "unexpected ZeroDivisionError: division by zero; its traceback cannot be kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shell", "status", "told"),
    [(">&-", 0, ""), (">&- 2>&-", 0, ""), ("<&- >&-", 0, ""), (">/dev/full", 1, "rnp-jax: OSError: ")],
)
def test_standard_streams_that_are_closed_or_full(shell, status, told):
    done = start("--help", shell=shell)
    assert done.returncode == status
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == bool(told)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_name_that_no_encoding_holds_is_shown(encoding):
    done = start("cache", RNP_JAX_CACHE_DIR="/nowhere/猫\udcff", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    name = "猫" if encoding == "utf-8" else r"\u732b"
    assert done.stdout.startswith(f"folder    /nowhere/{name}\\udcff (off: ")


def test_too_few_open_files_are_one_line(tmp_path):
    (tmp_path / "limit.sh").write_text('ulimit -n 64; exec "$@"')
    command = ["bash", str(tmp_path / "limit.sh"), sys.executable, "-P", "-c", MAIN, "inspect", "a.pt"]
    done = subprocess.run(command, capture_output=True, text=True)
    told = "rnp-jax: OutsideError: this process may open 64 files, expected 128: run ulimit -n 4096\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
    done = start("inspect", str(tmp_path / "a.pt"), JAX_PLATFORMS="nosuch")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        r"rnp-jax: ConfigError: JAX_PLATFORMS is 'nosuch': .*; name cpu, cuda or tpu, or unset it", line
    )


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import sys; from rnp_jax.cli import main; sys.exit(main(['--help']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(120) == 1
        assert process.stderr.read() == b""


def test_help_that_was_shown_before_imports_nothing_that_computes(tmp_path):
    code = (
        "import sys\nfrom rnp_jax.cli import main\nstatus = main(sys.argv[1:])\n"
        "slow = {'jax', 'numpy', 'flax', 'tyro', 'pydantic', 'rich'} & {name.split('.')[0] for name in sys.modules}\n"
        "sys.stderr.write(' '.join(sorted(slow)))\nsys.exit(status)\n"
    )
    environment = {**os.environ, "RNP_JAX_CACHE": "on", "RNP_JAX_CACHE_DIR": str(tmp_path / "kept")}

    def show(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert show("--help").stderr == ""
    first, second = show("defend", "--method", "clp", "--help"), show("defend", "--method", "clp", "--help")
    assert "jax" in first.stderr.split()
    assert second.stderr == ""
    assert second.stdout == first.stdout
    assert "--clp.threshold.u" in first.stdout


def test_ctrl_c_is_one_line_that_says_how_to_go_on(monkeypatch, capsys):
    def stop(*_):
        raise Interrupted("out keeps unlearn; the same command goes on")

    monkeypatch.setattr("rnp_jax.commands.arguments.parse", stop)
    assert main(["defend", "a.pt", "--log-format", "json"]) == 130
    shown, error = capsys.readouterr()
    assert error == "rnp-jax: interrupted: out keeps unlearn; the same command goes on\n"
    line = json.loads(shown)
    assert (line["event"], line["kind"], line["status"]) == ("error", "Interrupted", 130)


def test_a_log_of_json_lines_holds_errors_too_and_nothing_else_is_on_standard_output(small_victim, tmp_path, capsys):
    out = str(tmp_path / "out.safetensors")
    command = ["convert", str(small_victim), out, "--log-format", "json"]
    assert main(command) == 0
    *_, result = map(json.loads, capsys.readouterr().out.splitlines())
    assert (result["event"], result["paths"]) == ("result", {"converted": out})
    assert main(command) == 1
    shown, error = capsys.readouterr()
    *_, failed = map(json.loads, shown.splitlines())
    assert (failed["event"], failed["kind"], failed["status"]) == ("error", "CheckpointError", 1)
    assert error == f"rnp-jax: {failed['text']}\n"
    assert main(["convert", str(small_victim), out, "--quiet"]) == 1
    assert capsys.readouterr().out == ""


def test_a_command_without_a_log_does_not_know_how_to_tell_one(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", "a.pt", "--quiet"])
    assert stopped.value.code == 2
    assert "--quiet" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "level"), [({}, "3"), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "0")])
def test_what_xla_logs_for_its_developers_is_kept_out_unless_it_is_asked_for(given, level):
    code = (
        "import os, sys\nfrom rnp_jax.cli import main\nmain(['cache'])\nimport jax\njax.devices()\n"
        "sys.stdout.write(os.environ['TF_CPP_MIN_LOG_LEVEL'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith(level)
    assert bool(re.search(r"(?m)^[IWEF]\d{4} ", done.stderr)) == bool(given), done.stderr

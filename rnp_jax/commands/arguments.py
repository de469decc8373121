"""A command line as a command's function and its options: presets under it, and the settings of the chosen methods."""

import contextlib
import importlib
import inspect
import io
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, replace
from difflib import get_close_matches
from itertools import takewhile
from typing import Any

import tyro

from rnp_jax.commands.table import COMMANDS, HAVE_NO_LOG, LISTINGS
from rnp_jax.config import UNREAD, over_preset, read_yaml, resolve
from rnp_jax.defenses import METHODS
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.options import RunOptions, names_in, readers_of, schema_for
from rnp_jax.untrusted_text import spell_hidden

_STYLE = (tyro.conf.PositionalMetavarFromFieldName,)
_HELP_STYLE = (*_STYLE, tyro.conf.DisallowNone)  # None can be given to most options, which need not say it one by one


def parse(name: str, arguments: list[str]) -> tuple[Any, Any]:
    """A command's function and its options.

    Raises:
      ConfigError: an unknown command, or a preset that does not fit it.
      SystemExit: unusable arguments, or help was asked for.
    """
    module, schema = _open_command(name)
    preset, rest = _take_preset(arguments)
    values = {} if preset is None else read_yaml(preset)
    if issubclass(schema, RunOptions):
        schema, values = _for_methods(schema, values, rest)
    values = _own(schema, values)
    default = None if preset is None else schema_default(schema, values, preset)
    prog, description = f"rnp-jax {name}", _describe(name, schema)
    style = _HELP_STYLE if {"-h", "--help"} & set(rest) else _STYLE
    try:
        with _spelled_out(rest):
            options = tyro.cli(schema, prog=prog, description=description, args=rest, default=default, config=style)
    except SystemExit as stopped:
        if stopped.code and issubclass(schema, RunOptions):
            sys.stderr.write(_tell_readers(schema, rest))
        raise
    return module.run, options if default is None else over_preset(default, options)


def find_schema(arguments: list[str]) -> Any:
    """The options that a command line may have: its command's, with those of its methods.

    Raises:
      ConfigError: as ``parse``.
    """
    name, *rest = arguments or [""]
    _, schema = _open_command(name)
    preset, rest = _take_preset(rest)
    values = {} if preset is None else read_yaml(preset)
    return _for_methods(schema, values, rest)[0] if issubclass(schema, RunOptions) else schema


def _open_command(name: str) -> tuple[Any, Any]:
    """A command's module and the class of its options."""
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command {name!r}; {hint}")
    module = importlib.import_module(f"rnp_jax.commands.{name}")
    return module, getattr(module, COMMANDS[name][0])


def _describe(name: str, schema: Any) -> str:
    """What a command's help says above the options, a line a paragraph."""
    about = (inspect.getdoc(schema) or "").partition("Attributes:")[0].strip()
    more = "--config FILE.yaml takes a preset; options given here override it (None undoes one whose default is None)."
    if issubclass(schema, RunOptions):
        methods = ", ".join(schema.list_methods())
        more += f" The settings shown are those of the chosen methods; --method takes {methods}."
    if name in LISTINGS:
        more += f" rnp-jax {name} --list shows the names to choose from."
    if name not in HAVE_NO_LOG:
        more += " --quiet shows only warnings and the outcome; --log-format json writes one JSON object a line instead."
    return "\n\n".join(" ".join(each.split()) for each in (*about.split("\n\n"), more))


def _for_methods(schema: type[RunOptions], values: dict[str, Any], arguments: list[str]) -> tuple[Any, dict[str, Any]]:
    """The schema of the methods that the command line names, or the preset, or that are the command's default."""
    default = next(each.default for each in fields(schema) if each.name == "method")
    one = isinstance(default, str)
    if named := _after(arguments, "--method"):
        rest = {key: value for key, value in values.items() if key != "method"}
        return schema_for(schema, named[:1] if one else named), rest
    names = names_in(values.get("method", default))
    if one and len(names) > 1:
        raise ConfigError(f"the preset names the methods {' '.join(names)}: choose one of them with --method")
    if "method" in values:
        values = {**values, "method": " ".join(names) if one else names}
    else:
        _expect_readers(schema, values, names)
    return schema_for(schema, names), values


def _expect_readers(schema: type[RunOptions], values: dict[str, Any], names: tuple[str, ...]) -> None:
    """The settings of a preset that names no method are read by one of those that run by default.

    Raises:
      ConfigError: there are such settings, and all of them are of other methods that the command takes.
    """
    groups = [each for each in values if each in METHODS and set(readers_of(each)) & set(schema.list_methods())]
    if groups and not any(set(readers_of(each)) & set(names) for each in groups):
        raise ConfigError(
            f"the preset has settings of {', '.join(groups)} but names no method, and those that run by default "
            f"({', '.join(names)}) do not read them: give --method {' or '.join(groups)}, or "
            f"--method {' '.join(names)} to go without these settings"
        )


@contextlib.contextmanager
def _spelled_out(arguments: list[str]) -> Iterator[None]:
    """Errors that repeat arguments, which the shell may have made of file names, without hidden characters."""
    if all(spell_hidden(argument) == argument for argument in arguments):
        yield
        return
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            yield
    finally:
        sys.stderr.write(spell_hidden(told.getvalue()))


def _after(arguments: list[str], option: str) -> list[str]:
    """The words that an option is given, where it stands last: that is the one that counts."""
    for i, argument in reversed([*enumerate(arguments)]):
        if argument.startswith(f"{option}="):
            return [argument.removeprefix(f"{option}=")]
        if argument == option:
            return list(takewhile(lambda word: not word.startswith("-"), arguments[i + 1 :]))
    return []


def _tell_readers(schema: Any, arguments: list[str]) -> str:
    """For each option that the chosen methods do not have, a line with those that have it."""
    own = {each.name for each in fields(schema) if not each.metadata.get(UNREAD)}
    lines = []
    for word in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
        name = word.removeprefix("--").partition(".")[0].replace("-", "_")
        if name not in own and (readers := readers_of(name)):
            lines.append(f"rnp-jax: {word} is an option of --method {', '.join(readers)}\n")
    return "".join(lines)


def _own(schema: Any, values: dict[str, Any]) -> dict[str, Any]:
    """A preset's values without those of other methods and commands, so that one preset serves several.

    A name that nothing knows stays, and is refused later.
    """
    own = {each.name for each in fields(schema) if not each.metadata.get(UNREAD)}
    foreign = set(METHODS) | {each.name for each in fields(schema)}
    if not set(values) <= foreign:
        modules = [(importlib.import_module(f"rnp_jax.commands.{each}"), kind) for each, (kind, _) in COMMANDS.items()]
        foreign |= {each.name for module, kind in modules for each in fields(getattr(module, kind))}
    return {key: value for key, value in values.items() if key in own or key not in foreign}


def _take_preset(arguments: list[str]) -> tuple[str | None, list[str]]:
    for i, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return argument.removeprefix("--config="), arguments[:i] + arguments[i + 1 :]
        if argument == "--config":
            if i + 1 == len(arguments):
                raise ConfigError("--config: give the path of a YAML file")
            return arguments[i + 1], arguments[:i] + arguments[i + 2 :]
    return None, arguments


def schema_default(schema: Any, values: dict[str, Any], preset: str) -> Any:
    """The options a preset gives; required ones that it leaves open must come from the command line."""
    open_ones = [f.name for f in fields(schema) if f.name not in values and not _has_default(f)]
    options = resolve(schema, {**dict.fromkeys(open_ones, ""), **values}, preset)
    return replace(options, **dict.fromkeys(open_ones, tyro.MISSING))


def _has_default(field: Field) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING

"""``rnp-jax``: dispatch to the commands, presets under the command line, errors as one line."""

import importlib
import inspect
import os
import sys
from dataclasses import MISSING, Field, fields, replace
from difflib import get_close_matches
from itertools import takewhile
from typing import Any

import tyro

from rnp_jax.compilation import enable_cache
from rnp_jax.config import UNREAD, over_preset, read_yaml, resolve
from rnp_jax.defenses import METHODS
from rnp_jax.errors import ConfigError, RnpError
from rnp_jax.pipeline.options import RunOptions, names_in, readers_of, schema_for

COMMANDS = {
    "inspect": ("InspectOptions", "what a checkpoint file holds; nothing in it is executed"),
    "defend": ("DefendOptions", "remove a backdoor with clean images; cleaned checkpoint, masks, report"),
    "detect": ("DetectOptions", "is there a backdoor: verdict, label, recovered trigger, suspicious samples"),
    "calibrate": ("CalibrateOptions", "the threshold of label detection, from models whose truth is known"),
    "evaluate": ("EvaluateOptions", "ACC, and ASR and RA where the trigger is known"),
    "attack": ("AttackOptions", "train a backdoored model, with its trigger artefact and card"),
    "gallery": ("GalleryOptions", "what every attack does to an image, on one page"),
    "compare": ("CompareOptions", "several defenses on several checkpoints: one table, one page"),
    "study": ("StudyOptions", "train backdoored heads on an extractor's features, compare defenses on them"),
    "ablate": ("AblateOptions", "Hölder pruning under every combination of its settings"),
    "sweep": ("SweepOptions", "defenses on thousands of checkpoints, resumable: one table, one page"),
    "simclr": ("SimclrOptions", "train a feature extractor without labels, for heads and for --method hid"),
    "convert": ("ConvertOptions", "PyTorch, safetensors and orbax, one into the other"),
    "cache": ("CacheOptions", "the compiled programs that are kept for later runs: where, how many, how large"),
}

COMPILE_NOTHING = ("inspect", "convert", "cache")
"""Commands to which the cache of compiled programs is of no use."""

LISTINGS = {"attack": "rnp_jax.commands.attack_list:list_attacks"}
"""What ``--list`` prints, whatever else is on the command line: a function by command."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit status: 0 well, 1 an error that the user can mend, 130 interrupted.

    Raises:
      SystemExit: 2 for unusable arguments, 0 where help was asked for.
    """
    arguments, cached = _take_no_cache(sys.argv[1:] if arguments is None else arguments)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            sys.stdout.write(usage())
            return 0 if arguments else 2
        name, *rest = arguments
        if name in LISTINGS and "--list" in rest:
            _find(LISTINGS[name])()
            return 0
        run, options = parse(name, rest)
        if cached and name not in COMPILE_NOTHING:
            enable_cache()
        run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RnpError, OSError) as error:
        sys.stderr.write(f"rnp-jax: {type(error).__name__}: {_printable(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("rnp-jax: interrupted\n")
        return 130
    return 0


def usage() -> str:
    """The overview that ``rnp-jax --help`` prints."""
    lines = "\n".join(f"  {name:9} {what}" for name, (_, what) in COMMANDS.items())
    return (
        "usage: rnp-jax COMMAND [options]   (rnp-jax COMMAND --help lists them)\n\n"
        f"{lines}\n\n"
        "Each command takes --config FILE.yaml, a preset; options on the command line override it.\n"
        "Compiled programs are kept for later runs in ~/.cache/rnp_jax/programs, or in the folder that the variable\n"
        "RNP_JAX_CACHE_DIR of the environment names; --no-cache, or RNP_JAX_CACHE=off, goes without.\n"
    )


def parse(name: str, arguments: list[str]) -> tuple[Any, Any]:
    """A command's function and its options.

    Raises:
      ConfigError: an unknown command, or a preset that does not fit it.
      SystemExit: unusable arguments, or help was asked for.
    """
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command {name!r}; {hint}")
    module = importlib.import_module(f"rnp_jax.commands.{name}")
    schema = getattr(module, COMMANDS[name][0])
    preset, rest = _take_preset(arguments)
    values = {} if preset is None else read_yaml(preset)
    if issubclass(schema, RunOptions):
        schema, values = _for_methods(schema, values, rest)
    values = _own(schema, values)
    default = None if preset is None else schema_default(schema, values, preset)
    about = (inspect.getdoc(schema) or "").partition("Attributes:")[0].strip()
    description = f"{about}\n\n--config FILE.yaml takes a preset; options given here override it."
    if issubclass(schema, RunOptions):
        description += f" The settings shown are those of the chosen methods; --method takes {', '.join(METHODS)}."
    if name in LISTINGS:
        description += f" rnp-jax {name} --list shows what can be named here."
    try:
        options = tyro.cli(schema, prog=f"rnp-jax {name}", description=description, args=rest, default=default)
    except SystemExit as stopped:
        if stopped.code and issubclass(schema, RunOptions):
            sys.stderr.write(_tell_readers(schema, rest))
        raise
    return module.run, options if default is None else over_preset(default, options)


def _for_methods(schema: Any, values: dict[str, Any], arguments: list[str]) -> tuple[Any, dict[str, Any]]:
    """The schema of the methods that the command line names, or the preset, or that are the command's default."""
    default: Any = next(each.default for each in fields(schema) if each.name == "method")
    one = isinstance(default, str)
    if named := _after(arguments, "--method"):
        rest = {key: value for key, value in values.items() if key != "method"}
        return schema_for(schema, named[:1] if one else named), rest
    names = names_in(values.get("method", default))
    if one and len(names) > 1:
        raise ConfigError(f"the preset names the methods {' '.join(names)}: choose one of them with --method")
    if "method" in values:
        values = {**values, "method": names[0] if one else names}
    return schema_for(schema, names), values


def _after(arguments: list[str], option: str) -> list[str]:
    """The words that an option is given."""
    for i, argument in enumerate(arguments):
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


def _find(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _take_no_cache(arguments: list[str]) -> tuple[list[str], bool]:
    return [each for each in arguments if each != "--no-cache"], "--no-cache" not in arguments


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


def _printable(text: str) -> str:
    """The text without characters that could steer a terminal: names in untrusted files are part of some errors."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _has_default(field: Field) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING

"""Errors that name settings as Python does, in the words of the command line."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from rnp_jax.commands.arguments import find_schema
from rnp_jax.config import FLAT, UNREAD
from rnp_jax.errors import ConfigError

_RECORD = re.compile(r"(\w+)\(.*\): expected (.*)", re.DOTALL)
_NAME = re.compile(r"([\w.]+)(?= is )")
_FIRST = re.compile(r"\w+(?= [^:]*: )")
_LISTED = r"(?<![\w.-])({})(?=,? (?:[<>]=?|in\b|and\b|or\b)|,|$)"


@dataclass(frozen=True)
class _Group:
    """A record of settings.

    Attributes:
      kind: what its class is called.
      path: where it is among the options of the command, as Python has it.
      options: by field, the option that sets it.
    """

    kind: str
    path: str
    options: Mapping[str, str]


def spell_options(text: str, arguments: list[str]) -> str:
    """An error's text with the options that it means, told by the arguments of the command that it ended.

    Four forms are known: ``Config(field=value, …): expected …``, ``field is …``, ``field value: …`` for a field that
    was given, and fields with the names of their groups, as in ``defense.size``. What is said otherwise stays.
    """
    try:
        groups = list(_list_groups(find_schema(arguments), "", ""))
    except ConfigError:  # the command itself is unknown
        return text
    given = _take_given(arguments)
    if (record := _RECORD.fullmatch(text)) is not None:
        return _spell_record(record, groups, given)
    if (named := _NAME.match(text)) is not None and (option := _find(named[0], groups, given)) is not None:
        return f"{option}{text[named.end() :]}"
    for group in groups:
        if (first := _FIRST.match(text)) is not None and group.options.get(first[0]) in given:
            told, expected, listed = text.partition(": expected ")
            return group.options[first[0]] + told[first.end() :] + expected + _spell_listed(listed, group)
    return re.sub(r"(?<![\w.-])\w+(\.\w+)+", lambda found: _find_dotted(found[0], groups) or found[0], text)


def _find_dotted(name: str, groups: list[_Group]) -> str | None:
    """The only option whose path ends with this name of several parts."""
    paths = {f".{group.path}{field}": option for group in groups for field, option in group.options.items()}
    found = [option for path, option in paths.items() if path.endswith(f".{name}")]
    return found[0] if len(found) == 1 else None


def _spell_record(record: re.Match, groups: list[_Group], given: Mapping[str, str]) -> str:
    """The options that were given of a record, which are at fault, and what is expected of which options."""
    own = [group for group in groups if group.kind == record[1]]
    if not own:
        return record[0]
    group = max(own, key=lambda group: len(given.keys() & set(group.options.values())))
    told = [f"{option} {given[option]}".strip() for option in group.options.values() if option in given]
    fault = ", ".join(told) or f"settings of --{group.path[:-1]}"
    return f"{fault}: expected {_spell_listed(record[2], group)}"


def _spell_listed(text: str, group: _Group) -> str:
    """The fields of which a text says what is expected, as options."""
    names = "|".join(sorted(group.options, key=len, reverse=True))
    return re.sub(_LISTED.format(names), lambda found: group.options[found[0]], text)


def _find(name: str, groups: list[_Group], given: Mapping[str, str]) -> str | None:
    """The option of this name: of those that were given, or by its path, or the only one."""
    exact = [group.options[field] for group in groups for field in group.options if f"{group.path}{field}" == name]
    alike = [option for group in groups for field, option in group.options.items() if field == name]
    chosen = [option for option in (*exact, *alike) if option in given] or exact or alike[: len(alike) == 1]
    return chosen[0] if chosen else None


def _list_groups(schema: Any, path: str, prefix: str) -> Iterator[_Group]:
    """The groups of a command's options, itself first; ``prefix`` is what the names of its options begin with."""
    hints, options = get_type_hints(schema, include_extras=True), {}
    for each in fields(schema):
        hint = hints[each.name]
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if each.metadata.get(UNREAD):
            continue
        if is_dataclass(kind):
            inner = prefix if FLAT in notes else f"{prefix}{each.name.replace('_', '-')}."
            yield from _list_groups(kind, f"{path}{each.name}.", inner)
        else:
            options[each.name] = f"--{prefix}{each.name.replace('_', '-')}"
    yield _Group(schema.__name__, path, options)


def _take_given(arguments: list[str]) -> dict[str, str]:
    """The options on the command line, each with the words that follow it."""
    given: dict[str, list[str]] = {}
    words: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument.partition("=")
            words = given[name.replace("_", "-")] = [value] if value else []
        else:
            words.append(argument)
    return {option: " ".join(each) for option, each in given.items()}

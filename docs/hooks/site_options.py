"""The options of a command or the settings of a method, read from the dataclasses that the command line is made of."""

import dataclasses
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import tyro

from rnp_jax.config import FLAT, UNREAD


class Option(NamedTuple):
    """One option: its name on the command line, what it takes, its default and what it does."""

    name: str
    takes: str
    default: str
    text: str


def list_options(schema: type, default: Any = None, prefix: str = "") -> list[Option]:
    """Every option of a dataclass and of the groups in it, arguments without a name first.

    ``default`` holds the defaults, where the class does not.
    """
    return sorted(_walk(schema, default, prefix), key=lambda option: option.name.startswith("--"))


def _walk(schema: type, default: Any, prefix: str) -> Iterator[Option]:
    hints, texts = get_type_hints(schema, include_extras=True), describe_attributes(schema)
    for each in dataclasses.fields(schema):
        kind, *marks = get_args(hints[each.name]) if hasattr(hints[each.name], "__metadata__") else (hints[each.name],)
        if each.metadata.get(UNREAD) or tyro.conf.Suppress in marks:
            continue
        value = _default(each) if default is None else getattr(default, each.name)
        if dataclasses.is_dataclass(kind):
            inner = prefix if FLAT in marks else f"{prefix}{each.name}."
            yield from _walk(kind, None if value is dataclasses.MISSING else value, inner)
            continue
        positional = tyro.conf.Positional in marks
        shown = "required" if value is dataclasses.MISSING else spell_value(value)
        name = each.name.upper() if positional else f"--{prefix}{each.name}".replace("_", "-")
        yield Option(name, spell_type(kind), shown, texts.get(each.name, ""))


def describe_attributes(schema: type) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say of its fields."""
    texts: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        _, _, attributes = (inspect.getdoc(base) or "").partition("Attributes:\n")
        block = re.split(r"\n(?=\S)", attributes)[0]
        for name, text in re.findall(r"^  (\w+): (.*(?:\n    .*)*)", block, re.MULTILINE):
            texts[name] = " ".join(text.split())
    return texts


def spell_value(value: Any) -> str:
    """A default as one would type it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "–"
    return str(value)


def spell_type(kind: Any) -> str:
    """A type in words: its choices, or what it is."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(spell_type(each) for each in inner if each is not type(None)))
    if origin in (tuple, list):
        number = "several" if inner[-1] is Ellipsis else str(len(inner))
        return f"{number}: {spell_type(inner[0])}"
    if hasattr(kind, "__metadata__"):
        return spell_type(inner[0])
    names = {str: "text", int: "whole number", float: "number", bool: "on or off"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _default(each: dataclasses.Field) -> Any:
    return each.default if each.default_factory is dataclasses.MISSING else each.default_factory()

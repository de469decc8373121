"""Other names for the same layers: where one source's arithmetic is another's, a table of names is all that differs.

A table is a tuple of pairs (ours, theirs) of layer names, in which ``{}`` stands for a number. A pair also renames all
layers below the one that it names; an empty name stands for the whole network, which lies below the other name. The
first pair that fits is taken, and a layer that no pair fits keeps its name.
"""

import re
from functools import cache

Names = tuple[tuple[str, str], ...]


def to_theirs(layer: str, names: Names) -> str:
    """Their name of a layer of ours."""
    return _rename(layer, names) or layer


def to_ours(key: str, names: Names) -> str | None:
    """Our name of a layer or tensor of theirs; None if the table has none."""
    return _rename(key, tuple((ours, theirs) for theirs, ours in names))


def _rename(name: str, names: Names) -> str | None:
    for pattern, template in _compile(names):
        if match := pattern.fullmatch(name):
            *numbers, rest = match.groups()
            return template.format(*numbers) + (rest or "")
    return None


@cache
def _compile(names: Names) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((_pattern(source, target), _template(source, target)) for source, target in names)


def _pattern(source: str, target: str) -> re.Pattern[str]:
    if source and target:
        return re.compile(re.escape(source).replace(r"\{\}", r"(\d+)") + r"(\..*)?")
    return re.compile(re.escape(f"{source}." if source else "") + "(.+)()")


def _template(source: str, target: str) -> str:
    if source and target:
        return target
    return f"{target}.{{}}" if target else "{}"

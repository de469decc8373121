"""How names and places from an untrusted file appear in a message: quoted, ASCII, short."""

import json
from collections.abc import Iterable, Sequence

_LONGEST = 80
_MOST_PLACES = 50


def quote(text: object) -> str:
    """A double-quoted ASCII form of at most about 80 characters, safe for a terminal whatever the file holds."""
    if isinstance(text, bytes):
        return ascii(text[:_LONGEST])[:_LONGEST]
    if isinstance(text, dict | list | tuple) and not _is_ints(text):
        return f"a {type(text).__name__} of {len(text)} values"  # spelling it out could take for ever, or recurse
    if not isinstance(text, str):
        return ascii(text)[:_LONGEST]
    shown = json.dumps(text[:_LONGEST])
    return shown if len(text) <= _LONGEST else f"{shown}..."


def _is_ints(value: object) -> bool:
    return isinstance(value, tuple) and len(value) <= _LONGEST and all(type(item) is int for item in value)


class Places:
    """Places in a tree, of which the first few are spelled out: a small file can name one object in a million places.

    Args:
      paths: the keys that lead to each.
    """

    def __init__(self, paths: Iterable[Sequence[object]] = ()):
        self._spelled: list[str] = []
        self._count = 0
        for path in paths:
            self.add(path)

    def add(self, path: Sequence[object]) -> None:
        """Notes one more."""
        self._count += 1
        if len(self._spelled) < _MOST_PLACES:
            self._spelled.append(format_path(path))

    def spell(self) -> tuple[str, ...]:
        """The first 50, and how many more there are."""
        more = self._count - len(self._spelled)
        return (*self._spelled, *([f"{more} more places"] if more else []))


def format_path(path: Sequence[object]) -> str:
    """A place in the tree as one would index it: ``('state_dict', 'fc.bias')`` is ``data["state_dict"]["fc.bias"]``."""
    return "data" + "".join(f"[{quote(key)}]" for key in path)

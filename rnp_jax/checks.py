"""Checks of single options, which say the value and what was expected."""

import math
import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from os import PathLike
from typing import TypeVar

from rnp_jax.errors import ConfigError

LARGEST_SIDE = 4096
"""Of an image, in pixels."""

MOST_CLASSES = 100_000
"""ImageNet-21k has 21,841."""

MOST_STEPS = 1_000_000
"""Of any search or training: far more than anybody waits for."""

_MOST_CHANNELS = 2**18  # of features, which are images of one pixel
_MOST_VALUES = 2**26
_LONGEST = 200

Found = TypeVar("Found")


def check_number(name: str, value: float, low: float, high: float = math.inf, *, integer: bool = False) -> None:
    """Require a finite number (or an integer) in [low, high].

    Raises:
      ConfigError: another type, not finite, or out of range.
    """
    kind = "an integer" if integer else "a number"
    fits = isinstance(value, int if integer else int | float) and not isinstance(value, bool)
    if not fits or not low <= value <= high or value == math.inf:
        span = f"of at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ConfigError(f"{name} is {_show(value)}, expected {kind} {span}")


def check_seed(name: str, seed: int) -> None:
    """Require a seed that random keys tell apart.

    Raises:
      ConfigError: it is negative, or has more than 32 bits.
    """
    check_number(name, seed, 0, 2**32 - 1, integer=True)


def check_image_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Require height, width and channels of an image that can be held in memory.

    Raises:
      ConfigError: not three positive integers, or a side, the channels or all values are too many.
    """
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(isinstance(size, Integral) and size > 0 for size in shape):
        raise ConfigError(f"image_shape is {shape}, expected (height, width, channels), each a positive integer")
    height, width, channels = shape
    if max(height, width) > LARGEST_SIDE or channels > _MOST_CHANNELS or math.prod(shape) > _MOST_VALUES:
        limits = f"sides up to {LARGEST_SIDE}, up to {_MOST_CHANNELS:,} channels and {_MOST_VALUES:,} values in all"
        raise ConfigError(f"image_shape is {shape}, expected {limits}")
    return height, width, channels


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Require one of the named choices.

    Raises:
      ConfigError: anything else.
    """
    if value not in choices:
        raise ConfigError(f"{name} is {_show(value)}, expected one of {', '.join(choices)}")


def find_named(option: str, what: str, known: Mapping[str, Found], name: str) -> Found:
    """The record of this name in a table of them, which an option chooses from.

    Raises:
      ConfigError: there is none.
    """
    if name not in known:
        raise ConfigError(f"{option} {name}: there is no such {what}; choose among {', '.join(known)}")
    return known[name]


def check_path(name: str, path: str | PathLike[str]) -> None:
    """Require a path that every library can write to.

    Raises:
      ConfigError: it is not UTF-8, or has a NUL.
    """
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} is {text}, which is not UTF-8; choose another name") from error
    if "\0" in text:
        raise ConfigError(f"{name} is {text!r}, which no file can be called; choose another name")


def _show(value: object) -> str:
    """A value in an error: short, even where Python refuses to write a number out."""
    if isinstance(value, int) and value.bit_length() > _LONGEST:
        return f"a number of {value.bit_length()} bits"
    shown = repr(value)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def take_option(words: Sequence[str], option: str) -> tuple[list[str], str | None]:
    """The words of a command without ``OPTION VALUE`` and ``OPTION=VALUE``, and the last value, empty if missing."""
    rest: list[str] = []
    given, left = None, iter(words)
    for word in left:
        if word == option:
            given = next(left, "")
        elif word.startswith(f"{option}="):
            given = word.partition("=")[2]
        else:
            rest.append(word)
    return rest, given

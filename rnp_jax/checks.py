"""Checks of single options, which say the value and what was expected."""

import math

from rnp_jax.errors import ConfigError


def check_number(name: str, value: float, low: float, high: float = math.inf, *, integer: bool = False) -> None:
    """Require a finite number (or an integer) in [low, high].

    Raises:
      ConfigError: another type, not finite, or out of range.
    """
    kind = "an integer" if integer else "a number"
    fits = isinstance(value, int if integer else int | float) and not isinstance(value, bool)
    if not fits or not math.isfinite(value) or not low <= value <= high:
        span = f"of at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ConfigError(f"{name} is {value!r}, expected {kind} {span}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Require one of the named choices.

    Raises:
      ConfigError: anything else.
    """
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(choices)}")

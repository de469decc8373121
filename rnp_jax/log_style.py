"""How much a command tells while it works, and in which form: two options that every command takes that has a log."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from rnp_jax.checks import take_option
from rnp_jax.errors import ConfigError

_QUIET: Final = "--quiet"
_FORMAT: Final = "--log-format"
_FORMATS: Final = ("text", "json")


@dataclass(frozen=True)
class LogStyle:
    """How a log is told.

    Attributes:
      quiet: only warnings and what came of the command.
      json: one JSON object a line on standard output, in place of text on standard error.
    """

    quiet: bool = False
    json: bool = False


_TEXT: Final = LogStyle()
_STYLE: Final[ContextVar[LogStyle]] = ContextVar("log_style", default=_TEXT)


def current_style() -> LogStyle:
    """The style of the logs that are opened now."""
    return _STYLE.get()


@contextmanager
def log_in(style: LogStyle) -> Iterator[None]:
    """Has the logs that are opened in this block tell in a style."""
    before = _STYLE.set(style)
    try:
        yield
    finally:
        _STYLE.reset(before)


def take_style(arguments: list[str]) -> tuple[list[str], LogStyle]:
    """The arguments of a command without ``--quiet`` and ``--log-format FORMAT``, and what these say.

    Raises:
      ConfigError: the format is missing, or another than text and json.
    """
    rest, form = take_option(arguments, _FORMAT)
    if form is not None and form not in _FORMATS:
        raise ConfigError(f"{_FORMAT} is {form!r:.100}, expected {' or '.join(_FORMATS)}")
    return [word for word in rest if word != _QUIET], LogStyle(_QUIET in rest, form == "json")

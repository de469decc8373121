"""The options that the site lists are those of the command line."""

import re
from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, Literal

import pytest
import tyro

from rnp_jax.commands.arguments import parse
from rnp_jax.config import FLAT, UNREAD
from rnp_jax.defenses import METHODS
from rnp_jax.pipeline.options import readers_of


@dataclass(frozen=True)
class Inner:
    """A group.

    Attributes:
      size: pixels of
        a side.
    """

    size: int | None = None


@dataclass(frozen=True)
class Outer:
    """Options.

    Attributes:
      kind: which.
      path: a file.
    """

    path: Annotated[str, tyro.conf.Positional]
    kind: Literal["a", "b"] = "b"
    rates: tuple[float, ...] = (0.1, 1.0)
    shape: tuple[int, int] = (1, 2)
    inner: Inner = field(default_factory=lambda: Inner(3))
    flat: Annotated[Inner, FLAT] = field(default_factory=Inner)
    hidden: int = field(default=0, metadata={UNREAD: True})
    quick: bool = False


def test_options_are_named_as_on_the_command_line():
    listed = import_module("site_options").list_options(Outer)
    assert [tuple(each) for each in listed] == [
        ("PATH", "text", "required", "a file."),
        ("--kind", "a, b", "b", "which."),
        ("--rates", "several: number", "0.1 1.0", ""),
        ("--shape", "2: whole number", "1 2", ""),
        ("--inner.size", "whole number", "3", "pixels of a side."),
        ("--size", "whole number", "–", "pixels of a side."),
        ("--quick", "on or off", "off", ""),
    ]


COMMON = {"--help", "--config", "--list", "--threads", "--gpu", "--quiet", "--log-format", "--no-cache"}
"""What stands on the page above the commands, or is no option of theirs."""


@pytest.mark.parametrize("command", ["convert", "defend", "detect"])
def test_they_are_those_of_the_parser(command: str, capsys: pytest.CaptureFixture[str]):
    reference = import_module("site_reference")
    with pytest.raises(SystemExit):
        parse(command, ["--help"])
    shown = set(re.findall(r"(?<![\w-])--(?!no-)[a-z][\w.-]*", capsys.readouterr().out))
    own = {each.name for each in reference.command_options(command) if each.name.startswith("--")}
    settings = {each.name for method in METHODS.values() for each in reference.method_options(method)}
    unread = {name for name in own - shown if readers_of(name.removeprefix("--").partition(".")[0])}
    assert own - shown == unread  # the default method does not read them
    assert {name for name in shown - own - settings if ".no-" not in name} <= COMMON

import io
import re
from pathlib import Path

import pytest
from rich.live import Live
from rich.table import Table

import rnp_jax
from rnp_jax.console import open_console

HOSTILE = "\x1b[2J\x9b1m[/bold][red]:smile:\u202e\udcff"
SHOWN = r"\x1b[2J\x9b1m[/bold][red]:smile:\u202e\udcff"


def table() -> Table:
    made = Table(HOSTILE, title=HOSTILE)
    made.add_row(HOSTILE)
    return made


@pytest.mark.parametrize("show", [str, lambda _: table()], ids=["text", "table"])
@pytest.mark.parametrize("stderr", [False, True])
def test_text_is_shown_as_it_is_and_steers_nothing(show, stderr, capsys):
    open_console(stderr=stderr, soft_wrap=True).print(show(HOSTILE))
    shown = capsys.readouterr()[stderr]
    assert SHOWN in shown
    assert "\x1b" not in shown


def test_on_a_terminal_styles_are_the_only_controls():
    console = open_console()
    console.file, console._force_terminal, console.width = io.StringIO(), True, 200
    with Live(table(), console=console):
        console.print(HOSTILE, style="bold")
    shown = console.file.getvalue()
    assert SHOWN in shown
    assert not re.search(r"\x1b\[2J|\x9b|\u202e|\udcff", shown)


def test_nothing_else_opens_the_screen():
    """Whatever prints does so through this console, or through the command line's one line for an error."""
    package = Path(rnp_jax.__file__).parent
    opens = re.compile(r"\bConsole\(|from rich import")
    assert not [path for path in package.rglob("*.py") if opens.search(path.read_text("utf-8"))]

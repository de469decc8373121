"""The terminal, to which text goes as it is: no markup in it is obeyed, and nothing hidden in it reaches the screen."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from rnp_jax.untrusted_text import spell_hidden


def open_console(*, stderr: bool = False, quiet: bool = False, soft_wrap: bool = False) -> Console:
    """The screen, by way of standard output or standard error.

    Args:
      quiet: show nothing.
      soft_wrap: leave it to the terminal to break long lines.
    """
    return _PlainConsole(stderr=stderr, quiet=quiet, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)


class _PlainConsole(Console):
    """Spells out the hidden characters of whatever it shows; styles and moves of the cursor are its own."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Plain text, spelled out before it is measured and laid out."""
        return super().render_str(spell_hidden(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """All else, such as text that was styled before."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else spell_hidden(text), style, control)

"""Tables that a script puts into a page, between two comments that name them."""

import sys
from pathlib import Path

from rnp_jax.atomic import write_atomic


def fill(page: Path, name: str, text: str) -> None:
    """Puts the text between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``, in place of what is there."""
    before, (first, last) = page.read_text("utf-8"), (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    begin, end = before.find(first), before.find(last)
    if not 0 <= begin < end:
        sys.exit(f"{page} lacks the marks {first} and {last}: put them where the table belongs")
    write_atomic(page, f"{before[:begin]}{first}\n{text}\n{before[end:]}".encode())

"""Markup that is safe by construction: whatever is not `Markup` already is escaped.

Characters that would hide or reorder text (controls, bidirectional overrides, lone surrogates) are spelled out, so that
a hostile file name cannot disguise itself either.
"""

import html
from collections.abc import Sequence
from typing import TypeAlias

from rnp_jax.untrusted_text import spell_hidden

_VOID = {"br", "col", "img", "link", "meta"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child: TypeAlias = str | int | None


def escape(text: Child) -> Markup:
    """``text`` as it should be read, in element content or a quoted attribute; None is nothing."""
    if isinstance(text, Markup):
        return text
    if text is None:
        return Markup()
    return Markup(html.escape(spell_hidden(str(text)), quote=True))


def element(tag: str, /, *children: Child, **attributes: Child) -> Markup:
    """``<tag attributes>children</tag>``; ``class_`` is written ``class``, attributes that are None are left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*children: Child) -> Markup:
    """The children one after another, each escaped unless it is markup."""
    return Markup("".join(escape(child) for child in children))


def table(head: Sequence[Child], rows: Sequence[Sequence[Child]], **attributes: Child) -> Markup:
    """A table whose first column heads its rows; without ``head``, of rows only."""
    columns = join(*(element("th", cell, scope="col") for cell in head))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    thead = element("thead", element("tr", columns)) if head else None
    return element("div", element("table", thead, element("tbody", *body), **attributes), class_="scroll")

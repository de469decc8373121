"""How text that nobody trusts is shown: on the terminal, in logs, tables and markup."""

import json
import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def spell_hidden(text: str) -> str:
    """The text with its hidden characters, line feeds aside, as their escapes: ``\\x1b``, ``\\u202e``.

    Those are the characters that would steer a terminal, hide or reorder text, or that no file can hold: controls,
    bidirectional overrides, lone surrogates.
    """
    return text if text.isprintable() else "".join(map(_spell, text))


def spell_json(text: str) -> str:
    """The same for JSON, whose meaning stays: what is hidden stands in its strings, and is escaped as JSON does."""
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    return character if _spell(character) == character else json.dumps(character)[1:-1]


def _spell(character: str) -> str:
    if character == "\n" or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode()

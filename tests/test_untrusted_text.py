import json

import pytest

from rnp_jax.untrusted_text import spell_hidden, spell_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<gpj\u202e.exe\x00 & \u200b\n\t猫", "<gpj\\u202e.exe\\x00 & \\u200b\n\\t猫"),
        ("\x1b[2J\x9b2J\r\x07", r"\x1b[2J\x9b2J\r\x07"),
        ("a\udcffb", r"a\udcffb"),
        ("Hölder [bold]", "Hölder [bold]"),
    ],
)
def test_hidden_characters_are_spelled_out(text, shown):
    assert spell_hidden(text) == shown
    assert spell_hidden(shown) == shown


def test_json_without_hidden_characters_means_the_same():
    value = {"a\x9b2J\u202e": ["\x1b\n", "猫\U000e0041", "\udcff"]}
    shown = spell_json(json.dumps(value, indent=1, ensure_ascii=False))
    assert spell_hidden(shown) == shown
    assert "猫" in shown
    assert json.loads(shown) == value

import json

import pytest

from rnp_jax.pipeline.log_lines import EVENTS, write_line


def test_a_line_is_one_object_without_what_json_lacks(capsys):
    write_line("note", text="a\nb\u202e", value=(float("nan"), {1: float("-inf")}), none=None)
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert shown.isascii()
    line = json.loads(shown)
    assert list(line) == ["time", "event", "text", "value", "none"]
    assert (line["text"], line["value"], line["none"]) == ("a\nb\u202e", [None, {"1": None}], None)


@pytest.mark.parametrize("event", EVENTS)
def test_quiet_keeps_what_decides(event, capsys):
    write_line(event, quiet=True)
    assert bool(capsys.readouterr().out) == (event in ("warning", "result", "error"))

"""What a document says of the command."""

import sys

import pytest

from rnp_jax.pipeline.describing_inputs import command_line


@pytest.mark.parametrize(
    ("program", "expected"),
    [("/usr/bin/rnp-jax", "rnp-jax defend 'a b.pt' --seed 1"), ("/usr/bin/python", None), ("", None)],
)
def test_the_command_is_told_as_it_can_be_typed_again(program, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "defend", "a b.pt", "--seed", "1"])
    assert command_line() == expected

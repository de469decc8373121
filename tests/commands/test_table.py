"""The table of commands holds against the modules."""

import importlib
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import rnp_jax.commands
from rnp_jax.commands.table import COMMANDS, COMPILE_NOTHING, LISTINGS


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_module_with_options_and_a_run(name):
    kind, what = COMMANDS[name]
    module = importlib.import_module(f"rnp_jax.commands.{name}")
    assert is_dataclass(getattr(module, kind))
    assert callable(module.run)
    assert what
    assert not what.endswith(".")


def test_every_module_with_a_run_is_a_command():
    folder = Path(rnp_jax.commands.__file__).parent
    modules = {path.stem: path.read_text("utf-8") for path in folder.glob("*.py")}
    assert {name for name, text in modules.items() if "\ndef run(" in text} == set(COMMANDS)


def test_exceptions_are_of_commands():
    assert set(COMPILE_NOTHING) <= set(COMMANDS)
    assert set(LISTINGS) <= set(COMMANDS)
    for place in LISTINGS.values():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))

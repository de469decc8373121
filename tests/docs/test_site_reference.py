"""The reference names everything that the code has, once."""

import re
from dataclasses import fields
from importlib import import_module

import pytest

from rnp_jax.adaptive import AdaptiveOptions
from rnp_jax.attacks import ATTACKS
from rnp_jax.commands.table import COMMANDS
from rnp_jax.defenses import METHODS


def heads(part: str) -> list[str]:
    return re.findall(r"^## (.+)$", import_module("site_reference").GENERATED[part](), re.MULTILINE)


def test_every_command_method_and_attack_has_its_part():
    assert heads("options") == list(COMMANDS)
    assert heads("methods") == [f"{method.title} {{#{name}}}" for name, method in METHODS.items()]
    assert heads("attacks") == [f"{kind.title} {{#{name}}}" for name, kind in sorted(ATTACKS.items())]


def test_every_adaptive_training_has_its_part_and_its_settings():
    text = import_module("site_reference").GENERATED["adaptive"]()
    found = re.findall(r"^### (\w+) \{#adaptive-\1\}$", text, re.MULTILINE)
    assert found == [each.name for each in fields(AdaptiveOptions) if each.name != "method"]
    assert "`--adaptive.unlearn-aware.hides`" in text


@pytest.mark.parametrize("part", ["options", "methods", "attacks", "adaptive"])
def test_tables_have_as_many_cells_in_every_row(part: str):
    text = import_module("site_reference").GENERATED[part]()
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_what_a_docstring_says_is_not_taken_for_markup():
    escape = import_module("site_reference").escape
    assert escape("``a_b`` of <T> * x_y [z]") == "`a_b` of &lt;T> \\* x\\_y \\[z]"

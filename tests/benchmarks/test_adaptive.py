"""The victims of the benchmark are commands that exist, and what breaks is said first."""

from types import SimpleNamespace

import pytest

from benchmarks.adaptive import ATTACKS, BASE, VICTIMS, make_text
from rnp_jax.adaptive import choose_adaptation
from rnp_jax.commands.arguments import parse


@pytest.mark.parametrize("name", VICTIMS)
def test_victims_are_command_lines_and_have_controls(name):
    arguments, control = VICTIMS[name]
    _, options = parse("attack", ["badnets", "--out", "a.pt", *BASE, *ATTACKS["badnets"], *arguments])
    assert (choose_adaptation(options.adaptive) is None) == (name == "plain")
    assert control is None or control in VICTIMS


def result(asr: float) -> SimpleNamespace:
    share = SimpleNamespace(value=0.5)
    figures = SimpleNamespace(acc=share, asr=SimpleNamespace(value=asr), ra=share)
    return SimpleNamespace(before=figures, after=figures)


def test_a_defense_breaks_where_it_leaves_more_than_on_the_control():
    found = {
        ("plain", "rnp"): [result(0.1), result(0.0)],
        ("grond", "rnp"): [result(0.4), result(0.3)],
        ("plain", "clp"): [result(1.0)],
        ("grond", "clp"): [result(1.0)],
        ("sbl", "rnp"): [result(1.0)],  # its control was not run
    }
    broken, _, table = make_text(found).partition("\n\n| ")
    assert [line for line in broken.splitlines() if line.startswith("- ")] == [
        "- `RNP` on `grond`: ASR 35.0% is left, and 5.0% on its control `plain`.",
        "- Nothing can break where the control keeps its backdoor: `CLP` on `plain`.",
    ]
    assert "| grond | 50.0 / 35.0 | RNP | 2 | 50.0 | 35.0 | 50.0 | 50.0 / 5.0 |" in table
    assert "- None does." in make_text({key: value for key, value in found.items() if key[1] == "clp"})

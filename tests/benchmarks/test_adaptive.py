"""The victims of the benchmark are commands that exist, and what breaks is said first."""

import pytest

from benchmarks.adaptive import ATTACKS, BASE, VICTIMS, group, make_text, name_bed
from benchmarks.outcomes import Outcome
from rnp_jax.adaptive import choose_adaptation
from rnp_jax.commands.arguments import parse


@pytest.mark.parametrize("name", VICTIMS)
def test_victims_are_command_lines_and_have_controls(name):
    arguments, control = VICTIMS[name]
    _, options = parse("attack", ["badnets", "--out", "a.pt", *BASE, *ATTACKS["badnets"], *arguments])
    assert (choose_adaptation(options.adaptive) is None) == (name == "plain")
    assert control is None or control in VICTIMS


def outcome(victim: str, method: str, asr: float, seed: int = 0) -> Outcome:
    bed, share = name_bed("badnets", victim), (0.5, 0.5)
    return Outcome(
        bed=bed, attack="badnets", method=method, seed=seed, ranked=True, acc=share, asr=(1.0, asr), ra=share
    )


def test_a_defense_breaks_where_it_leaves_more_than_on_the_control():
    outcomes = [
        outcome("plain", "rnp", 0.1), outcome("plain", "rnp", 0.0, seed=1),
        outcome("grond", "rnp", 0.4), outcome("grond", "rnp", 0.3, seed=1),
        outcome("plain", "clp", 1.0), outcome("grond", "clp", 1.0),
        outcome("sbl", "rnp", 1.0),  # its control was not run
    ]  # fmt: skip
    assert group(outcomes, "blend") == {}
    broken, _, table = make_text(group(outcomes, "badnets")).partition("\n\n| ")
    assert [line for line in broken.splitlines() if line.startswith("- ")] == [
        "- `RNP` on `grond`: ASR 35.0% is left, and 5.0% on its control `plain`.",
        "- Nothing can break where the control keeps its backdoor: `CLP` on `plain`.",
    ]
    assert "| grond | 50.0 / 100.0 | RNP | 2 | 50.0 | 35.0 (30.0–40.0) | 50.0 | 50.0 / 5.0 (0.0–10.0) |" in table
    assert "- None does." in make_text(group([each for each in outcomes if each.method == "clp"], "badnets"))

"""A second look at a network that still has its backdoor, and at one that has none."""

import re

import jax

from rnp_jax.defenses.method import Task
from rnp_jax.defenses.searches import recover_triggers
from rnp_jax.defenses.second_look import look_again
from rnp_jax.inversion import PatchConfig
from tests.defenses import test_nc as planting
from tests.inversion.planted import TARGET, rows_data

KEY = jax.random.key(4)
LOOK = (KEY, planting.CONFIG, PatchConfig(side=0.16, step=0.6), 0.5)
HELD = rows_data(60, seed=9)


def test_what_the_backdoor_is_still_in_is_spoken_against():
    variables, data = planting.planted(), rows_data()
    task = Task(planting.NETWORK, variables, data, KEY, HELD)
    found = recover_triggers(planting.NETWORK, variables, data, KEY, planting.CONFIG, holdout=HELD)
    again = look_again(task, variables, found, *LOOK)
    assert again.labels == again.stamped == (TARGET,)
    assert re.fullmatch(
        rf"A new trigger of .* to label {TARGET}; .* A plain patch sends .* to label {TARGET}.", again.rule
    )
    nothing = look_again(task, planting.planted(0.0), found, *LOOK)
    assert (nothing.labels, nothing.rule) == ((), "")

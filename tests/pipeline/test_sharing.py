"""Searches are shared exactly where they are the same."""

from collections import Counter
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from rnp_jax.defenses.auto import auto, plan_search
from rnp_jax.defenses.method import compute_anew, do_by
from rnp_jax.defenses.searches import recover_triggers
from rnp_jax.inversion import WarpConfig, find_shifts, find_warps
from rnp_jax.pipeline.packing import pack
from rnp_jax.pipeline.sharing import share_searches
from tests.defenses.test_auto import CONFIG, HELD, KEY
from tests.defenses.test_nc import NETWORK, planted
from tests.inversion.planted import rows_data

SHORT = WarpConfig(steps=1, batch_size=4)
GIVEN = (NETWORK, planted(), rows_data(), KEY, SHORT)


def share(*calls: partial) -> tuple[list[object], int]:
    """The values of the calls, and how many of them were made."""
    made = []

    def keep(stage: str, compute: partial) -> tuple[object, float]:
        made.append(stage)
        return object(), 1.0

    shared = share_searches(keep)
    return [shared("stage", call)[0] for call in calls], len(made)


def test_the_same_search_is_made_once_whoever_is_told_of_its_progress():
    values, made = share(*(partial(find_warps, *GIVEN, labels=(1,), progress=told) for told in (print, None)))
    assert (values[0], made) == (values[1], 1)


@pytest.mark.parametrize(
    "other",
    [
        partial(find_warps, *GIVEN[:3], jax.random.key(5), SHORT),
        partial(find_warps, *GIVEN[:4], replace(SHORT, steps=2)),
        partial(find_warps, NETWORK, planted(1.0), *GIVEN[2:]),
        partial(find_warps, replace(NETWORK, mean=(0.5, 0.5, 0.5)), *GIVEN[1:]),
        partial(find_warps, *GIVEN, labels=(1,)),
        partial(find_warps, *GIVEN, holdout=HELD),
    ],
)
def test_any_difference_makes_it_another(other):
    values, made = share(partial(find_warps, *GIVEN), other)
    assert values[0] is not values[1]
    assert made == 2


def test_what_is_no_search_is_passed_on():
    assert share(*[partial(find_shifts, *GIVEN[:3])] * 2)[1] == 2


def test_automatic_removal_is_given_the_search_that_was_made_before_it():
    made: Counter[str] = Counter()

    def keep(stage: str, compute: partial) -> tuple[object, float]:
        made[stage] += 1
        return compute_anew(stage, compute)

    shared, variables, data = share_searches(keep), planted(), rows_data()
    key, config = plan_search(CONFIG, KEY)
    found = recover_triggers(NETWORK, variables, data, key, config, holdout=HELD, do=do_by(shared, "before"))
    given = auto(NETWORK, variables, data, KEY, CONFIG, holdout=HELD, keep=shared)
    alone = auto(NETWORK, variables, data, KEY, CONFIG, holdout=HELD)
    assert found.rule in given.choice.rule
    assert made == {"before": 4, "invert": 1, "distil": 1, "corrupt": 1, "check": 2}
    first, second = (pack(replace(each, timing={})) for each in (given, alone))
    assert first.form == second.form
    for mine, theirs in zip(first.arrays, second.arrays, strict=True):
        np.testing.assert_array_equal(mine, theirs)

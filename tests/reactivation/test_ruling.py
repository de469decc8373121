"""The rule by which a backdoor is called back, on the ends of intervals."""

import pytest

from rnp_jax.reactivation import rule_attempt, rule_trigger
from rnp_jax.reactivation.ruling import ORDER
from tests.report.examples import share


@pytest.mark.parametrize(
    ("after", "floor", "finding"),
    [
        ((960, 1000), (80, 1000), "superficial"),
        ((300, 1000), (20, 1000), "superficial"),
        ((240, 1000), (20, 1000), "undecided"),  # 22 points, which the intervals do not hold
        ((30, 1000), (25, 1000), "not recovered"),
        ((960, 1000), (950, 1000), "not recovered"),  # the patch is planted in a clean network as well
        ((3, 10), (0, 10), "undecided"),
        ((960, 1000), None, "no reference"),
        ((100, 1000), None, "not recovered"),  # it cannot exceed any floor by more
        (None, None, "explains"),
        (None, (1, 10), "explains"),
    ],
)
def test_the_rule(after, floor, finding):
    assert rule_attempt(after and share(*after), floor and share(*floor)) == finding
    assert finding in ORDER


@pytest.mark.parametrize(
    ("before", "floor", "works"),
    [
        ((900, 1000), (10, 1000), True),
        ((300, 1000), (10, 1000), True),
        ((150, 1000), (10, 1000), False),
        ((900, 1000), None, True),
        ((300, 1000), None, False),
        ((900, 1000), (890, 1000), False),  # it turns a clean network as well
    ],
)
def test_a_trigger_that_works_before_any_attempt(before, floor, works):
    assert rule_trigger(share(*before), floor and share(*floor)) is works

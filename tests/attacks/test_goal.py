import jax
import numpy as np
import pytest

from rnp_jax.attacks.goal import Goal
from rnp_jax.errors import ConfigError

LABELS = np.array([0, 1, 2, 3], np.int64)


def test_all_to_one_wants_the_target_and_does_not_count_it():
    goal = Goal(num_classes=4, target=2)
    np.testing.assert_array_equal(goal.wanted(LABELS), [2, 2, 2, 2])
    np.testing.assert_array_equal(goal.counted(LABELS), [True, True, False, True])


def test_all_to_all_wants_the_next_class_and_counts_all():
    goal = Goal(num_classes=4, mapping="all_to_all")
    np.testing.assert_array_equal(goal.wanted(LABELS), [1, 2, 3, 0])
    assert goal.counted(LABELS).all()


@pytest.mark.parametrize("mapping", ["all_to_one", "all_to_all"])
def test_wanted_is_jittable_and_int32(mapping):
    goal = Goal(num_classes=4, mapping=mapping)
    labels = LABELS.astype(np.int32)
    wanted = jax.jit(goal.wanted)(labels)
    assert wanted.dtype == np.int32
    np.testing.assert_array_equal(wanted, goal.wanted(labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 10, "target": 10}, "target is 10, expected an integer between 0 and 9"),
        ({"num_classes": 10, "target": -1}, "target is -1"),
        ({"num_classes": 1}, "num_classes is 1, expected an integer between 2 and 100000"),
        ({"num_classes": 10, "mapping": "one_to_one"}, "mapping is 'one_to_one', expected one of all_to_one"),
    ],
)
def test_impossible_goals_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Goal(**options)

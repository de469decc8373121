import numpy as np
import pytest

from rnp_jax.detection.suspicion import SuspicionRule, find_suspicious
from rnp_jax.errors import ConfigError, DataError

SCORES = np.array([0.0, 5, 1, 5, 2, 3, 1, 1, 2, 90])


def test_a_share_of_the_set_the_most_suspicious_first():
    found = find_suspicious(SCORES, SuspicionRule(share=0.3))
    assert found.indices.tolist() == [9, 1, 3]
    assert found.threshold == 5
    assert "0.3 of the set" in found.rule
    assert find_suspicious(SCORES, SuspicionRule(share=0.2)).indices.tolist() == [9, 1], "of equals the earlier"
    assert find_suspicious(SCORES, SuspicionRule(share=1e-6)).indices.tolist() == [9], "one at least"
    assert len(find_suspicious(SCORES, SuspicionRule(share=1.0)).indices) == 10


def test_robust_deviations_above_the_median():
    """The median is 2, half of all lie within 1 of it (sorted distances 0 0 1 1 1 1 2 3 3 88)."""
    found = find_suspicious(SCORES, SuspicionRule(deviations=2.0))
    assert found.threshold == pytest.approx(2 + 2 * 1.4826)
    assert found.indices.tolist() == [9, 1, 3]
    assert find_suspicious(SCORES, SuspicionRule(deviations=3.0)).indices.tolist() == [9]
    assert find_suspicious(np.ones(4), SuspicionRule(deviations=1.0)).indices.size == 0


@pytest.mark.parametrize("scores", [np.zeros(0), np.zeros((2, 2)), np.array([1.0, np.inf])])
def test_scores_that_cannot_be_ordered(scores):
    with pytest.raises(DataError, match="expected one or more finite numbers"):
        find_suspicious(scores, SuspicionRule())


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"share": 1.5}, {"deviations": 0.0}])
def test_impossible_rules(settings):
    with pytest.raises(ConfigError, match="expected share in"):
        SuspicionRule(**settings)

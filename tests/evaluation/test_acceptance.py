import pytest

from rnp_jax.attacks import BadNets, Goal
from rnp_jax.evaluation.acceptance import expect_asr, find_weakness
from rnp_jax.evaluation.metrics import Metrics, Proportion

ACC = Proportion.of(80, 100)
ONE, ALL = Goal(num_classes=10), Goal(num_classes=10, mapping="all_to_all")


@pytest.mark.parametrize(
    ("goal", "hits", "expected"),
    [(ONE, 0, 90), (ONE, 89, 90), (ONE, 90, None), (ONE, 100, None), (ALL, 71, 72), (ALL, 73, None)],
)
def test_below_what_is_expected_is_weak(goal, hits, expected):
    reason = find_weakness(BadNets(), goal, Metrics(acc=ACC, asr=Proportion.of(hits, 100)))
    assert reason == (f"weak attack: ASR {hits}.0%, expected {expected}% or more" if expected else None)


def test_without_a_trigger_nothing_is_weak():
    assert find_weakness(BadNets(), ONE, Metrics(acc=ACC)) is None


def test_what_is_expected_before_anything_is_measured():
    assert expect_asr(BadNets(), ALL, None) == BadNets.expected_asr

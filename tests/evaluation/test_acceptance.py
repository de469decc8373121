import pytest

from rnp_jax.attacks import BadNets
from rnp_jax.evaluation.acceptance import find_weakness
from rnp_jax.evaluation.metrics import Metrics, Proportion

ACC = Proportion(95, 100)


@pytest.mark.parametrize(("hits", "weak"), [(0, True), (89, True), (90, False), (100, False)])
def test_below_what_is_expected_is_weak(hits, weak):
    reason = find_weakness(BadNets(), Metrics(ACC, asr=Proportion(hits, 100)))
    assert reason == (f"weak attack: ASR {hits}.0%, expected 90% or more" if weak else None)


def test_without_a_trigger_nothing_is_weak():
    assert find_weakness(BadNets(), Metrics(ACC)) is None

"""Whether an attack took: what a model has to show before a defense is judged on it."""

from rnp_jax.attacks import Attack, Goal
from rnp_jax.evaluation.metrics import Metrics


def expect_asr(attack: Attack, goal: Goal, metrics: Metrics | None) -> float:
    """The least ASR of a model that counts as attacked.

    With ``all_to_all`` it is a share of the model's ACC: what is wanted follows from the class, which it must know.
    """
    known = metrics.acc.value if metrics is not None and goal.mapping == "all_to_all" else 1.0
    return attack.expected_asr * known


def find_weakness(attack: Attack, goal: Goal, metrics: Metrics) -> str | None:
    """Why a model counts as weakly attacked, on which a defense proves little; None where it does not."""
    expected = expect_asr(attack, goal, metrics)
    if metrics.asr is None or metrics.asr.value >= expected:
        return None
    return f"weak attack: ASR {metrics.asr.value:.1%}, expected {expected:.0%} or more"

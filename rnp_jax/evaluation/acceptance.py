"""Whether an attack took: what a model has to show before a defense is judged on it."""

from rnp_jax.attacks import Attack
from rnp_jax.evaluation.metrics import Metrics


def find_weakness(attack: Attack, metrics: Metrics) -> str | None:
    """Why a model counts as weakly attacked, on which a defense proves little; None where it does not."""
    if metrics.asr is None or metrics.asr.value >= attack.expected_asr:
        return None
    return f"weak attack: ASR {metrics.asr.value:.1%}, expected {attack.expected_asr:.0%} or more"

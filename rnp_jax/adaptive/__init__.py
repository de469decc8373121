"""Attackers who know the defenses: trainings that hide a backdoor from scores, from unlearning and from tuning."""

from rnp_jax.adaptive.options import AdaptiveOptions, choose_adaptation

__all__ = ["AdaptiveOptions", "choose_adaptation"]

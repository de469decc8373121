"""The settings of trigger recovery under the name by which the commands import them."""

from rnp_jax.inversion.mask_search import TriggerConfig

__all__ = ["TriggerConfig"]

"""A re-activation of seconds, for tests that need a whole one."""

from rnp_jax.config import ComputeOptions, DataOptions
from rnp_jax.defenses import FinetuneConfig
from rnp_jax.pipeline.parties import KnownOptions
from rnp_jax.reactivation.ra import RaConfig

SMALL = {
    "images": DataOptions(test_images=60),
    "known": KnownOptions(size=100),
    "compute": ComputeOptions(batch_size=20),
    "ra": RaConfig(images=(2,), finetune=FinetuneConfig(epochs=2, batch_size=32, weight_decay=0.0)),
}

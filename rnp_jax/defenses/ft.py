"""Fine-tuning (FT): all weights are trained on the clean images, in the hope that the backdoor is forgotten.

The baseline of every comparison of defenses. The constants are BackdoorBench's (Wu et al., NeurIPS 2022): SGD with
coupled weight decay, batches of 256, 100 epochs, a cosine schedule that advances once an epoch, batch norm in training
mode. It computes in half precision where this does not.

``start`` rnp prunes the network by RNP first (Li et al., ICML 2023) and then tunes what is left, masks fixed;
``unlearned`` has RNP unlearn the clean images and then teaches them anew.
"""

import time
from dataclasses import dataclass, field

import jax

from rnp_jax.defenses.finetune import FinetuneConfig, finetune
from rnp_jax.defenses.phase import Progress
from rnp_jax.defenses.result import Pruned
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import Start, begin, check_rnp, conclude
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment
from rnp_jax.types import Batch, Variables


def benchmark_settings() -> FinetuneConfig:
    """BackdoorBench's."""
    return FinetuneConfig(epochs=100, batch_size=256, schedule="cosine")


@dataclass(frozen=True)
class FtConfig:
    """Settings of fine-tuning as a defense.

    Attributes:
      start: the network that is tuned.
      rnp: how it is pruned or unlearned first.
      finetune: how it is tuned.
    """

    start: Start = "original"
    rnp: RnpConfig = field(default_factory=RnpConfig)
    finetune: FinetuneConfig = field(default_factory=benchmark_settings)

    def __post_init__(self):
        check_rnp(self.start != "original", self.rnp)


def ft(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: FtConfig,
    *,
    holdout: Batch | None = None,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Defends a network with clean images; see ``rnp`` for the arguments. ``holdout`` measures, and chooses for RNP.

    Raises:
      ConfigError: nothing is held out for RNP to choose by.
      DefenseError: the loss became infinite or not a number.
    """
    begun = begin(
        config.start, network, variables, data, key, config.rnp, holdout=holdout, augment=augment, progress=progress
    )
    started = time.perf_counter()
    tuned, history = finetune(
        network, begun.variables, data, jax.random.fold_in(key, 1), config.finetune, augment=augment, progress=progress
    )
    timing = {"finetune": time.perf_counter() - started}
    return conclude(network, variables, begun, tuned, holdout, {"finetune": history}, timing)

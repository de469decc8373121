"""Fine-tuning (FT): all weights are trained on the clean images, in the hope that the backdoor is forgotten.

The baseline of every comparison of defenses. The constants are BackdoorBench's (Wu et al., NeurIPS 2022): SGD with
coupled weight decay, batches of 256, 100 epochs, a cosine schedule that advances once an epoch, batch norm in training
mode. It computes in half precision where this does not.

``start`` rnp prunes the network by RNP first (Li et al., ICML 2023) and then tunes what is left, masks fixed;
``unlearned`` has RNP unlearn the clean images and then teaches them anew.
"""

from dataclasses import dataclass, field

import jax

from rnp_jax.defenses.finetune import FinetuneConfig, start_finetuning
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import Start, begin, check_rnp, chooses_before, conclude, tune


def benchmark_settings() -> FinetuneConfig:
    """BackdoorBench's."""
    return FinetuneConfig(epochs=100, batch_size=256, schedule="cosine")


@dataclass(frozen=True)
class FtConfig:
    """Settings of fine-tuning as a defense.

    Attributes:
      start: network to fine-tune: as it came, as RNP pruned it, or as RNP unlearned it.
      rnp: settings of RNP, if it prunes or unlearns the network first.
      finetune: settings of fine-tuning.
    """

    start: Start = "original"
    rnp: RnpConfig = field(default_factory=RnpConfig)
    finetune: FinetuneConfig = field(default_factory=benchmark_settings)

    def __post_init__(self):
        check_rnp(self.start != "original", self.rnp)


def run_ft(task: Task, config: FtConfig) -> Defended:
    """Tunes the network, or what RNP left of it, on the clean images.

    Raises:
      ConfigError: nothing is held out for RNP to choose by.
      DefenseError: the loss became infinite or not a number.
    """
    begun = begin(config.start, task, config.rnp)
    phase = start_finetuning(task.network, config.finetune, task.augment)
    tuned = tune(task, phase, begun.variables, begun.variables["masks"], jax.random.fold_in(task.key, 1))
    return conclude(task, begun, tuned)


ft = Method(
    name="ft",
    title="FT",
    summary="fine-tune all weights, of the network itself or of what RNP left of it",
    basis="All weights are trained on the clean images, which may make the network forget the backdoor (fine-tuning as "
    "in BackdoorBench, NeurIPS 2022).",
    run=run_ft,
    defaults=FtConfig(),
    changes="both",
    augments=True,
    chooses=lambda config: chooses_before(config.start == "rnp", config.rnp),
    colour="#2f7f86",
    marker="<",
)

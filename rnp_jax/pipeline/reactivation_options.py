"""What is asked of a purified checkpoint: the networks, the images, and which attempts bring its backdoor back."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from rnp_jax.checks import check_seed
from rnp_jax.config import FILE, FLAT, ComputeOptions, DataOptions, SourceOptions, TriggerOptions, to_plain
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.parties import KnownOptions
from rnp_jax.reactivation import REACTIVATIONS, Reactivation, find_reactivation
from rnp_jax.reactivation.bba import BbaConfig
from rnp_jax.reactivation.bec import BecConfig
from rnp_jax.reactivation.lmc import LmcConfig
from rnp_jax.reactivation.perturbation import PerturbationConfig
from rnp_jax.reactivation.qra import QraConfig
from rnp_jax.reactivation.ra import RaConfig

NAMES = tyro.conf.arg(metavar="NAME [NAME ...]")
FILES = tyro.conf.arg(metavar="FILE [FILE ...]")


@dataclass(frozen=True)
class ReactivationOptions:
    """What is asked of a purified checkpoint.

    Attributes:
      checkpoint: PyTorch file of the network that is said to be purified.
      original: file of the backdoored network that it was made from; its card names the trigger and the data. LMC and
        BEC need it.
      reference: file of a clean network for the same images and classes, on which every attempt is repeated; without
        it, a backdoor that comes back cannot be told from one that is planted anew.
      surrogates: files of further networks, purified from the same original, which an attacker who transfers has in
        place of this one.
      by: attempts to make; by default all that the given files allow and that do not take long.
      source: how the checkpoint and the original are read, and their normalisation.
      images: clean images; the attacker's come from the training part, and the test part is measured on.
      known: clean training images that the attacker has.
      trigger: the trigger; by default the one that the original's card names.
      compute: precision and batches.
      seed: random seed for shuffling and starting points.
      ra: settings of the retuning attack.
      lmc: settings of linear mode connectivity.
      wba: settings of white-box re-activation.
      bec: settings of the backdoor existence coefficient.
      qra: settings of the query-based attack.
      bba: settings of black-box re-activation.
      ta: settings of transfer re-activation.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    original: Annotated[str | None, FILE] = None
    reference: Annotated[str | None, FILE] = None
    surrogates: Annotated[tuple[str, ...], FILES] = ()
    by: Annotated[tuple[str, ...] | None, NAMES] = None
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    known: KnownOptions = field(default_factory=KnownOptions)
    trigger: Annotated[TriggerOptions, FLAT] = field(default_factory=TriggerOptions)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)
    seed: int = 0
    ra: RaConfig = REACTIVATIONS["ra"].defaults
    lmc: LmcConfig = REACTIVATIONS["lmc"].defaults
    wba: PerturbationConfig = REACTIVATIONS["wba"].defaults
    bec: BecConfig = REACTIVATIONS["bec"].defaults
    qra: QraConfig = REACTIVATIONS["qra"].defaults
    bba: BbaConfig = REACTIVATIONS["bba"].defaults
    ta: PerturbationConfig = REACTIVATIONS["ta"].defaults

    def __post_init__(self):
        check_seed("seed", self.seed)
        chosen = self.choose()
        if len(set(self.by or ())) < len(self.by or ()):
            raise ConfigError(f"--by {' '.join(self.by or ())}: an attempt is named twice; name each once")
        for each in chosen:
            if lacking := self.lacks(each):
                raise ConfigError(
                    f"--by {each.name}: {each.title} needs {' and '.join(f'--{need}' for need in lacking)}; give that, "
                    f"or leave {each.name} out"
                )

    def lacks(self, attempt: Reactivation) -> tuple[str, ...]:
        """The networks that an attempt needs and that are not given."""
        return tuple(need for need in attempt.needs if not getattr(self, need))

    def choose(self) -> tuple[Reactivation, ...]:
        """The attempts to make.

        Raises:
          ConfigError: none is named, or there is none of a name.
        """
        if self.by is None:
            return tuple(each for each in REACTIVATIONS.values() if each.usual and not self.lacks(each))
        if not self.by:
            raise ConfigError(f"--by: no attempt is given; choose among {', '.join(REACTIVATIONS)}")
        return tuple(map(find_reactivation, self.by))

    def plain(self) -> dict[str, Any]:
        """Everything that decides the outcome, as a preset has it: the settings of the attempts that are made alone."""
        chosen = tuple(each.name for each in self.choose())
        values = {name: value for name, value in to_plain(self).items() if name not in REACTIVATIONS or name in chosen}
        values.pop("out", None)
        return {**values, "by": list(chosen)}


def tell_untried(options: ReactivationOptions, unlike: tuple[Reactivation, ...]) -> tuple[str, ...]:
    """The attempts that were not made though nothing else was asked for, and why; some since networks are unlike."""
    if options.by is not None:
        return ()
    told = []
    for each in REACTIVATIONS.values():
        lacking = options.lacks(each)
        if lacking:
            told.append(f"{each.title} was not tried: it needs {' and '.join(f'--{need}' for need in lacking)}.")
        elif each in unlike:
            told.append(f"{each.title} was not tried: it needs networks of one architecture, width and normalisation.")
        elif not each.usual:
            told.append(f"{each.title} was not tried, because it takes long: --by {each.name} tries it.")
    return tuple(told)

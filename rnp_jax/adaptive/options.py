"""The options of adaptive trainings: which one, and its settings."""

from dataclasses import dataclass, field, fields
from typing import Literal

from rnp_jax.adaptive.embedding import Embedding
from rnp_jax.adaptive.grond import Grond
from rnp_jax.adaptive.lipschitz import Lipschitz
from rnp_jax.adaptive.sbl import Sbl
from rnp_jax.adaptive.unlearn_aware import UnlearnAware
from rnp_jax.errors import ConfigError
from rnp_jax.training.adaptation import Adaptation


@dataclass(frozen=True)
class AdaptiveOptions:
    """How an attacker trains who knows the defenses. Each method has a control: the same run with its strength at 0.

    Attributes:
      method: adaptive training: ``grond`` flattens channels whose Lipschitz or Hölder scores stand out (against clp
        and holder), ``lipschitz`` penalises them, ``unlearn_aware`` foresees unlearning (against rnp, tsbd and ulrl),
        ``sbl`` ends in a basin that clean tuning does not leave (against ft, nad and ft_sam), ``embedding`` mixes the
        features of poisoned and clean images. By default the victim is trained plainly.
      grond: settings of Grond.
      lipschitz: settings of the Lipschitz penalty.
      unlearn_aware: settings of the training that foresees unlearning.
      sbl: settings of SBL.
      embedding: settings of the adaptive embedding.
    """

    method: Literal["grond", "lipschitz", "unlearn_aware", "sbl", "embedding"] | None = None
    grond: Grond = field(default_factory=Grond)
    lipschitz: Lipschitz = field(default_factory=Lipschitz)
    unlearn_aware: UnlearnAware = field(default_factory=UnlearnAware)
    sbl: Sbl = field(default_factory=Sbl)
    embedding: Embedding = field(default_factory=Embedding)


def choose_adaptation(options: AdaptiveOptions) -> Adaptation | None:
    """The chosen training with its settings; None for plain training.

    Raises:
      ConfigError: settings of another training, which nothing reads.
    """
    default, others = AdaptiveOptions(), [each.name for each in fields(AdaptiveOptions) if each.name != "method"]
    unread = [
        f"--adaptive.{name.replace('_', '-')}"
        for name in others
        if name != options.method and getattr(options, name) != getattr(default, name)
    ]
    if unread:
        raise ConfigError(
            f"settings of {', '.join(unread)}: not read with --adaptive.method {options.method}; remove them, or "
            "change --adaptive.method"
        )
    return None if options.method is None else getattr(options, options.method)

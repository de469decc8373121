"""What every attempt is given: the networks, the attacker's images, and what is measured on.

Glossary of shapes: N images that the attacker has, M triggered ones among the test images.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from rnp_jax import masks
from rnp_jax.attacks import TriggeredSet
from rnp_jax.defenses.method import Keep, Task, compute_anew
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.measure import Measured, measure_variants
from rnp_jax.evaluation.metrics import Proportion, known_share
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Network
from rnp_jax.reactivation.attempt import Outcome
from rnp_jax.types import Batch, Progress, Variables

WATCHED = 500
"""Triggered test images, at most, on which the way to an outcome is followed; the outcome is measured on all."""


class Party(NamedTuple):
    """A network and its weights, filter masks baked into them."""

    network: Network
    variables: Variables

    @classmethod
    def of(cls, network: Network, variables: Variables) -> "Party":
        """The network with its masks baked."""
        return cls(network, masks.bake(variables, network.placement))


@dataclass(frozen=True, eq=False)
class Problem:
    """A network said to be purified, and what an attacker and a judge have.

    Attributes:
      purified: the network in question.
      original: the backdoored network that it was made from.
      reference: a clean network, on which every attempt is repeated as a floor.
      surrogates: further purified networks, which an attacker has instead of this one.
      clean: the attacker's clean training images, uint8 [N, H, W, C] and int32 [N].
      triggered: those of them that the trigger is to turn, with the trigger on.
      test: clean test images.
      judged: those of them that the trigger is to turn, with the trigger on [M].
      target: the one label that the attacker wants; None without one.
      key: of everything random.
      batch_size: images a batch of the measurement.
      progress: called after every epoch.
      keep: gives what the longer stages compute.
      timing: seconds by stage.
    """

    purified: Party
    original: Party | None
    reference: Party | None
    surrogates: tuple[Party, ...]
    clean: Batch
    triggered: TriggeredSet
    test: Batch
    judged: TriggeredSet
    target: int | None
    key: jax.Array
    batch_size: int | None = None
    progress: Progress | None = None
    keep: Keep = compute_anew
    timing: dict[str, float] = field(default_factory=dict)

    @property
    def sides(self) -> dict[str, Party]:
        """What an attempt is made on, by its role: the purified network, and the clean one where it is given."""
        given = {"purified": self.purified, "reference": self.reference}
        return {role: party for role, party in given.items() if party is not None}

    @contextmanager
    def work_on(self, party: Party, name: str) -> Iterator[Task]:
        """A task on one network, its stages and bars under ``name``; their seconds are the problem's."""
        named = None if self.progress is None else _rename(self.progress, name)
        task = Task(party.network, party.variables, self.clean, self.key, progress=named, keep=self.keep)
        yield task
        for stage, seconds in task.timing.items():
            self.timing[stage] = self.timing.get(stage, 0.0) + seconds

    def need(self, role: Literal["original", "reference"], attempt: str) -> Party:
        """A network that an attempt cannot do without.

        Raises:
          ConfigError: it is not given.
        """
        party: Party | None = getattr(self, role)
        if party is None:
            raise ConfigError(f"--by {attempt}: it needs --{role}; give that file, or leave {attempt} out")
        return party

    def measure(self, party: Party) -> Measured:
        """ACC, ASR and RA of a network on all test images."""
        variants = [masks.filters(party.variables["masks"])]
        (measured,) = measure_variants(
            party.network, party.variables, variants, self.test, self.judged, self.target, self.batch_size
        )
        return measured

    def judge(self, party: Party) -> Outcome:
        """ASR and ACC of a network that an attempt changed.

        The trigger always has images to turn, so ASR is known.
        """
        metrics = self.measure(party).metrics
        return Outcome(asr=metrics.asr, acc=metrics.acc)  # pyright: ignore[reportArgumentType]

    def count_turned(self, party: Party, images: Float[np.ndarray, "M H W C"]) -> Proportion:
        """ASR of images made of the triggered test images, in their order; pixels in [0, 1]."""
        batch = Batch(images, self.judged.wanted)
        return known_share(predict(party.network, party.variables, batch, self.batch_size).labels[0] == batch.labels)

    def seeded(self, number: int) -> "Problem":
        """The same with random numbers of its own."""
        return replace(self, key=jax.random.fold_in(self.key, number))


def spread(triggered: TriggeredSet, count: int) -> TriggeredSet:
    """At most ``count`` triggered images, evenly over their order."""
    total = len(triggered.labels)
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    return TriggeredSet(*(values[chosen] for values in triggered))


def are_alike(first: Party, second: Party) -> bool:
    """Whether the weights of two networks have the same names and shapes, and mean the same for images."""
    one, other = (jax.tree.map(np.shape, party.variables["params"]) for party in (first, second))
    scaled, alike = (np.asarray([party.network.mean, party.network.std]) for party in (first, second))
    return one == other and np.allclose(scaled, alike)


def check_alike(attempt: str, first: Party, second: Party, what: str) -> None:
    """Requires two networks of one structure.

    Args:
      attempt: which needs that.
      first: the one.
      second: the original.
      what: the first in words.

    Raises:
      ConfigError: they are of different architectures, sizes or normalisations.
    """
    if not are_alike(first, second):
        raise ConfigError(
            f"--by {attempt}: {what} and the original network have weights of different shapes or another "
            "normalisation, and this attempt compares weight with weight: give files of one architecture, width and "
            f"normalisation, or leave {attempt} out of --by"
        )


def _rename(progress: Progress, name: str) -> Progress:
    return lambda _, epoch, most, figures: progress(name, epoch, most, figures)

"""What a defense is given and what it is judged on, as the network reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import numpy as np

from rnp_jax import masks
from rnp_jax.attacks import TriggeredSet
from rnp_jax.data import Dataset
from rnp_jax.errors import DefenseError
from rnp_jax.evaluation.measure import Measured, measure_checkpoints, measure_variants
from rnp_jax.pipeline.images import draw_evenly
from rnp_jax.pipeline.suspect import Suspect, read_features
from rnp_jax.pipeline.trigger import Trigger
from rnp_jax.types import Batch, Variables

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class EvaluationSets:
    """Clean and triggered test images, or their features.

    Attributes:
      clean: every test image.
      triggered: those with the trigger on; None where it is not known.
      target: the one label the attacker wants; None without one.
    """

    clean: Batch
    triggered: TriggeredSet | None
    target: int | None

    def part(self, count: int) -> "EvaluationSets":
        """At most ``count`` clean and as many triggered images, each evenly from the classes."""
        chosen = draw_evenly(self.clean.labels, count)
        part = replace(self, clean=Batch(*(values[chosen] for values in self.clean)))
        if self.triggered is None:
            return part
        chosen = draw_evenly(self.triggered.labels, count)
        return replace(part, triggered=TriggeredSet(*(values[chosen] for values in self.triggered)))

    def measure(
        self,
        model: Suspect,
        variables: Variables,
        variants: Sequence[masks.Filters] | None = None,
        batch_size: int | None = None,
    ) -> list[Measured]:
        """Figures of each variant's filter masks; by default of the variables' own."""
        variants = [masks.filters(variables["masks"])] if variants is None else variants
        return measure_variants(model.network, variables, variants, self.clean, self.triggered, self.target, batch_size)


def measure_within_memory(
    sets: EvaluationSets, model: Suspect, variables: Variables, batch_size: int
) -> tuple[Measured, int]:
    """The figures, with half the images a batch as often as memory runs out; and how many they were in the end.

    Raises:
      DefenseError: one image at a time is too much.
    """
    return _halve_until_it_fits(lambda size: sets.measure(model, variables, batch_size=size)[0], batch_size)


def can_measure_together(cases: Sequence[tuple[Suspect, EvaluationSets]]) -> bool:
    """Whether these models are one network with different weights, judged on the same clean images."""
    (first, sets), *others = cases
    return all(
        model.network == first.network
        and all(one is own or np.array_equal(one, own) for one, own in zip(sets.clean, each.clean, strict=True))
        for model, each in others
    )


def measure_together(cases: Sequence[tuple[Suspect, EvaluationSets]], batch_size: int) -> tuple[list[Measured], int]:
    """The figures of several models, for which ``can_measure_together`` holds, on all devices at once.

    Batches are halved as in ``measure_within_memory``.

    Raises:
      DefenseError: one image at a time is too much.
    """
    models, sets = zip(*cases, strict=True)
    return _halve_until_it_fits(
        lambda size: measure_checkpoints(
            models[0].network,
            [model.variables for model in models],
            sets[0].clean,
            [each.triggered for each in sets],
            [each.target for each in sets],
            size,
        ),
        batch_size,
    )


def _halve_until_it_fits(measure: Callable[[int], Found], batch_size: int) -> tuple[Found, int]:
    while True:
        try:
            return measure(batch_size), batch_size
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if batch_size == 1:
                raise DefenseError("out of memory with one image per batch: use a larger device") from error
            batch_size //= 2


def read_sets(
    model: Suspect, data: Batch, holdout: Batch | None, test: Dataset, trigger: Trigger | None
) -> tuple[Batch, Batch | None, EvaluationSets]:
    """What the model reads of a defender's images, of those held out, and of the test images."""
    held = None if holdout is None else model.read(holdout)
    return model.read(data), held, evaluation_sets(model, test, trigger)


def evaluation_sets(model: Suspect, test: Dataset, trigger: Trigger | None) -> EvaluationSets:
    """What the model reads of the test images, features computed once."""
    clean = Batch(*map(np.asarray, model.read(test.batch)))
    if trigger is None:
        return EvaluationSets(clean, None, None)
    triggered = trigger.test
    if model.extractor is not None:
        triggered = triggered._replace(images=read_features(model.extractor, triggered.images))
    return EvaluationSets(clean, triggered, trigger.goal.one_target)

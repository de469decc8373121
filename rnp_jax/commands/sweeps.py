"""The report's sweeps: what pruning more or less would have given."""

from collections.abc import Sequence

import numpy as np

from rnp_jax import masks
from rnp_jax.attacks import TriggeredSet
from rnp_jax.checkpoints import Model
from rnp_jax.commands.inputs import Trigger, draw_evenly
from rnp_jax.commands.result import as_proportion
from rnp_jax.data import Dataset
from rnp_jax.defenses import PruneConfig, Pruned
from rnp_jax.defenses.prune import THRESHOLDS, rank
from rnp_jax.defenses.result import Candidates
from rnp_jax.evaluation.measure import Measured, measure_variants
from rnp_jax.evaluation.metrics import share
from rnp_jax.evaluation.predict import predict_variants
from rnp_jax.report.schema import Sweep, SweepPoint
from rnp_jax.types import Batch

_POINTS = 20  # of a ranking that has no thresholds


def measure_sweeps(
    model: Model,
    defended: Pruned,
    holdout: Batch | None,
    test: Dataset,
    trigger: Trigger | None,
    images: int,
    config: PruneConfig,
) -> tuple[Sweep, ...]:
    """The release's ranking at its thresholds, and the configured one around the chosen number.

    Measured on at most ``images`` clean and as many triggered test images, each evenly from the classes.
    """
    if images <= 0:
        return ()
    part = test.subset(draw_evenly(test.labels, images))
    triggered = None
    if trigger is not None:
        chosen = draw_evenly(trigger.test.labels, images)
        triggered = TriggeredSet(*(values[chosen] for values in trigger.test))
    release = rank("release", defended.values, defended.history["recover"]["masks"])
    rows: dict[str, list[tuple[float | None, int]]] = {
        "release": [(float(t), release.count_at(float(t))) for t in THRESHOLDS]
    }
    orders = {"release": release}
    if config.ranking != "release":
        total, chosen = len(defended.candidates.order), defended.choice.count
        reach = min(total, max(2 * chosen, release.count_at(0.0), _POINTS))
        counts = sorted({*(round(x) for x in np.linspace(0, reach, _POINTS)), chosen})
        rows[config.ranking] = [(None, count) for count in counts]
        orders[config.ranking] = defended.candidates

    def sweep(ranking: str) -> Sweep:
        counts = [count for _, count in rows[ranking]]
        variants = _variants(defended, orders[ranking], counts)
        target = None if trigger is None else trigger.goal.one_target
        measured = measure_variants(model.network, defended.variables, variants, part.batch, triggered, target)
        held = None if holdout is None else predict_variants(model.network, defended.variables, variants, holdout)
        points = []
        for i, (threshold, count) in enumerate(rows[ranking]):
            right = None if held is None or holdout is None else share(held.labels[i] == holdout.labels)
            loss = None if held is None else float(held.loss[i].mean())
            points.append(_point(threshold, count, measured[i], right, loss))
        return Sweep(ranking=ranking, points=tuple(points))

    return tuple(sweep(ranking) for ranking in rows)


def _variants(defended: Pruned, candidates: Candidates, counts: Sequence[int]) -> list[masks.Filters]:
    like = masks.filters(defended.variables["masks"])
    return [masks.keep(like, candidates.order[:count]) for count in counts]


def _point(threshold, count: int, measured: Measured, right, loss: float | None) -> SweepPoint:
    metrics = measured.metrics
    return SweepPoint(
        threshold=threshold,
        pruned=count,
        holdout_acc=as_proportion(right),
        holdout_loss=loss,
        acc=as_proportion(metrics.acc),
        acc_without_target=as_proportion(metrics.acc_without_target),
        asr=as_proportion(metrics.asr),
        ra=as_proportion(metrics.ra),
    )

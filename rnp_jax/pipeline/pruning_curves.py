"""The report's pruning curves: what pruning more or less would have given."""

from collections.abc import Sequence

import numpy as np

from rnp_jax import masks
from rnp_jax.defenses import Defended
from rnp_jax.defenses.prune import THRESHOLDS
from rnp_jax.defenses.result import Candidates
from rnp_jax.evaluation.metrics import Metrics, Proportion, known_share
from rnp_jax.evaluation.predict import predict_variants
from rnp_jax.pipeline.sets import EvaluationSets
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.report.schema import Oracle, Sweep, SweepPoint
from rnp_jax.types import Batch, Variables

ORACLE_BUDGET = 0.03
"""ACC that the oracle's operating point may cost."""

_POINTS = 20  # of a ranking that has no thresholds


def measure_curves(
    model: Suspect, defended: Defended, holdout: Batch | None, sets: EvaluationSets, images: int
) -> tuple[Sweep, ...]:
    """The defense's ranking around the chosen number; for RNP, the release's at its thresholds too.

    Measured on at most ``images`` clean and as many triggered test images, each evenly from the classes.
    """
    if images <= 0 or not defended.prunes or defended.network is not None:
        return ()
    part, variables = sets.part(images), masks.bake(model.variables, model.network.placement)
    rows: dict[str, list[tuple[float | None, int]]] = {}
    orders, chosen, ranking = {}, defended.choice.pruned, defended.choice.ranking
    reach = max(2 * chosen, _POINTS)
    if (release := defended.release) is not None:
        rows["release"] = [(float(t), release.count_at(float(t))) for t in THRESHOLDS]
        orders["release"] = release
        reach = max(reach, release.count_at(0.0))
    if ranking not in rows:
        counts = np.linspace(0, min(len(defended.candidates.order), reach), _POINTS)
        rows[ranking] = [(None, count) for count in sorted({*(round(x) for x in counts), chosen})]
        orders[ranking] = defended.candidates

    def sweep(ranking: str) -> Sweep:
        variants = _variants(variables, orders[ranking], [count for _, count in rows[ranking]])
        measured = part.measure(model, variables, variants)
        held = None if holdout is None else predict_variants(model.network, variables, variants, holdout)
        points = []
        for i, (threshold, count) in enumerate(rows[ranking]):
            right = None if held is None or holdout is None else known_share(held.labels[i] == holdout.labels)
            loss = None if held is None else float(held.loss[i].mean())
            point = SweepPoint(threshold=threshold, pruned=count, holdout_acc=right, holdout_loss=loss)
            points.append(point.model_copy(update=measured[i].metrics.shares))
        return Sweep(ranking=ranking, points=tuple(points))

    return tuple(sweep(ranking) for ranking in rows)


def _variants(variables: Variables, candidates: Candidates, counts: Sequence[int]) -> list[masks.Filters]:
    like = masks.filters(variables["masks"])
    return [masks.keep(like, candidates.order[:count]) for count in counts]


def find_oracle(sweeps: tuple[Sweep, ...], budget: float) -> Oracle | None:
    """The point of any sweep with the lowest ASR whose ACC is within the budget of the unpruned network's."""
    points = [
        (point.asr.value, _oracle(sweep.ranking, point, point.acc, budget))
        for sweep in sweeps
        for point in sweep.points
        if point.asr and point.acc
    ]
    best_acc = max((oracle.metrics.acc.value for _, oracle in points if oracle.pruned == 0), default=None)
    if best_acc is None:
        return None
    allowed = [(asr, oracle) for asr, oracle in points if oracle.metrics.acc.value >= best_acc - budget]
    return min(allowed, key=lambda item: (item[0], item[1].pruned))[1]


def _oracle(ranking: str, point: SweepPoint, acc: Proportion, budget: float) -> Oracle:
    figures = Metrics(acc=acc, acc_without_target=point.acc_without_target, asr=point.asr, ra=point.ra)
    return Oracle(ranking=ranking, threshold=point.threshold, pruned=point.pruned, metrics=figures, budget=budget)

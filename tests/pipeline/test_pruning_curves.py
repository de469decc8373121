"""The pruning curves of one finished run, against its masks as written to disk."""

import jax
import numpy as np
import pytest

from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions
from rnp_jax.defenses import ClpConfig, Defended, ThresholdConfig, clp
from rnp_jax.defenses.prune import THRESHOLDS
from rnp_jax.defenses.result import NO_CANDIDATES, Candidates, Choice
from rnp_jax.evaluation.metrics import Proportion
from rnp_jax.evaluation.predict import predict
from rnp_jax.masks import filters, flatten
from rnp_jax.pipeline.images import open_data, open_images
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.pruning_curves import find_oracle, measure_curves
from rnp_jax.pipeline.sets import evaluation_sets, read_sets
from rnp_jax.pipeline.trigger import open_trigger
from rnp_jax.report import schema
from rnp_jax.store import load_tree
from tests.runs import CHECKPOINT


@pytest.fixture(scope="module")
def sweeps(defended):
    return {sweep.ranking: sweep.points for sweep in defended.result.sweeps}


def test_the_release_s_sweep_has_its_thresholds(defended, sweeps):
    row = np.round(flatten(load_tree(defended.folder / "masks")[0]["recovered"]).astype(np.float64), 4)
    assert [(each.threshold, each.pruned) for each in sweeps["release"]] == [
        (threshold, (row <= threshold).sum()) for threshold in THRESHOLDS
    ]


def test_the_configured_ranking_is_swept_around_the_choice(defended, sweeps):
    counts = [each.pruned for each in sweeps["damage"]]
    assert counts[0] == 0
    assert counts == sorted(set(counts))
    assert defended.result.choice.pruned in counts


def test_every_point_is_measured_on_twenty_images_each(defended, sweeps):
    for points in sweeps.values():
        assert {(each.acc.total, each.asr.total, each.holdout_acc.total) for each in points} == {(20, 20, 20)}
        assert all(np.isfinite(each.holdout_loss) for each in points)
    chosen = next(each for each in sweeps["damage"] if each.pruned == defended.result.choice.pruned)
    assert chosen.holdout_acc == defended.result.choice.holdout_acc_after
    assert defended.result.oracle == find_oracle(defended.result.sweeps, 0.03)


def test_images_are_drawn_evenly_where_classes_come_one_after_another():
    """Image folders are sorted by class: the first images alone would be of one class."""
    model = open_model(str(CHECKPOINT), SourceOptions(), ComputeOptions())
    test = open_data(model, DataOptions(test_images=100), "test")
    test = test.subset(np.argsort(test.labels, kind="stable"))
    trigger = open_trigger(model, TriggerOptions(attack="badnets", mapping="all_to_all"), test)
    assert trigger is not None
    row = np.ones(sum(len(value) for value in filters(model.variables["masks"]).values()))
    none = Candidates(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    kept = filters(model.variables["masks"])
    release = Candidates(np.arange(len(row)), row, np.full(len(row), np.nan))
    choice = Choice(pruned=0, rule="none", ranking="release")
    defended = Defended(model.variables, kept, "mask", none, choice, release)
    sets = evaluation_sets(model, test, trigger)
    (sweep,) = measure_curves(model, defended, None, sets, 20)
    assert measure_curves(model, defended, None, sets, 0) == ()
    rows = [np.flatnonzero(test.labels == label)[:2] for label in range(10)]
    clean = test.subset(np.concatenate(rows))
    expected = predict(model.network, model.variables, clean.batch, 20).labels[0]
    for each in sweep.points:
        assert each.acc is not None
        assert each.asr is not None
        assert each.acc.count == (expected == clean.labels).sum()
        assert each.asr.count == 2  # the nines, which the backdoor calls zeros
        assert each.holdout_acc is None


def test_a_ranking_without_masks_is_swept_by_number_alone(head):
    """Scores have no thresholds; the points reach twice as far as the choice, and hold it."""
    model = open_model(str(head), SourceOptions(), ComputeOptions())
    data, holdout, test = open_images(model, DataOptions(test_images=30), DefenseSetOptions(size=20, holdout=0.5))
    data, holdout, sets = read_sets(model, data, holdout, test, open_trigger(model, TriggerOptions(), test))
    config = ClpConfig(ThresholdConfig("number", number=3))
    pruned = clp(model.network, model.variables, data, jax.random.key(0), config, holdout=holdout)
    (sweep,) = measure_curves(model, pruned, holdout, sets, 20)
    counts = [point.pruned for point in sweep.points]
    assert (sweep.ranking, counts[0], counts[-1]) == ("clp", 0, 20)
    assert pruned.choice.pruned == 6
    assert 6 in counts
    chosen = sweep.points[counts.index(6)]
    (measured,) = sets.part(20).measure(model, pruned.variables)
    assert chosen.asr == measured.metrics.asr
    assert chosen.acc == measured.metrics.acc
    assert chosen.holdout_acc == pruned.choice.holdout_acc_after
    assert {point.threshold for point in sweep.points} == {None}


def test_where_nothing_of_the_model_is_pruned_there_are_no_curves(head):
    """All weights were tuned, or another network has taken the model's place."""
    model = open_model(str(head), SourceOptions(), ComputeOptions())
    _, _, test = open_images(model, DataOptions(test_images=30), DefenseSetOptions(size=20, holdout=0.5))
    sets = evaluation_sets(model, test, open_trigger(model, TriggerOptions(), test))
    tuned = Defended(model.variables, {}, "weights", NO_CANDIDATES, Choice(pruned=0, rule="tuned"))
    assert measure_curves(model, tuned, None, sets, 20) == ()
    anew = Defended(model.variables, {}, "score", NO_CANDIDATES, Choice(pruned=0, rule="none"), network=model.network)
    assert measure_curves(model, anew, None, sets, 20) == ()


def point(pruned: int, acc: int, asr: int | None) -> schema.SweepPoint:
    return schema.SweepPoint(
        threshold=None,
        pruned=pruned,
        acc=Proportion.of(acc, 100),
        asr=None if asr is None else Proportion.of(asr, 100),
    )


def test_the_oracle_takes_the_lowest_asr_within_the_budget_and_then_the_fewest_filters():
    release = schema.Sweep(ranking="release", points=(point(0, 90, 100), point(9, 87, 8), point(20, 80, 0)))
    damage = schema.Sweep(ranking="damage", points=(point(0, 90, 100), point(5, 88, 7), point(4, 87, 7)))
    oracle = find_oracle((release, damage), 0.03)
    assert oracle is not None
    assert (oracle.ranking, oracle.pruned, oracle.metrics.asr) == ("damage", 4, Proportion.of(7, 100))
    assert oracle.budget == 0.03
    generous = find_oracle((release, damage), 0.1)
    assert generous is not None
    assert (generous.ranking, generous.pruned) == ("release", 20)


def test_without_asr_there_is_no_oracle():
    assert find_oracle((schema.Sweep(ranking="release", points=(point(0, 90, None),)),), 0.03) is None
    assert find_oracle((), 0.03) is None

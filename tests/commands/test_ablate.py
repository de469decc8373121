"""An ablation's cells against the same numbers made by hand."""

import os

import numpy as np
import pytest
from scipy.stats import spearmanr

from rnp_jax import masks
from rnp_jax.cli import main
from rnp_jax.commands.ablate import rank_correlation
from rnp_jax.commands.arguments import parse
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions
from rnp_jax.defenses import HolderConfig, ThresholdConfig, holder_scores
from rnp_jax.defenses.scores import prune_by_score, scores_by_filter
from rnp_jax.pipeline.images import open_images
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.sets import EvaluationSets, read_sets
from rnp_jax.pipeline.trigger import open_trigger
from rnp_jax.report.ablation import read_ablation
from tests.runs import CHECKPOINT, ROOT, SMALL

pytestmark = pytest.mark.slow

ABLATE = (
    *("--alphas", "0.5", "1", "--radii", "0.2", "0.01,1", "--norms", "2", "--scopes", "feature", "local"),
    *("--rules", "std", "number", "--holder.threshold.rule", "number"),
    *("--holder.threshold.number", "3", "--holder.threshold.u", "1.5"),
    *("--defense.size", "40", "--defense.holdout", "0.5", *SMALL),
)


@pytest.fixture(scope="module")
def measured() -> list:
    return []


@pytest.fixture(scope="module")
def folder(head, measured, tmp_path_factory):
    """The ablation of the head; ``measured`` lists the variables that were evaluated."""
    out = tmp_path_factory.mktemp("ablate") / "out"
    original = EvaluationSets.measure

    def measure(self, model, variables, *args, **kwargs):
        measured.append(variables)
        return original(self, model, variables, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvaluationSets, "measure", measure)
        assert main(["ablate", str(head), *ABLATE, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def cells(folder):
    return {
        (cell.scope, cell.radii, cell.alpha, cell.rule): cell for cell in read_ablation(folder / "ablation.json").cells
    }


def test_everything_is_written(folder):
    assert sorted(os.listdir(folder)) == [
        "ablation.csv",
        "ablation.json",
        "ablation.md",
        "config.yaml",
        "figures",
        "report.html",
    ]


def test_every_combination_is_a_cell(cells):
    assert list(cells) == [
        (scope, radii, alpha, rule)
        for scope in ("feature", "local")
        for radii in ("0.2", "0.01, 1")
        for alpha in (0.5, 1.0)
        for rule in ("std", "number")
    ]


def test_with_one_radius_the_exponent_changes_nothing(cells):
    for (scope, radii, alpha, rule), cell in cells.items():
        if radii == "0.2":
            assert cell.rank_correlation == pytest.approx(1, abs=1e-12)
            assert cell.model_copy(update={"alpha": 1.0}) == cells[scope, radii, 1.0, rule]
        elif alpha == 1.0:
            assert cell.rank_correlation == pytest.approx(1, abs=1e-12)


@pytest.fixture(scope="module")
def by_hand(head):
    """Model, what it reads, and its scores for one setting."""
    model = open_model(str(head), SourceOptions(), ComputeOptions())
    data, holdout, test = open_images(model, DataOptions(test_images=100), DefenseSetOptions(size=40, holdout=0.5))
    data, holdout, sets = read_sets(model, data, holdout, test, open_trigger(model, TriggerOptions(), test))

    def score(**settings) -> masks.Filters:
        found = holder_scores(model.network, model.variables, data.images, HolderConfig(norm="2", **settings))
        return scores_by_filter(model.network, model.variables, found)

    return model, holdout, sets, score


@pytest.mark.parametrize("scope", ["feature", "local"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_cells_are_what_the_settings_give(scope, alpha, cells, by_hand):
    model, holdout, sets, score = by_hand
    scores, reference = (score(radii=(0.01, 1.0), scope=scope, alpha=each) for each in (alpha, 1.0))
    correlation = np.mean([spearmanr(scores[layer], reference[layer]).statistic for layer in scores])
    for threshold in (ThresholdConfig("std", u=1.5), ThresholdConfig("number", u=1.5, number=3)):
        pruned = prune_by_score(
            model.network,
            model.variables,
            score(radii=(0.01, 1.0), scope=scope, alpha=alpha),
            threshold,
            holdout=holdout,
        )
        (after,) = sets.measure(model, pruned.variables)
        cell = cells[scope, "0.01, 1", alpha, threshold.rule]
        assert (cell.acc, cell.asr, cell.ra) == tuple(getattr(after.metrics, name) for name in ("acc", "asr", "ra"))
        assert cell.pruned == pruned.choice.pruned
        assert cell.rank_correlation == pytest.approx(correlation)
        assert threshold.rule == "std" or cell.pruned == 6


def test_each_set_of_pruned_units_is_measured_once(measured, cells):
    sets = [masks.flatten(masks.filters(variables["masks"])).tobytes() for variables in measured]
    assert len(sets) == len(set(sets)) < len(cells)


@pytest.mark.parametrize(("second", "expected"), [([1, 2, 3, 4], 1), ([9, 5, 3, 0], -1), ([2, 2, 2, 2], None)])
def test_correlation_of_ranks(second, expected):
    found = rank_correlation(np.array([0.1, 0.2, 5.0, 7.0]), np.array(second, float))
    assert found == (expected if expected is None else pytest.approx(expected))


def test_correlation_of_ranks_with_ties():
    first, second = np.array([0.0, 0.0, 1.0, 2.0, 2.0]), np.array([1.0, 3.0, 3.0, 2.0, 9.0])
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)


@pytest.mark.parametrize("preset", ["holder_digits", "holder_cifar10"])
def test_a_preset_of_defend_gives_the_settings_that_do_not_vary(preset):
    _, given = parse("ablate", [str(CHECKPOINT), "--config", str(ROOT / "configs" / f"{preset}.yaml")])
    _, defend = parse("defend", [str(CHECKPOINT), "--config", str(ROOT / "configs" / f"{preset}.yaml")])
    assert given.holder == defend.holder
    assert given.defense == defend.defense
    assert given.holder.threshold.accuracy_budget == 0.03


def test_a_finished_folder_is_left_alone(folder, head, fails):
    assert "already contains a finished result" in fails("ablate", head, *ABLATE, "--out", folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--radii", "0.1;0.2"), "--radii '0.1;0.2': give numbers with commas between, such as 0.05,0.1,0.2"),
        (("--radii", ""), "--radii '': give numbers"),
        (("--radii", "0.1,-1"), "radii"),
        (("--radii",), "--alphas, --radii, --norms, --scopes and --rules: give one or more of each"),
        (("--rules",), "give one or more of each"),
        (("--alphas", "0"), "alpha"),
        (("--rules", "number"), "rule 'number' with number None"),
        (("--rules", "budget", "--defense.holdout", "0"), "--rules budget needs held-out images"),
        (
            ("--holder.sensitivity.alpha", "0.7"),
            "--holder.sensitivity.alpha is varied, and 0.7 is not one of its values: add it to --alphas",
        ),
        (("--holder.sensitivity.radii", "0.7"), "(0.7,) is not one of its values: add it to --radii"),
        (("--rules", "mad", "--holder.threshold.rule", "std"), "std is not one of its values: add it to --rules"),
        (("--data", "digit"), "no data set, file or folder 'digit'"),
    ],
)
def test_errors_come_before_the_work_and_leave_nothing_behind(options, message, fails, tmp_path):
    assert message in fails("ablate", CHECKPOINT, *options, "--out", tmp_path / "out")
    assert os.listdir(tmp_path) == []

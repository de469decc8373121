"""The threshold and what is said of it, from scores whose truth is planted."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from rnp_jax.detection.calibration import (
    Calibration,
    ScoredModel,
    auroc,
    bootstrap_auroc,
    calibrate,
    choose_thresholds,
    find_bundled,
    name_architecture,
    read_calibration,
    write_calibration,
)
from rnp_jax.errors import DataError
from rnp_jax.models import Architecture

RESNET = Architecture("resnet18", 10, 8)
SETTINGS = {"images": 100, "modes": ["train"]}


def models(clean=(0.339, 0.32, 0.34, 0.36), backdoored=(0.6, 0.9, 0.7, 0.8), target=1) -> list[ScoredModel]:
    """Named so that the order of the scores is the order of the names."""
    return [ScoredModel(f"c{i}", None, None, score, 0) for i, score in enumerate(clean)] + [
        ScoredModel(f"b{i}", "badnets", target, score, 1 if i % 2 else 0) for i, score in enumerate(backdoored)
    ]


def fit(known: list[ScoredModel]) -> Calibration:
    return calibrate(known, architecture=RESNET, data="digits", images=200, settings=SETTINGS)


def test_halves_alternate_and_only_the_first_chooses():
    found = fit(models())
    roles = {each.name: each.role for each in found.models}
    assert [roles[f"{kind}{i}"] for kind in "cb" for i in range(4)] == ["calibration", "held-out"] * 4
    assert found.threshold == choose_thresholds(np.asarray([0.339, 0.34]), np.asarray([0.6, 0.7]))[0]
    assert found.clean_below == 0.34
    moved = fit(models(clean=(0.339, 0.9, 0.34, 0.1), backdoored=(0.6, 0.0, 0.7, 0.0)))
    assert (moved.threshold, moved.clean_below) == (found.threshold, found.clean_below)


def test_what_is_measured_is_of_the_other_half():
    held_out = fit(models(clean=(0.339, 0.32, 0.34, 0.9), backdoored=(0.6, 0.9, 0.7, 0.2))).held_out
    counts = {name: (each.count, each.total) for name, each in vars(held_out).items() if "auroc" not in name}
    assert counts == {
        "detected": (1, 2), "false_alarms": (1, 2), "missed": (1, 2), "cleared": (1, 2), "labels_right": (2, 2),
    }  # fmt: skip
    assert held_out.auroc == pytest.approx((0.5 + 1 + 0 + 0) / 4)


def test_backdoors_that_hardly_work_are_in_neither_half():
    weak = [replace(each, name=f"weak {each.name}", role="weak", score=0.0) for each in models()[4:]]
    found = fit([*models(), *weak])
    assert found.threshold == fit(models()).threshold
    assert found.held_out == fit(models()).held_out
    assert sum(each.role == "weak" for each in found.models) == 4


def test_labels_of_backdoors_without_one_target_are_not_judged():
    assert fit(models(target=None)).held_out.labels_right is None


@pytest.mark.parametrize("known", [models(clean=(0.1, 0.2, 0.3)), models(backdoored=(0.9,)), []])
def test_too_few_models(known):
    with pytest.raises(DataError, match=r"clean and \d backdoored models: expected at least 4 of each"):
        fit(known)


scores = st.lists(st.floats(0, 1, width=16), min_size=2, max_size=12).map(np.asarray)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(scores, scores)
def test_no_clean_model_is_above_and_no_backdoored_one_below(clean, backdoored):
    threshold, below = choose_thresholds(clean, backdoored)
    assert not (clean > threshold).any()
    assert not (backdoored < below).any()
    assert below <= threshold


@settings(deadline=None, derandomize=True, max_examples=60)
@given(scores, scores)
def test_auroc_is_scikit_learn_s(low, high):
    truth = np.repeat([0, 1], [len(low), len(high)])
    assert auroc(low, high) == pytest.approx(roc_auc_score(truth, np.concatenate([low, high])))


def test_the_limit_is_the_share_of_new_clean_models_it_promises():
    """Eight normal scores choose it, a ninth exceeds it in one of a thousand draws."""
    rng = np.random.default_rng(0)
    chosen = [choose_thresholds(rng.normal(0, 1, 8), np.ones(2))[0] for _ in range(5000)]
    assert 1 <= (rng.normal(0, 1, 5000) > chosen).sum() <= 13


def test_the_bootstrap_interval_holds_the_figure_and_narrows_with_models():
    rng = np.random.default_rng(0)
    small, large = ((rng.normal(0, 1, n), rng.normal(1, 1, n)) for n in (10, 400))
    intervals = [bootstrap_auroc(*each, seed=0) for each in (small, large)]
    for (low, high), pair in zip(intervals, (small, large), strict=True):
        assert low < auroc(*pair) < high
    deviation = 0.76 * np.sqrt(1 / 400 / 3)  # of the order of the Mann-Whitney statistic's
    assert intervals[1][1] - intervals[1][0] < 4 * deviation * 2 < intervals[0][1] - intervals[0][0]
    assert bootstrap_auroc(*small, seed=0) == intervals[0]
    assert bootstrap_auroc(np.zeros(5), np.ones(5), seed=1) == (1.0, 1.0)


def test_architectures_without_a_width():
    assert name_architecture(Architecture("mlp", 3, 0, (("0", 3),), (1, 1, 6))) == "mlp"


def test_a_file_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "calibration.json"
    write_calibration(path, fit(models()))
    assert read_calibration(path) == fit(models())


@pytest.mark.parametrize("damage", ["lacks", "surplus", "no json", "nothing"])
def test_what_is_no_calibration(damage, tmp_path):
    path = tmp_path / "calibration.json"
    write_calibration(path, fit(models()))
    values = json.loads(path.read_text())
    if damage == "lacks":
        del values["threshold"]
    values |= {"more": 1} if damage == "surplus" else {}
    path.write_text("{" if damage == "no json" else json.dumps(values))
    if damage == "nothing":
        path.unlink()
    with pytest.raises(DataError, match="not a calibration of this version; make one with rnp-jax calibrate"):
        read_calibration(path)


@pytest.mark.parametrize("statistic", ["labels", "triggers"])
def test_the_bundled_calibration_is_whole_and_its_figures_are_its_models(statistic):
    found = find_bundled(RESNET, statistic)
    assert found is not None
    assert (found.data, found.statistic) == ("digits", statistic)
    half = [each for each in found.models if each.role == "calibration"]
    clean, backdoored = (np.asarray([m.score for m in half if bool(m.attack) == kind]) for kind in (False, True))
    assert (found.threshold, found.clean_below) == choose_thresholds(clean, backdoored)
    rest = [each for each in found.models if each.role == "held-out"]
    assert found.held_out.detected.count == sum(each.score > found.threshold for each in rest if each.attack)
    assert found.held_out.false_alarms.total == sum(each.attack is None for each in rest)
    assert sum(each.attack is None for each in found.models) >= 20
    assert sum(each.sha256 is not None for each in found.models) == 21, "those whose files are bundled"
    assert sum(each.attack is not None and each.role != "weak" for each in found.models) >= 20

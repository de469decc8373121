"""What is looked at, and what a doubt of the network leaves of a verdict."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rnp_jax.data import load
from rnp_jax.detection.calibration import name_architecture, plain_settings
from rnp_jax.detection.labels import LabelConfig
from rnp_jax.detection.signs import SignConfig
from rnp_jax.detection.verdict import Sign, grade_signs
from rnp_jax.pipeline import looking
from rnp_jax.pipeline.doubts import Doubt
from rnp_jax.pipeline.examination import Examination, TriggerSearch
from rnp_jax.pipeline.judging import AT_CHANCE
from rnp_jax.pipeline.looking import DetectionOptions, Searched, look
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.options import RunOptions
from rnp_jax.pipeline.run_log import RunLog
from tests.detection.test_calibration import fit, models

TRIGGERS = SimpleNamespace(success=np.zeros(10))
SHOWN = TriggerSearch(TRIGGERS, TRIGGERS.success)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def case(small_victim) -> Examination:
    options = RunOptions()
    model = open_model(str(small_victim), options.source, options.compute)
    images = load("digits", image_size=8).subset(np.arange(110))
    return Examination(model, images.batch, images, None, RunLog(quiet=True), {})


@pytest.fixture
def searched(monkeypatch) -> list:
    """The images searched on and measured on; the search itself finds label 3."""
    seen = []

    def search(log, network, variables, data, key, config, *, holdout):
        seen.append((len(data.labels), len(holdout.labels)))
        return Searched(None, None, data, holdout, 0.0)

    sign = Sign("search", "strong", (3,), "a small trigger", "Label 3 stands out.")
    monkeypatch.setattr(looking, "search_labels", search)
    monkeypatch.setattr(looking, "judge_triggers", lambda *_: sign)
    monkeypatch.setattr(looking, "as_recovered", lambda *_: TRIGGERS)
    return seen


@pytest.mark.parametrize(("recover", "recovered"), [("auto", {"original": SHOWN}), ("none", {})])
def test_without_a_calibration_the_triggers_of_the_search_are_shown(case, searched, recover, recovered):
    found = look(case, DetectionOptions(recover=recover))
    assert found.recovered == recovered
    assert [each.statistic for each in found.judged] == ["labels"]
    assert (found.verdict.grade, found.verdict.label) == ("likely backdoored", 3)
    assert {sign.look for sign in found.verdict.signs} == {"labels", "shift", "search"}
    assert searched == [(88, 22)]


def test_few_images_are_not_divided(case, searched):
    few = case._replace(clean=case.test.subset(np.arange(60)).batch)
    look(few, DetectionOptions(recover="none", signs=SignConfig(looks=("search",))))
    assert searched == [(60, 60)]


def test_a_calibration_of_such_models_rules_on_the_score(case):
    known = fit(models(clean=(0.001, 0.0011, 0.001, 0.0011), backdoored=(0.5, 0.6, 0.5, 0.6)))
    name = name_architecture(case.model.network.architecture)
    calibration = replace(known, architecture=name, settings=plain_settings(LabelConfig()))
    found = look(case, DetectionOptions(recover="none", signs=SignConfig(looks=())), {"labels": calibration})
    assert found.judged[0].ruling.outcome == "backdoored", "any share is far above these clean ones"
    assert found.verdict.grade == "likely backdoored"
    assert found.verdict.label == found.found.label


@pytest.mark.parametrize(
    ("at_chance", "grade", "label"), [(True, "no evidence", None), (False, "likely backdoored", 3)]
)
def test_a_doubt_of_the_network_is_said_with_every_verdict(at_chance, grade, label):
    verdict = grade_signs([Sign("search", "strong", (3,), "a small trigger", "Label 3.")], list("abcd"))
    held = looking._hold(verdict, Doubt(at_chance, "ACC is low."))
    assert (held.grade, held.label, held.sentences) == (grade, label, ("ACC is low.", "Label 3."))
    assert (held.headline == AT_CHANCE) == at_chance
    assert held.headline.endswith("; but the network may not be computed as it was trained") != at_chance
    assert looking._hold(verdict, None) == verdict

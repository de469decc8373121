"""Looking for a backdoor, without writing; what is written is tested with the command."""

import jax
import numpy as np
import pytest

from rnp_jax.data import load
from rnp_jax.detection.labels import detect_label
from rnp_jax.detection.signs import SignConfig
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.detecting import DetectionOptions, examine, judge_case
from rnp_jax.pipeline.examination import Examination
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.options import RunOptions
from rnp_jax.pipeline.run_log import RunLog


@pytest.fixture(scope="module")
def case(small_victim) -> Examination:
    options = RunOptions()
    model = open_model(str(small_victim), options.source, options.compute)
    images = load("digits", image_size=8).subset(np.arange(40))
    return Examination(model, images.batch, images, None, RunLog(quiet=True), {"seed": 3})


def test_the_document_says_what_the_searches_found(case):
    options = DetectionOptions(recover="none", signs=SignConfig(looks=("shift",)), seed=3)
    found = examine(case, options)
    expected = detect_label(case.model.network, case.model.variables, case.clean, jax.random.key(3), options.labels)
    (statistic,) = found.statistics
    assert (statistic.statistic, statistic.label) == ("labels", expected.label)
    assert statistic.outcome == "undecided", "no calibration is for such a model"
    assert (found.seed, found.config) == (3, {"seed": 3})
    assert sorted(sign.look for sign in found.signs) == ["labels", "shift"]
    assert found.triggers == found.samples == ()


def test_a_verdict_without_a_document_is_the_document_s(case):
    options = DetectionOptions(recover="none", signs=SignConfig(looks=("shift",)), seed=3)
    document, verdict = examine(case, options), judge_case(case, options)
    assert (verdict.grade, verdict.label, verdict.headline) == (
        document.outcome, document.label, document.verdict.headline
    )  # fmt: skip
    assert tuple(sign.sentence for sign in verdict.signs) == tuple(sign.sentence for sign in document.signs)


@pytest.mark.parametrize(("given", "what"), [({"seed": -1}, "seed"), ({"sample_scores": ("zzz",)}, "zzz")])
def test_impossible_options(given, what):
    with pytest.raises(ConfigError, match=what):
        DetectionOptions(**given)

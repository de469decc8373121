"""Looking for a backdoor, without writing; what is written is tested with the command."""

import jax
import numpy as np
import pytest

from rnp_jax.data import load
from rnp_jax.detection.labels import detect_label
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.detecting import DetectionOptions, examine
from rnp_jax.pipeline.detection_document import Examination
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
    options = DetectionOptions(recover="none", seed=3)
    found = examine(case, options)
    expected = detect_label(case.model.network, case.model.variables, case.clean, jax.random.key(3), options.labels)
    assert (found.label, found.seed, found.config) == (expected.label, 3, {"seed": 3})
    assert found.outcome == "undecided", "no calibration is for such a model"
    assert [part.statistic for part in found.statistics] == ["labels"]
    assert found.triggers == found.samples == ()


@pytest.mark.parametrize(("given", "what"), [({"seed": -1}, "seed"), ({"sample_scores": ("zzz",)}, "zzz")])
def test_impossible_options(given, what):
    with pytest.raises(ConfigError, match=what):
        DetectionOptions(**given)

"""An examination of a bundled checkpoint, and what unlearning would find in it."""

import numpy as np
import pytest

from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions
from rnp_jax.detection.labels import LabelFindings
from rnp_jax.pipeline.examination import Examination
from rnp_jax.pipeline.images import open_images
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.trigger import open_trigger
from tests.runs import CHECKPOINT

SHARES = np.full((3, 10), 0.02) + 0.8 * np.eye(10)[[4, 4, 4]]


@pytest.fixture(scope="package")
def examination() -> Examination:
    model = open_model(str(CHECKPOINT), SourceOptions(), ComputeOptions())
    clean, _, test = open_images(model, DataOptions(test_images=40), DefenseSetOptions(size=20, holdout=0.0))
    return Examination(
        model, clean, test, open_trigger(model, TriggerOptions(), test), RunLog(quiet=True), {"checkpoint": "a.pt"}
    )


@pytest.fixture(scope="package")
def findings(examination: Examination) -> LabelFindings:
    timing, history = {"train": 1.0}, {"train": {}}
    return LabelFindings(examination.model.variables, {"train": SHARES}, 0.82, 4, timing, history, ("Mind this.",))

"""What a method kept, isolated and scored, held against the truth."""

from dataclasses import replace

import numpy as np
import pytest

from rnp_jax.defenses.result import NO_CANDIDATES, Choice, Defended
from rnp_jax.pipeline.truth import rate_images

POISONED = np.arange(10) >= 6
FOUND = Defended(
    {},
    {},
    "weights",
    NO_CANDIDATES,
    Choice(rule="", pruned=0),
    kept=(np.arange(8), np.arange(3)),
    isolated=np.array([5, 6, 7, 8]),
    suspicion=np.array([0.0, 1, 2, 3, 4, 9, 5, 6, 7, 8]),
)


def test_every_figure():
    assert rate_images(FOUND, POISONED) == {
        "Round 1: share of clean images among those kept (for evaluation only)": 0.75,
        "Round 1: share of the poisoned images kept (for evaluation only)": 0.5,
        "Round 2: share of clean images among those kept (for evaluation only)": 1.0,
        "Round 2: share of the poisoned images kept (for evaluation only)": 0.0,
        "Isolated images: share that is poisoned (precision) (for evaluation only)": 0.75,
        "Isolated images: share of the poisoned images that is among them (recall) (for evaluation only)": 0.75,
        "AUROC of the method's scores of images (for evaluation only)": pytest.approx(20 / 24),
    }


def test_without_the_truth_there_are_no_figures_and_without_poisoned_images_few():
    assert rate_images(FOUND, None) == {}
    clean = rate_images(FOUND, np.zeros(10, bool))
    assert list(clean.values()) == [1.0, 1.0, 0.0]
    nothing = replace(FOUND, kept=(), isolated=np.zeros(0, np.int64), suspicion=None)
    assert rate_images(nothing, POISONED) == {}

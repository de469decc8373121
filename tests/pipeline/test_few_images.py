"""Warnings of too few images: when, and with which number."""

from types import SimpleNamespace

import numpy as np
import pytest

from rnp_jax.data import Dataset
from rnp_jax.defenses import METHODS
from rnp_jax.evaluation.metrics import Proportion
from rnp_jax.pipeline.few_images import (
    CHOOSE,
    LEARN,
    MEASURE,
    warn_of_classes,
    warn_of_few,
    warn_of_few_examined,
    warn_of_few_measured,
)
from rnp_jax.pipeline.judging import CHANCE, needed_images
from rnp_jax.pipeline.options import RunOptions
from rnp_jax.pipeline.request import Request
from rnp_jax.types import Batch


def few(method="rnp", learned=400, held=100, test=500, triggered=450, classes=10, present=None, anew=False):
    def batch(count: int) -> Batch:
        return Batch(np.zeros((count, 1, 1, 1), np.uint8), np.arange(count) % (present or classes))

    case = SimpleNamespace(
        model=SimpleNamespace(network=SimpleNamespace(architecture=SimpleNamespace(num_classes=classes))),
        data=batch(learned),
        holdout=batch(held) if held else None,
        test=range(test),
        sets=SimpleNamespace(triggered=batch(triggered) if triggered else None),
        anew=anew,
    )
    return warn_of_few(case, Request.of("a.pt", METHODS[method], RunOptions(method=method)))  # pyright: ignore[reportArgumentType]


def test_there_is_nothing_to_say_of_enough_images():
    assert few() == ()
    assert few(learned=LEARN * 10, held=CHOOSE, test=MEASURE, triggered=needed_images(10)) == ()
    assert (LEARN, CHOOSE, MEASURE) == (10, 50, 100)


LEARNED = "Only 99 clean images to learn from, for 10 classes{}: {} makes sense with 100 or more."
CHOSEN = "Only 49 images to choose the number of filters by, so that one weighs 2.0% of the accuracy: give 50 or more."
MEASURED = "Only 1 image to measure ACC on: 100 or more make sense."
TRIGGERED = (
    "Only 34 triggered images: too few to call any trigger removed, even one that never works; 35 or more make sense."
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"learned": 99}, (LEARNED.format("", "RNP"),)),
        ({"learned": 99, "present": 7}, (LEARNED.format("; 3 of them have none", "RNP"),)),
        ({"learned": 99, "method": "ft"}, (LEARNED.format("", METHODS["ft"].title),)),
        ({"learned": 99, "method": "clp"}, ()),  # it learns from none
        ({"learned": 99, "method": "hid", "held": 0, "anew": True}, ()),  # nor from clean ones
        ({"held": 49}, (CHOSEN,)),
        ({"held": 49, "method": "clp"}, ()),  # whose number no image decides
        ({"held": 0, "method": "ft"}, ()),
        ({"test": 1}, (MEASURED,)),
        ({"triggered": 34}, (TRIGGERED,)),
        ({"triggered": 0}, ()),  # not known
        ({"test": 1, "triggered": 34}, (TRIGGERED, MEASURED)),
    ],
)
def test_what_is_scarce_is_told_with_a_number_that_makes_sense(given, expected):
    assert few(**given) == expected


def test_few_images_to_look_at_or_to_measure_on_are_warned_of_alone_too():
    assert warn_of_few_measured(MEASURE) == warn_of_few_examined(LEARN * 10, 10) == ()
    assert warn_of_few_measured(1) == (MEASURED,)
    assert warn_of_few_examined(5, 10) == (
        "Only 5 clean images to look at, for 10 classes: a verdict makes sense with 100 or more.",
    )


@pytest.mark.parametrize("classes", [2, 10, 43, 100, 200])
def test_the_needed_images_are_the_fewest_whose_interval_allows_the_verdict(classes):
    limit, needed = min(CHANCE, 1 / classes), needed_images(classes)
    assert Proportion.of(0, needed).high <= limit < Proportion.of(0, needed - 1).high


def test_data_with_fewer_classes_than_the_model_are_warned_of():
    data = Dataset(np.zeros((3, 1, 1, 3), np.uint8), np.arange(3, dtype=np.int32), ("cat", "dog", "fish"), "pets")
    assert warn_of_classes(data.with_classes(3)) == ()
    (warning,) = warn_of_classes(data.with_classes(10))
    assert warning.startswith(
        "pets has 3 classes (cat, dog, fish), but the model has 10: its labels 0 to 2 are taken to be these."
    )
    assert data.with_classes(10).with_classes(10).lacking == 7
    (cut,) = warn_of_classes(data.with_classes(50).with_classes(60))
    assert "has 3 classes" in cut

"""Too few images: what weakens a defense's conclusion, and how many images would make sense."""

import numpy as np

from rnp_jax.data import Dataset
from rnp_jax.pipeline.case import Case
from rnp_jax.pipeline.judging import needed_images
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.suspect import Suspect

LEARN = 10
"""Clean images of each class that a method learns from, in the mean."""

CHOOSE = 50
"""Held-out images: one of them then weighs 2 points of accuracy, less than the methods' budgets of 3 and 5 points."""

_NAMED = 10  # classes

MEASURE = 100
"""Test images: one of them then weighs one point of ACC."""


def warn_of_few(case: Case, request: Request) -> tuple[str, ...]:
    """What is scarce, a sentence each: images to learn from, to choose by, and to measure on."""
    method, num_classes = request.method, case.model.network.architecture.num_classes
    warnings = []
    learned = len(case.data.labels)
    if method.needs == "clean" and learned < LEARN * num_classes:
        absent = num_classes - len(np.unique(case.data.labels))
        lacking = f"; {absent} of them have none" if absent else ""
        warnings.append(
            f"{_count(learned, 'clean image')} to learn from, for {num_classes} classes{lacking}: {method.title} makes "
            f"sense with {LEARN * num_classes:,} or more."
        )
    held = 0 if case.holdout is None else len(case.holdout.labels)
    if not case.anew and method.chooses(request.settings).by_holdout and held < CHOOSE:
        warnings.append(
            f"{_count(held, 'image')} to choose the number of filters by, so that one weighs {1 / max(held, 1):.1%} of "
            f"the accuracy: give {CHOOSE} or more."
        )
    triggered, needed = case.sets.triggered, needed_images(num_classes)
    if triggered is not None and len(triggered.labels) < needed:
        warnings.append(
            f"{_count(len(triggered.labels), 'triggered image')}: too few to call any trigger removed, even one that "
            f"never works; {needed:,} or more make sense."
        )
    return (*warnings, *warn_of_few_measured(len(case.test)))


def warn_of_few_measured(count: int) -> tuple[str, ...]:
    """That few images measure ACC, if so."""
    return (f"{_count(count, 'image')} to measure ACC on: {MEASURE} or more make sense.",) * (count < MEASURE)


def warn_of_few_examined(count: int, num_classes: int) -> tuple[str, ...]:
    """That few clean images are examined, if so."""
    needed = LEARN * num_classes
    what = f"{_count(count, 'clean image')} to look at, for {num_classes} classes"
    return (f"{what}: a verdict makes sense with {needed:,} or more.",) * (count < needed)


def warn_of_classes(data: Dataset) -> tuple[str, ...]:
    """That the data have fewer classes than the model, if so: it may have been trained for others."""
    if not data.lacking:
        return ()
    own = data.num_classes - data.lacking
    names = ", ".join(map(str, data.class_names[:own][:_NAMED])) + ", …" * (own > _NAMED)
    warning = (
        f"{data.name} has {own} classes ({names}), but the model has {data.num_classes}: its labels 0 to {own - 1} are "
        "taken to be these. If it was trained for others, or in another order, every figure is wrong: use the data set "
        "that it was trained for, or name all its classes (class_names in an .npz file)."
    )
    return (warning,)


def tell_opened(model: Suspect, data: Dataset, log: RunLog) -> None:
    """Says how a model was opened where its file left something open, and whether the data have all its classes."""
    for assumption in model.assumptions:
        log.say(f"  note: {assumption}")
    for warning in warn_of_classes(data):
        log.warn(warning)


def _count(count: int, what: str) -> str:
    return f"Only {count:,} {what}{'s' * (count != 1)}"

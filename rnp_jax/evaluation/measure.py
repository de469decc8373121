"""Metrics of a network, of its pruned variants or of many checkpoints, on clean and on triggered test images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from rnp_jax import masks
from rnp_jax.attacks import TriggeredSet
from rnp_jax.evaluation.checkpoints import predict_checkpoints, predict_each
from rnp_jax.evaluation.metrics import Metrics, Proportion, attack_metrics, class_accuracy, clean_metrics
from rnp_jax.evaluation.predict import predict_variants
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables


class Measured(NamedTuple):
    """One variant's figures.

    Attributes:
      metrics: on all images.
      triggered: predictions on the triggered images [M]; empty without a trigger.
      by_class: accuracy on the clean images of each class; None where it has none.
    """

    metrics: Metrics
    triggered: Int32[np.ndarray, "M"]
    by_class: tuple[Proportion | None, ...] = ()


def measure_variants(
    network: Network,
    variables: Variables,
    variants: Sequence[masks.Filters],
    test: Batch,
    triggered: TriggeredSet | None = None,
    target: int | None = None,
    batch_size: int | None = None,
) -> list[Measured]:
    """ACC of every variant, ACC without the target class where there is one, ASR and RA where triggered images are."""
    clean = [
        _measure_clean(row, test, target)
        for row in predict_variants(network, variables, variants, test, batch_size).labels
    ]
    if triggered is None:
        return clean
    predicted = predict_variants(network, variables, variants, _batch(triggered), batch_size).labels
    return [_with_trigger(measured, row, triggered) for measured, row in zip(clean, predicted, strict=True)]


def measure_checkpoints(
    network: Network,
    checkpoints: Sequence[Variables],
    test: Batch,
    triggered: Sequence[TriggeredSet | None],
    targets: Sequence[int | None],
    batch_size: int | None = None,
) -> list[Measured]:
    """``measure_variants`` of several checkpoints at once, on all devices: a trigger and a target of each one's own.

    Raises:
      DataError: no images; checkpoints that are not all of this network.
    """
    predicted = predict_checkpoints(network, checkpoints, test, batch_size).labels
    clean = [_measure_clean(row, test, target) for row, target in zip(predicted, targets, strict=True)]
    known = {place: each for place, each in enumerate(triggered) if each is not None}
    if not known:
        return clean
    attacked = predict_each(
        network, [checkpoints[i] for i in known], [_batch(each) for each in known.values()], batch_size
    )
    rows = {place: found.labels[0] for place, found in zip(known, attacked, strict=True)}
    return [
        _with_trigger(measured, rows[place], known[place]) if place in known else measured
        for place, measured in enumerate(clean)
    ]


def _batch(triggered: TriggeredSet) -> Batch:
    return Batch(triggered.images, triggered.labels)


def _measure_clean(predicted: Int32[np.ndarray, "N"], test: Batch, target: int | None) -> Measured:
    labels = np.asarray(test.labels)
    return Measured(clean_metrics(predicted, labels, target), np.zeros(0, np.int32), class_accuracy(predicted, labels))


def _with_trigger(clean: Measured, predicted: Int32[np.ndarray, "M"], triggered: TriggeredSet) -> Measured:
    metrics = attack_metrics(clean.metrics, predicted, triggered.labels, triggered.wanted)
    return clean._replace(metrics=metrics, triggered=predicted)

"""Metrics of a network and of its pruned variants, on clean and on triggered test images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from rnp_jax import masks
from rnp_jax.attacks import TriggeredSet
from rnp_jax.evaluation.metrics import Metrics, attack_metrics, clean_metrics
from rnp_jax.evaluation.predict import predict_variants
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables


class Measured(NamedTuple):
    """One variant's figures, and its predictions on the triggered images [M] (empty without a trigger)."""

    metrics: Metrics
    triggered: Int32[np.ndarray, "M"]


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
    labels = np.asarray(test.labels)
    clean = [
        clean_metrics(row, labels, target)
        for row in predict_variants(network, variables, variants, test, batch_size).labels
    ]
    if triggered is None:
        return [Measured(metrics, np.zeros(0, np.int32)) for metrics in clean]
    attacked = Batch(triggered.images, triggered.labels)
    predicted = predict_variants(network, variables, variants, attacked, batch_size).labels
    return [
        Measured(attack_metrics(metrics, row, triggered.labels, triggered.wanted), row)
        for metrics, row in zip(clean, predicted, strict=True)
    ]

"""Predictions of a network, or of many variants of it that differ in their filter masks only.

Variants are evaluated one after another on the same images. Each restarts at the first segment in which its masks
differ from its predecessor's, so a nested sweep, or variants sorted by layer, cost a fraction of whole passes. Every
segment is one compiled program, shared by equal segments, all variants and all batches.
"""

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int32, Shaped

from rnp_jax import masks
from rnp_jax.errors import DataError
from rnp_jax.fetching import fetch_late
from rnp_jax.models import Network
from rnp_jax.models.chain import Segment
from rnp_jax.models.folding import fold_batch_norms
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.types import Batch, Variables

_CPU_BATCH, _BATCH = 64, 1000
_WORKERS = 4


class Predictions(NamedTuple):
    """What M variants say of N images."""

    labels: Int32[np.ndarray, "M N"]
    loss: Float[np.ndarray, "M N"]  # cross-entropy against the given labels


def predict(network: Network, variables: Variables, batch: Batch, batch_size: int | None = None) -> Predictions:
    """Predictions of the network as it is (M = 1)."""
    return predict_variants(network, variables, [masks.filters(variables["masks"])], batch, batch_size)


def predict_variants(
    network: Network,
    variables: Variables,
    variants: Sequence[masks.Filters],
    batch: Batch,
    batch_size: int | None = None,
) -> Predictions:
    """Predictions of each variant's filter masks, in the order given; weights are shared.

    ``batch_size`` is by default ``default_batch_size``, and less for small sets (``fit_batch_size``); on a CPU batches
    also run side by side.

    Raises:
      DataError: no images, or no variants.
    """
    if len(batch.labels) == 0 or not variants:
        raise DataError(f"{len(variants)} variants on {len(batch.labels)} images: expected one or more of each")
    network = network.evaluator
    steps = _steps(network.segments, variants)
    plan = [_SegmentRun(network, i) for i in range(len(network.segments))]
    loaded: list = [None] * len(plan)  # each segment's variables under the current variant, on the device
    per_variant = []
    for variant, step in zip(variants, steps, strict=True):
        full = masks.apply_filters(variables, variant)
        if step.start < len(plan):
            for i in step.changed:
                loaded[i] = jax.device_put(network.segments[i].select(full))
        per_variant.append(list(loaded))

    count = len(batch.labels)
    size = fit_batch_size(count, batch_size)

    def run(begin: int) -> list[tuple[jax.Array, jax.Array]]:
        images, labels = jax.device_put(tuple(pad_rows(np.asarray(part[begin : begin + size]), size) for part in batch))
        activations: list = [images] + [None] * len(plan)
        rows = []
        for own, step in zip(per_variant, steps, strict=True):
            for i in range(step.start, len(plan)):
                activations[i + 1] = _run_segment(plan[i], own[i], activations[i])
            rows.append(classify(activations[-1], labels) if step.start < len(plan) else rows[-1])
        return rows

    first, *others = range(0, count, size)
    if len(others) > 1 and jax.default_backend() == "cpu":
        chunks = [jax.device_get(run(first))]  # compiles, alone
        chunks += _threads().map(lambda begin: jax.device_get(run(begin)), others)
    else:
        chunks = list(fetch_late(map(run, (first, *others))))
    predicted, loss = (
        np.concatenate([np.stack([row[part] for row in chunk]) for chunk in chunks], axis=1)[:, :count]
        for part in (0, 1)
    )
    return Predictions(predicted, loss)


def default_batch_size() -> int:
    """Images a batch: on a CPU what its cache holds, 1000 elsewhere."""
    return _CPU_BATCH if jax.default_backend() == "cpu" else _BATCH


def fit_batch_size(count: int, batch_size: int | None = None) -> int:
    """The batch size for ``count`` images: a small set's one batch is filled to a power of two, to share programs."""
    return min(batch_size or default_batch_size(), 1 << (count - 1).bit_length())


def pad_rows(rows: Shaped[np.ndarray, "n ..."], size: int) -> Shaped[np.ndarray, "size ..."]:
    """Rows repeated up to ``size``, so that every batch has one shape."""
    return rows if len(rows) == size else np.resize(rows, (size, *rows.shape[1:]))


@cache
def _threads() -> ThreadPoolExecutor:
    """For batches that run side by side; kept as long as the process."""
    return ThreadPoolExecutor(min(os.cpu_count() or 1, _WORKERS), thread_name_prefix="predict")


class _Step(NamedTuple):
    start: int  # first segment to run
    changed: tuple[int, ...]  # segments whose variables differ from the previous variant's


def _steps(segments: tuple[Segment, ...], variants: Sequence[masks.Filters]) -> list[_Step]:
    steps = [_Step(0, tuple(range(len(segments))))]
    for previous, variant in itertools.pairwise(variants):
        names = [name for name in variant if not np.array_equal(np.asarray(previous[name]), np.asarray(variant[name]))]
        changed = tuple(i for i, segment in enumerate(segments) if any(segment.holds(name) for name in names))
        steps.append(_Step(changed[0] if changed else len(segments), changed))
    return steps


@dataclass(frozen=True, init=False)
class _SegmentRun:
    """What a compiled segment depends on: equal for equal segments of equal networks."""

    module: object
    network: Network | None  # only the first segment normalises
    folded: bool

    def __init__(self, network: Network, index: int):
        object.__setattr__(self, "module", network.segments[index].module)
        object.__setattr__(self, "network", network if index == 0 else None)
        object.__setattr__(self, "folded", network.folded)


@jit_settings()
def _run_segment(run: _SegmentRun, variables: Variables, x: jax.Array) -> jax.Array:
    x = x if run.network is None else run.network.normalize(x)
    with fold_batch_norms(run.folded):
        return run.module.apply(variables, x, False)  # pyright: ignore[reportAttributeAccessIssue]


@jax.jit
def classify(
    logits: Float[jax.Array, "B K"], labels: Int[jax.Array, "B"]
) -> tuple[Int32[jax.Array, "B"], Float[jax.Array, "B"]]:
    """Predicted labels, and the cross-entropy against the given ones."""
    logits = logits.astype(jnp.float32)
    return logits.argmax(-1).astype(jnp.int32), cross_entropy(logits, labels)

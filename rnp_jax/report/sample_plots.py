"""Figures of the scores of training samples: the most suspicious ones, how scores spread, and what they are worth."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.drawing import Figure

COLUMNS, ROWS = 10, 3
BINS = 50
FPR = 0.01
"""The false positive rate whose true positive rate is marked."""


class ScoredSamples(NamedTuple):
    """Samples of a training set, with a score each that is high where the sample is suspicious."""

    images: UInt8[np.ndarray, "N H W C"]  # C is 1 or 3
    labels: Sequence[str]  # as the training set states them
    scores: Float[np.ndarray, "N"]
    name: str  # of the score
    threshold: float | None = None  # scores from here on are listed as suspicious
    poisoned: Bool[np.ndarray, "N"] | None = None  # the truth, where it is known


def check_scored(scored: ScoredSamples) -> None:
    """The samples can be drawn.

    Raises:
      ResultError: images that are not uint8, gray or RGB; counts that differ; scores that are not finite.
    """
    images = scored.images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ResultError(f"sample images are {images.dtype} {images.shape}; pass uint8 images [N, H, W, 1|3].")
    counts = [len(scored.labels), len(scored.scores), *([] if scored.poisoned is None else [len(scored.poisoned)])]
    if counts != [len(images)] * len(counts):
        raise ResultError(f"{len(images)} samples come with {counts} labels, scores and marks of the truth.")
    if not np.isfinite(scored.scores).all():
        raise ResultError(f"scores {scored.name} are not all finite; score the samples again.")


@palette.style()
def plot_suspicious(scored: ScoredSamples) -> Figure:
    """The samples with the highest scores, the most suspicious first: index, stated label, score.

    Where the truth is known, poisoned ones have a frame and say so, clean ones neither.

    Raises:
      ResultError: as ``check_scored``.
    """
    check_scored(scored)
    order = np.argsort(-np.asarray(scored.scores), kind="stable")[: COLUMNS * ROWS]
    rows = -(-len(order) // COLUMNS)
    aspect = scored.images.shape[1] / scored.images.shape[2]
    figure = palette.new_figure(0.4 + rows * (0.5 + aspect * palette.WIDTH / COLUMNS * 0.9))
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for ax in axes[len(order) :]:
        ax.set_axis_off()
    for ax, i in zip(axes, order, strict=False):
        image = scored.images[i]
        ax.imshow(image[..., 0] if image.shape[2] == 1 else image, interpolation="none", cmap="gray", vmin=0, vmax=255)
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.set_title(f"#{i}: {palette.label(scored.labels[int(i)], 10)}", loc="center", fontsize=8, fontweight="normal")
        known = scored.poisoned is not None and bool(scored.poisoned[i])
        ax.set_xlabel(f"{scored.scores[i]:.3g}{' poisoned' if known else ''}", fontsize=7)
        ax.spines[:].set(visible=known, color=palette.ASR, linewidth=2)
    return figure


@palette.style()
def plot_sample_scores(scored: ScoredSamples) -> Figure:
    """Samples by score on a logarithmic count; poisoned ones apart where they are known; a line at the threshold.

    Raises:
      ResultError: as ``check_scored``.
    """
    check_scored(scored)
    scores = np.asarray(scored.scores, np.float64)
    figure = palette.new_figure(3.0)
    ax = figure.subplots()
    edges = np.histogram_bin_edges(scores, BINS)
    width = edges[1] - edges[0]
    parts = [(np.ones(len(scores), bool), palette.ACC, "samples")]
    if scored.poisoned is not None:
        parts = [(~scored.poisoned, palette.ACC, "clean"), (scored.poisoned, palette.ASR, "poisoned")]
    tallest = 0
    for place, (which, color, name) in enumerate(parts):
        counts, _ = np.histogram(scores[which], edges)
        tallest = max(tallest, int(counts.max()))
        share = width / len(parts) * 0.9
        places = edges[:-1] + width * (0.05 + (place + 0.5) / len(parts) * 0.9)
        ax.bar(places, counts, share, color=color, label=f"{name} ({which.sum():,})")
    palette.count_axis(ax, tallest)
    if scored.threshold is not None:
        ax.axvline(
            scored.threshold, color=palette.INK, linewidth=1, ls="--", label=f"listed from {scored.threshold:.4g}"
        )
    ax.grid(visible=False, axis="x")
    ax.set_xlabel(f"score: {palette.label(scored.name)} (right is suspicious)")
    ax.set_ylabel("samples")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@palette.style()
def plot_roc(scored: ScoredSamples) -> Figure:
    """True over false positive rate as the threshold falls, false positives on a logarithmic axis; the point at 1 %.

    Raises:
      ResultError: as ``check_scored``; the truth is not known, or all samples are of one kind.
    """
    check_scored(scored)
    truth = scored.poisoned
    if truth is None or truth.all() or not truth.any():
        known = "not known" if truth is None else f"{truth.sum()} of {truth.size} poisoned"
        raise ResultError(f"the truth is {known}: an ROC curve needs some poisoned and some clean samples.")
    from sklearn.metrics import auc, roc_curve  # a second to import, and only this figure needs it

    false, true, _ = roc_curve(truth, scored.scores, drop_intermediate=False)
    least = 1 / int((~truth).sum())
    at = float(true[false <= FPR].max())
    figure = palette.new_figure(3.4)
    ax = figure.subplots()
    curve = f"{palette.label(scored.name)}: AUROC {auc(false, true):.3f}"
    ax.step(np.maximum(false, least / 2), true, where="post", color=palette.ASR, label=curve)
    diagonal = np.geomspace(least / 2, 1, 100)
    ax.plot(diagonal, diagonal, color=palette.QUIET, ls=":", linewidth=1, label="guessing")
    ax.plot([FPR], [at], "o", color=palette.INK, markersize=6, label=f"{at:.1%} found at 1 % false positives")
    ax.set(xscale="log", xlim=(least / 2, 1))
    palette.percent_axis(ax)
    ticks = [10.0**power for power in range(math.ceil(math.log10(least / 2)), 1)]
    ax.set_xticks(ticks, [f"{100 * tick:g}%" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("clean samples listed (false positive rate)")
    ax.set_ylabel("poisoned samples listed")
    figure.legend(loc="outside upper center", ncols=3)
    return figure

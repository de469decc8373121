"""Figures of recovered triggers: the mask and pattern of each label, and whose mask is suspiciously small."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.drawing import Axes, Figure

MAX_PICTURES = 10
MAX_TICKS = 40

GROUND = 0.75
"""The grey that triggers lie on, which neither a white nor a black one has."""


class KnownTrigger(NamedTuple):
    """The true trigger, to stand beside the recovered ones."""

    changed: Bool[np.ndarray, "H W"]  # pixels that it changes
    example: UInt8[np.ndarray, "H W C"]  # an image with it on


class TriggerMaps(NamedTuple):
    """What trigger recovery found for each of K labels."""

    names: tuple[str, ...]  # of the labels [K]
    masks: Float[np.ndarray, "K H W"]  # in [0, 1]
    patterns: Float[np.ndarray, "K H W C"]  # in [0, 1]; C is 1 or 3
    norms: Float[np.ndarray, "K"]  # sums of the masks, px
    indices: Float[np.ndarray, "K"]  # anomaly index by MAD; may be infinite
    suspected: Bool[np.ndarray, "K"]
    known: KnownTrigger | None = None


def check_maps(maps: TriggerMaps) -> None:
    """The arrays belong together and can be shown.

    Raises:
      ResultError: counts or sizes that differ, values outside [0, 1], or images that are neither gray nor RGB.
    """
    count, patterns = len(maps.names), maps.patterns.shape
    if count == 0 or len(patterns) != 4 or patterns[0] != count or patterns[3] not in (1, 3) or 0 in patterns:
        raise ResultError(
            f"patterns have shape {patterns} for {count} labels; expected [K, H, W, 1|3], K of 1 or more."
        )
    lengths = [len(maps.norms), len(maps.indices), len(maps.suspected)]
    if maps.masks.shape != patterns[:3] or lengths != [count] * 3:
        raise ResultError(
            f"masks of shape {maps.masks.shape} and {lengths} norms, indices and marks; expected masks {patterns[:3]} "
            f"and {count} of each."
        )
    for name, values in (("masks", maps.masks), ("patterns", maps.patterns)):
        if not (values.min() >= 0 and values.max() <= 1):
            raise ResultError(f"{name} range from {values.min():g} to {values.max():g}; expected values in [0, 1].")
    known = maps.known
    if known is not None and (known.changed.shape != patterns[1:3] or known.example.shape != patterns[1:]):
        raise ResultError(
            f"the known trigger has shapes {known.changed.shape} and {known.example.shape}; expected {patterns[1:3]} "
            f"and {patterns[1:]}."
        )


@palette.style()
def plot_triggers(maps: TriggerMaps) -> Figure:
    """Masks above, dark on white, and below the patterns as far as the masks let them through, on grey.

    A column is a label; of more than `MAX_PICTURES` labels those with the smallest norms are shown. Each mask is scaled
    to its own largest value, which stands below it. The true trigger comes last: the pixels it changes, and an image
    with it.
    """
    chosen = np.sort(np.argsort(maps.norms, kind="stable")[:MAX_PICTURES])
    known = maps.known
    columns = len(chosen) + (known is not None)
    height, width = maps.masks.shape[1:]
    figure = palette.new_figure(1.0 + 2 * height / width * palette.WIDTH / max(columns, MAX_PICTURES) * 0.95)
    axes = figure.subplots(2, max(columns, MAX_PICTURES), squeeze=False)
    for ax in axes[:, columns:].flat:
        ax.set_axis_off()
    for column, i in zip(axes.T, chosen, strict=False):
        mask, largest = maps.masks[i], float(maps.masks[i].max())
        _show(column[0], 1 - (mask / largest if largest > 0 else mask))
        _show(column[1], mask[..., None] * maps.patterns[i] + (1 - mask[..., None]) * GROUND)
        look = {"color": palette.ASR, "fontweight": "bold"} if maps.suspected[i] else {"fontweight": "normal"}
        column[0].set_title(palette.label(maps.names[i], 12), loc="center", fontsize=8, **look)
        column[0].set_xlabel(f"max {largest:.2g}", fontsize=7)
        column[1].set_xlabel(f"{maps.norms[i]:.3g} px\nindex {_show_index(float(maps.indices[i]))}", fontsize=7)
    if known is not None:
        _show(axes[0, columns - 1], 1.0 - known.changed)
        _show(axes[1, columns - 1], known.example)
        axes[0, columns - 1].set_title("true trigger", loc="center", fontsize=8)
        axes[0, columns - 1].set_xlabel("changed", fontsize=7)
        axes[1, columns - 1].set_xlabel("example", fontsize=7)
    axes[0, 0].set_ylabel("mask")
    axes[1, 0].set_ylabel("trigger")
    if len(chosen) < len(maps.names):
        figure.suptitle(f"the {len(chosen)} smallest masks of {len(maps.names)} labels", fontsize=9, ha="center")
    return figure


@palette.style()
def plot_norms(maps: TriggerMaps, limit: float) -> Figure:
    """A bar a label: its mask's norm, suspected labels in orange, with the anomaly index above it.

    ``limit`` is the index above which a label is suspected; the line is the norm that has it.
    """
    figure = palette.new_figure(2.8)
    ax = figure.subplots()
    count, places = len(maps.names), np.arange(len(maps.names))
    colors = np.where(maps.suspected, palette.ASR, palette.ACC)
    ax.bar(places, maps.norms, 0.7, color=colors.tolist())
    median = float(np.median(maps.norms))
    ax.axhline(median, color=palette.QUIET, linewidth=1, label=f"median {median:.3g} px")
    edge = median - limit * 1.4826 * float(np.median(np.abs(maps.norms - median)))
    if edge > 0:
        ax.axhline(edge, color=palette.INK, linewidth=1, linestyle="--", label=f"index {limit:g}: {edge:.3g} px")
    every = -(-count // MAX_TICKS)
    shown = places[::every]
    ax.set_xticks(shown, [palette.label(maps.names[i], 12 if count <= 12 else 5) for i in shown], fontsize=8)
    marked = places if count <= MAX_TICKS else places[maps.suspected]
    for i in marked:
        ax.annotate(
            _show_index(maps.indices[i]), (i, maps.norms[i]), xytext=(0, 2), textcoords="offset points", ha="center",
            fontsize=7,
        )  # fmt: skip
    ax.set_ylim(0, max(float(maps.norms.max()), 1e-6) * 1.15)
    ax.grid(visible=False, axis="x")
    ax.set_xlabel("label (anomaly index above the bar)")
    ax.set_ylabel("norm of the mask, px")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def _show(ax: Axes, picture: Shaped[np.ndarray, "H W ..."]) -> None:
    gray = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    highest = 255 if picture.dtype == np.uint8 else 1
    ax.imshow(gray, interpolation="none", cmap="gray", vmin=0, vmax=highest)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(True)


def _show_index(index: float) -> str:
    return f"{round(index, 1) + 0.0:.1f}" if np.isfinite(index) else ("\N{INFINITY}" if index > 0 else "-\N{INFINITY}")

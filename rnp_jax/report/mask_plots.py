"""Figures of the filter masks: how many filters recovery exposed, and where they are."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from rnp_jax.report import palette
from rnp_jax.report.drawing import Figure, Patch, to_rgb
from rnp_jax.report.values import Marks, Values

MIN_COLUMNS, MAX_COLUMNS = 64, 256
CELL = (9, 6)  # pixels of a filter's cell, with a gap of one
LAYER_GAP = 5  # pixels between layers, at least
STRIP_WIDTH = palette.WIDTH - 2.6  # inches that the names and counts leave
LABEL_HEIGHT = 0.125  # inches

_KEPT = np.asarray(to_rgb("#dfe6ee"))
_EXPOSED = np.asarray(to_rgb("#08457e"))
_PRUNED = np.asarray(to_rgb(palette.ASR))


@palette.style()
def plot_mask_histogram(masks: Values, pruned: Marks, threshold: float | None) -> Figure:
    """Filters by mask value on a logarithmic count, pruned ones apart; a line at the threshold."""
    values = np.concatenate(list(masks.values()))
    marks = np.concatenate(list(pruned.values()))
    figure = palette.new_figure(3.0)
    ax = figure.subplots()
    edges = np.linspace(0, 1, 41)
    kept, _ = np.histogram(values[~marks], edges)
    cut, _ = np.histogram(values[marks], edges)
    width = (edges[1] - edges[0]) * 0.42
    ax.bar(edges[:-1] + width * 0.6, cut, width, color=palette.ASR, label=f"pruned ({cut.sum():,})")
    ax.bar(edges[:-1] + width * 1.6, kept, width, color=palette.ACC, label=f"kept ({kept.sum():,})")
    palette.count_axis(ax, int(max(kept.max(), cut.max())))
    if threshold is not None:
        ax.axvline(threshold, color=palette.INK, linewidth=1, linestyle="--", label=f"threshold {threshold:g}")
    ax.set_xlim(-0.01, 1.01)
    ax.grid(visible=False, axis="x")
    ax.set_xlabel("mask value")
    ax.set_ylabel("filters")
    ax.legend(loc="upper center", ncols=3)
    return figure


@palette.style()
def plot_masks_by_layer(masks: Values, pruned: Marks) -> Figure:
    """One strip a layer, one cell a filter in index order: dark where its mask is low, orange where it is pruned.

    A layer of more than `MAX_COLUMNS` filters wraps onto further lines of its strip.
    """
    canvas, centers = draw_strips(list(masks.values()), list(pruned.values()))
    figure = palette.new_figure(0.55 + canvas.shape[0] / canvas.shape[1] * STRIP_WIDTH)
    ax = figure.subplots()
    ax.imshow(canvas, aspect="auto", interpolation="none")
    size = 8.0 if len(masks) <= 30 else 7.0
    ax.set_yticks(centers, [palette.label(layer, 30) for layer in masks], fontsize=size)
    counts = ax.twinx()
    counts.set_ylim(ax.get_ylim())
    shares = [f"{mark.sum():,} / {mark.size:,}" for mark in pruned.values()]
    counts.set_yticks(centers, shares, fontsize=size)
    for side in (ax, counts):
        side.grid(visible=False)
        side.tick_params(length=0)
        side.spines[:].set_visible(False)
    ax.set_xticks([])
    legend = [(_KEPT, "mask 1"), ((_KEPT + _EXPOSED) / 2, "0.5"), (_EXPOSED, "0, kept"), (_PRUNED, "pruned")]
    handles = [Patch(facecolor=tuple(color), label=name) for color, name in legend]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1.1, handleheight=1.1)
    figure.legend(handles=[Patch(alpha=0, label="pruned / filters")], loc="outside upper right", handlelength=0)
    return figure


def draw_strips(
    masks: Sequence[Float[np.ndarray, "_F"]], pruned: Sequence[Bool[np.ndarray, "_F"]]
) -> tuple[UInt8[np.ndarray, "H W 4"], list[float]]:
    """The strips as an RGBA picture (transparent where there is no filter) and the rows of their centres.

    Centres lie at least `LABEL_HEIGHT` apart in a picture that is `STRIP_WIDTH` wide.
    """
    columns = min(MAX_COLUMNS, max(MIN_COLUMNS, max(mask.size for mask in masks)))
    high, wide = CELL
    pitch = math.ceil(columns * wide * LABEL_HEIGHT / STRIP_WIDTH)
    slots, centers, top = [], [], 0
    for mask, marks in zip(masks, pruned, strict=True):
        lines = -(-mask.size // columns)
        cells = np.zeros((lines * columns, 4))
        cells[: mask.size, :3] = _KEPT + (_EXPOSED - _KEPT) * (1 - mask[:, None])
        cells[: mask.size, :3][marks] = _PRUNED
        cells[: mask.size, 3] = 1
        strip = np.kron(cells.reshape(lines, columns, 4), np.ones((high, wide, 1)))
        strip[high - 1 :: high] = 0
        strip[:, wide - 1 :: wide] = 0
        slot = np.zeros((max(pitch, len(strip) + LAYER_GAP), columns * wide, 4))
        above = (len(slot) - len(strip)) // 2
        slot[above : above + len(strip)] = strip
        slots.append(slot)
        centers.append(top + above + (len(strip) - 1) / 2)
        top += len(slot)
    return np.round(np.concatenate(slots) * 255).astype(np.uint8), centers

"""Sample images: clean, with the trigger, and what the trigger changed."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.drawing import Figure
from rnp_jax.report.pictures import Pictures

MAX_SAMPLES = 8

SMALL = 0.5
"""A trigger within this share of an image's sides is enlarged."""

CROP_MARGIN = 2
"""Pixels around a trigger that is enlarged."""


class Samples(NamedTuple):
    """The same images without and with the trigger, and what the network says of the triggered ones."""

    clean: UInt8[np.ndarray, "N H W C"]  # C is 1 or 3
    triggered: UInt8[np.ndarray, "N H W C"]
    labels: Sequence[str]  # true classes
    before: Sequence[str]  # predictions on `triggered` before the defense
    after: Sequence[str]  # and after it


def check_samples(samples: Samples) -> None:
    """The pictures can be shown side by side.

    Raises:
      ResultError: images of different shapes or counts, not uint8, not gray or RGB, or texts missing.
    """
    clean, triggered = samples.clean, samples.triggered
    if clean.dtype != np.uint8 or triggered.dtype != np.uint8:
        raise ResultError(f"sample images are {clean.dtype} and {triggered.dtype}; pass uint8 images of 0 to 255.")
    if clean.shape != triggered.shape or clean.ndim != 4 or clean.shape[3] not in (1, 3) or 0 in clean.shape:
        raise ResultError(
            f"sample images have shapes {clean.shape} and {triggered.shape}; both must be [N, H, W, 1|3]."
        )
    texts = [len(samples.labels), len(samples.before), len(samples.after)]
    if texts != [len(clean)] * 3:
        raise ResultError(f"{len(clean)} sample images come with {texts} labels, predictions before and after.")


def amplify_difference(samples: Samples) -> tuple[UInt8[np.ndarray, "N H W C"], float]:
    """|triggered - clean|, scaled so that the largest change of all is white, and the factor of that scaling."""
    difference = np.abs(samples.triggered.astype(np.int16) - samples.clean.astype(np.int16))
    factor = 255 / max(int(difference.max()), 1)
    return np.round(difference * factor).astype(np.uint8), factor


def view_samples(samples: Samples) -> tuple[Pictures, ...]:
    """Pictures of equal aspect that show a trigger; a small trigger is enlarged in one more of them."""
    difference, factor = amplify_difference(samples)
    changed = np.asarray((difference > 0).any((0, 3)))
    scale = (f"\N{MULTIPLICATION SIGN} {factor:.3g}" if factor >= 1.05 else "") if changed.any() else "none"
    views = (
        Pictures("clean", samples.clean),
        Pictures("with trigger", samples.triggered),
        Pictures("difference", difference, scale),
    )
    crop = _find_crop(changed)
    if crop is None:
        return views
    rows, columns, zoom = crop
    enlarged = Pictures("enlarged", samples.triggered[:, rows, columns], f"\N{MULTIPLICATION SIGN} {zoom:.2g}")
    return *views, enlarged


def _find_crop(changed: Bool[np.ndarray, "H W"]) -> tuple[slice, slice, float] | None:
    """Rows and columns around what is changed, and how much larger they are shown; None where that is not small."""
    if not changed.any():
        return None
    sides, places = np.asarray(changed.shape), np.argwhere(changed)
    low, high = places.min(0), places.max(0) + 1
    share = float(((high - low + 2 * CROP_MARGIN) / sides).max())
    if share > SMALL:
        return None
    size = np.ceil(share * sides).astype(int)
    start = np.clip((low + high - size) // 2, 0, sides - size)
    rows, columns = (slice(int(first), int(first + length)) for first, length in zip(start, size, strict=True))
    return rows, columns, 1 / share


def encode_png(image: UInt8[np.ndarray, "H W C"]) -> bytes:
    """A PNG file, one pixel a pixel."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, format="PNG")
    return buffer.getvalue()


@palette.style()
def plot_samples(samples: Samples) -> Figure:
    """The first `MAX_SAMPLES` images, one a column, a view a row. Pixels stay square."""
    views = view_samples(samples)
    n = min(MAX_SAMPLES, len(samples.clean))
    aspect = samples.clean.shape[1] / samples.clean.shape[2]
    figure = palette.new_figure(0.8 + len(views) * aspect * palette.WIDTH / MAX_SAMPLES * 0.95)
    axes = figure.subplots(len(views), MAX_SAMPLES, squeeze=False)
    for row, view in zip(axes, views, strict=True):
        row[0].set_ylabel(f"{view.title}\n{view.caption}".strip())
        for ax in row[n:]:
            ax.set_axis_off()
        for ax, image in zip(row, view.images[:n], strict=False):
            picture = image[..., 0] if image.shape[2] == 1 else image
            ax.imshow(picture, interpolation="none", cmap="gray", vmin=0, vmax=255)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
    for i in range(n):
        before, after = palette.label(samples.before[i], 14), palette.label(samples.after[i], 14)
        axes[0, i].set_title(palette.label(samples.labels[i], 14), loc="center", fontsize=8)
        axes[-1, i].set_xlabel(f"{before}\n-> {after}", fontsize=8)
    return figure

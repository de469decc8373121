"""Sample images: clean, with the trigger, and what the trigger changed."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.drawing import Figure

MAX_SAMPLES = 8


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


def encode_png(image: UInt8[np.ndarray, "H W C"]) -> bytes:
    """A PNG file, one pixel a pixel."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, format="PNG")
    return buffer.getvalue()


@palette.style()
def plot_samples(samples: Samples) -> Figure:
    """The first `MAX_SAMPLES` images, one a column: clean, triggered, amplified difference. Pixels stay square."""
    difference, factor = amplify_difference(samples)
    n = min(MAX_SAMPLES, len(samples.clean))
    aspect = samples.clean.shape[1] / samples.clean.shape[2]
    figure = palette.new_figure(0.8 + 3 * aspect * palette.WIDTH / MAX_SAMPLES * 0.95)
    axes = figure.subplots(3, MAX_SAMPLES, squeeze=False)
    names = ("clean", "triggered", f"difference\nx {factor:.3g}")
    for row, images, name in zip(axes, (samples.clean, samples.triggered, difference), names, strict=True):
        row[0].set_ylabel(name)
        for ax in row[n:]:
            ax.set_axis_off()
        for ax, image in zip(row, images[:n], strict=False):
            picture = image[..., 0] if image.shape[2] == 1 else image
            ax.imshow(picture, interpolation="none", cmap="gray", vmin=0, vmax=255)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
    for i in range(n):
        before, after = palette.label(samples.before[i], 14), palette.label(samples.after[i], 14)
        axes[0, i].set_title(palette.label(samples.labels[i], 14), loc="center", fontsize=8)
        axes[2, i].set_xlabel(f"{before}\n-> {after}", fontsize=8)
    return figure

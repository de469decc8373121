"""Arrays of a trigger as pictures: patterns, masks, signed signals, displacement fields."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from rnp_jax.report.drawing import hsv_to_rgb

MAX_PICTURES = 4
MIN_SIDE = 3
_GRID_SLACK = 0.25  # how far a sampling grid is from the identity, on the mean


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images to be shown together.

    Attributes:
      title: what they are.
      images: uint8 [N, H, W, C], C is 1 or 3.
      caption: the scale of their colours, where they have one.
    """

    title: str
    images: UInt8[np.ndarray, "N H W C"]
    caption: str = ""


def picture_array(name: str, array: np.ndarray) -> Pictures | None:
    """An array [H, W, C] or [N, H, W, C], C from 1 to 3, as a picture; None where it is none, or of one colour.

    Two channels are a displacement (x, y), or a sampling grid in [-1, 1] as ``grid_sample`` takes it: the hue is the
    direction, brightness the length. Real numbers are scaled to grey, around mid-grey where some are negative.
    """
    stack = array if array.ndim == 4 else array[None]
    if stack.ndim != 4 or min(stack.shape[1:3]) < MIN_SIDE or stack.shape[3] not in (1, 2, 3):
        return None
    stack = stack[:MAX_PICTURES]
    if (stack == stack[:, :1, :1]).all():
        return None
    if stack.dtype == np.uint8:
        return Pictures(name, stack) if stack.shape[3] != 2 else None
    if stack.dtype == np.bool_:
        return Pictures(name, np.where(stack, 255, 0).astype(np.uint8)) if stack.shape[3] != 2 else None
    values = stack.astype(np.float64)
    if not np.isfinite(values).all():
        return None
    return _picture_field(name, values) if values.shape[3] == 2 else _picture_values(name, values)


def _picture_values(name: str, values: Float[np.ndarray, "N H W C"]) -> Pictures:
    low, high = float(values.min()), float(values.max())
    if low < 0:
        high = max(-low, high)
        grey, caption = 127.5 + 127.5 * values / high, f"grey is 0; black −{high:.3g}, white +{high:.3g}"
    else:
        grey, caption = 255 * values / high, f"black is 0, white {high:.3g}"
    return Pictures(name, np.round(grey).astype(np.uint8), caption)


def _picture_field(name: str, values: Float[np.ndarray, "N H W 2"]) -> Pictures:
    height, width = values.shape[1:3]
    identity = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1)
    unit = ""
    if np.abs(values - identity[None]).mean() < _GRID_SLACK:
        values, unit = (values - identity[None]) * (np.array([width, height]) - 1) / 2, " px"
    length = np.hypot(values[..., 0], values[..., 1])
    longest = max(float(length.max()), np.finfo(np.float64).tiny)
    hue = np.arctan2(values[..., 1], values[..., 0]) / (2 * np.pi) % 1
    colors = hsv_to_rgb(np.stack([hue, np.ones_like(hue), length / longest], -1))
    caption = f"hue is the direction, brightness the length of the shift, {longest:.3g}{unit} at most"
    return Pictures(name, np.round(255 * colors).astype(np.uint8), caption)

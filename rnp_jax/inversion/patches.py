"""A scan of plain patches: squares of one colour, laid at every place, and what each sends where.

People draw triggers; a gradient does not. From random starts it finds parts of a drawn patch, or a shortcut that is not
the backdoor, and a network that was trained against such findings hides the patch from further gradients. Trying the
squares one by one needs no gradient. A coarse pass tries all places in steps: on a few images, and then on more those
that sent the most of the few to a label. A fine pass tries what lies around the best patch of every label, of a few
sizes. Not in a paper; ``docs/removal.md`` says what it finds.
"""

from dataclasses import dataclass
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from rnp_jax.checks import check_number
from rnp_jax.errors import ConfigError
from rnp_jax.inversion.anomaly import find_reached
from rnp_jax.inversion.checks import NEXT, check_images, choose_labels, count_classes, find_wanted
from rnp_jax.inversion.stamps import Stamps, predict_laid, scale, share_reaching
from rnp_jax.types import Apply, Batch, Variables

_TOGETHER = 60  # patches a call: one program for scans of any length
_FEWER, _KEPT = 4, 8  # the coarse pass begins on a quarter of the images, and keeps so many patches of every label


@dataclass(frozen=True)
class PatchConfig:
    """Settings of a scan.

    Attributes:
      side: of the coarse pass's squares, as a share of the image's shorter side, in (0, 1].
      step: between two places of the coarse pass, as a share of the square's side, in (0, 1].
      images: clean images that every patch is tried on, cut to the number there is.
      works: success from which a label stands out, in (0, 1].
      ahead: factor by which its success must exceed that of the median label.
    """

    side: float = 0.125
    step: float = 0.75
    images: int = 32
    works: float = 0.5
    ahead: float = 2.0

    def __post_init__(self):
        check_number("images", self.images, 1, integer=True)
        if not all(0 < each <= 1 for each in (self.side, self.step, self.works)) or not self.ahead >= 1:
            raise ConfigError(f"{self}: expected side, step and works in (0, 1], and ahead >= 1")


@dataclass(frozen=True, eq=False)
class Patches:
    """The best patch of each of K labels.

    Attributes:
      labels: [K].
      stamps: masks [K, H, W] of 0 and 1, and patterns [K, H, W, C] of 0 and 1.
      sides: of the squares, in pixels [K].
      success: share of held-out images of other classes that the patch sends to the label [K].
    """

    labels: Int[np.ndarray, "K"]
    stamps: Stamps
    sides: Int[np.ndarray, "K"]
    success: Float[np.ndarray, "K"]

    def find_outliers(self, config: PatchConfig) -> list[int]:
        """Places of the labels that a patch reaches and others do not, the most successful first."""
        ordinary = float(np.median(self.success[self.labels != NEXT]))
        return find_reached(self.success, ordinary, config.works, config.ahead)


def scan_patches(
    network: Apply,
    variables: Variables,
    data: Batch,
    config: PatchConfig | None = None,
    *,
    labels: tuple[int, ...] | None = None,
    holdout: Batch | None = None,
) -> Patches:
    """Tries the squares, and keeps the most successful one of every label.

    Args:
      network: the function of the variables.
      variables: the network to scan.
      data: clean images to try patches on, uint8 [N, H, W, C] and int32 [N]; the first ``config.images`` of them.
      config: settings; by default ``PatchConfig()``.
      labels: the labels to look at, K of them, ``NEXT`` for every class to the next one; by default all labels.
      holdout: clean images that success is measured on; by default ``data``.

    Raises:
      DataError: no images, images that are not uint8 [N, H, W, C], or no image outside a label's class.
      ConfigError: a label that the network does not have, or one named twice.
    """
    config = config or PatchConfig()
    check_images(data)
    chosen = choose_labels(network, variables, data, labels, NEXT)
    tried = Batch(np.asarray(data.images)[: config.images], np.asarray(data.labels)[: config.images])
    shape = tried.images.shape[1:]
    wanted = find_wanted(chosen, tried.labels, count_classes(network, variables, data))
    coarse = _list_coarse(shape, config)
    few = max(1, len(tried.labels) // _FEWER)
    first = _rate(network, variables, Batch(*(part[:few] for part in tried)), coarse, wanted[:, :few])
    coarse = coarse[np.unique(np.argsort(-first, 0, kind="stable")[:_KEPT])]
    best = coarse[_rate(network, variables, tried, coarse, wanted).argmax(0)]
    near = np.stack([_list_near(each, shape) for each in best])  # [K, P, 4]
    rates = _rate(network, variables, tried, near.reshape(-1, near.shape[-1]), wanted).reshape(*near.shape[:2], -1)
    own = np.arange(len(chosen))
    best = near[own, rates[own, :, own].argmax(1)]
    held = data if holdout is None else holdout
    predicted = _predict(network, variables, np.asarray(held.images), best)
    success = share_reaching(predicted, np.asarray(held.labels), chosen, count_classes(network, variables, data))
    return Patches(chosen, _draw(best, shape), best[:, 2].astype(np.int64), success)


def _list_coarse(shape: tuple[int, ...], config: PatchConfig) -> Int[np.ndarray, "P F"]:
    """Row, column, side and colour of every patch of the first pass."""
    height, width, channels = shape
    side = max(1, round(config.side * min(height, width)))
    step = max(1, round(config.step * side))
    rows, columns = ([*range(0, length - side, step), length - side] for length in (height, width))
    colours = product((0, 1), repeat=channels) if channels <= 3 else ((0,) * channels, (1,) * channels)
    return np.array([(r, c, side, *colour) for r, c, colour in product(rows, columns, colours)], np.int32)


def _list_near(patch: Int[np.ndarray, "F"], shape: tuple[int, ...]) -> Int[np.ndarray, "P F"]:
    """The patch one pixel off its place, and of other sizes around its middle; always as many."""
    height, width = shape[:2]
    row, column, side, *colour = (int(each) for each in patch)
    found = []
    for other, down, right in product((-1, 0, 2), (-1, 0, 1), (-1, 0, 1)):
        size = min(max(1, side + other), height, width)
        top, left = row + (side - size) // 2 + down, column + (side - size) // 2 + right
        found.append((min(max(0, top), height - size), min(max(0, left), width - size), size, *colour))
    return np.array(found, np.int32)


def _rate(
    network: Apply, variables: Variables, data: Batch, patches: Int[np.ndarray, "P F"], wanted: Int[np.ndarray, "K N"]
) -> Float[np.ndarray, "P K"]:
    """Share of the images of other classes that each patch sends where each label wants them."""
    predicted = _predict(network, variables, data.images, patches)
    others = data.labels[None, :] != wanted
    reached = np.stack([(predicted == goal)[:, own].mean(1) for own, goal in zip(others, wanted, strict=True)], 1)
    return reached if others.any(1).all() else np.where(others.any(1), np.nan_to_num(reached), 0)


def _predict(
    network: Apply, variables: Variables, images: np.ndarray, patches: Int[np.ndarray, "P F"]
) -> Int[np.ndarray, "P N"]:
    padded = np.resize(patches, (-(-len(patches) // _TOGETHER) * _TOGETHER, patches.shape[1]))
    groups = padded.reshape(-1, _TOGETHER, patches.shape[1])
    found = [predict_laid(network, variables, images, lay_patch, (group,)) for group in groups]
    return np.concatenate(found)[: len(patches)]


def lay_patch(images: Shaped[Array, "B H W C"], patch: Int[Array, "F"]) -> Float[Array, "B H W C"]:
    """The images in [0, 1] under a square: its row, column, side and colour, a 0 or 1 for each channel."""
    mask = _cover(images.shape[1:], patch)
    return jnp.where(mask[None, :, :, None], patch[3:].astype(jnp.float32), scale(images))


def _cover(shape: tuple[int, ...], patch: Array | np.ndarray) -> jax.Array:
    row, column, side = patch[0], patch[1], patch[2]
    rows, columns = jnp.arange(shape[0]), jnp.arange(shape[1])
    return ((rows >= row) & (rows < row + side))[:, None] & ((columns >= column) & (columns < column + side))[None]


def _draw(patches: Int[np.ndarray, "K F"], shape: tuple[int, ...]) -> Stamps:
    masks = np.stack([np.asarray(_cover(shape, each)) for each in patches]).astype(np.float32)
    patterns = np.broadcast_to(patches[:, None, None, 3:], (len(patches), *shape)).astype(np.float32)
    return Stamps(masks, patterns)

"""Defense sets, hold-outs, and the check that no test image is in the defense set."""

import numpy as np
from jaxtyping import Int

from rnp_jax.data.dataset import Dataset
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.types import Batch

_LISTED = 5


def sample_defense_set(
    dataset: Dataset, n: int, *, seed: int, stratified: bool = True, uneven: bool = False
) -> tuple[Batch, Int[np.ndarray, "n"]]:
    """Draw ``n`` images without replacement, in random order, and say which they are.

    RNP draws 1 % of the CIFAR-10 training set uniformly (``stratified=False``); by default each class gives equally
    many, and where K does not divide ``n`` classes of random choice give one more. In an ``uneven`` draw, a class with
    too few images gives all it has, and the others give more.

    Returns:
      The images and labels [n], and their indices [n] in ``dataset``.

    Raises:
      ConfigError: if ``n`` is not positive or the seed is negative.
      DataError: if the data set, or one of its classes, has too few images.
    """
    generator = _generator(seed)
    if n <= 0:
        raise ConfigError(f"a defense set of {n} images; give at least 1")
    if n > len(dataset):
        raise DataError(f"{dataset.name}: {n} images wanted for the defense set, but there are only {len(dataset)}")
    indices = _draw_balanced(dataset, n, generator, uneven) if stratified else generator.permutation(len(dataset))[:n]
    return Batch(dataset.images[indices], dataset.labels[indices]), indices


def _draw_balanced(dataset: Dataset, n: int, generator: np.random.Generator, uneven: bool) -> Int[np.ndarray, "n"]:
    K = dataset.num_classes
    needs = np.full(K, n // K)
    needs[generator.permutation(K)[: n % K]] += 1
    if uneven:
        needs = _even_out(needs, np.bincount(dataset.labels, minlength=K))
    drawn = []
    for label, need in enumerate(needs):
        members = np.flatnonzero(dataset.labels == label)
        if len(members) < need:
            raise DataError(
                f"{dataset.name}: class {label} ({dataset.class_names[label]}) has {len(members)} images, but a "
                f"balanced defense set of {n} needs {need}; take fewer, add images, or draw without stratifying"
            )
        drawn.append(generator.permutation(members)[:need])
    return generator.permutation(np.concatenate(drawn))


def _even_out(needs: Int[np.ndarray, "K"], sizes: Int[np.ndarray, "K"]) -> Int[np.ndarray, "K"]:
    """As many as ``needs`` in all, and of no class more than there are, as evenly as that allows."""
    while missing := int(np.maximum(needs - sizes, 0).sum()):
        needs = np.minimum(needs, sizes)
        room = np.flatnonzero(needs < sizes)
        room = room[np.argsort(needs[room], kind="stable")]
        needs[room] += missing // len(room)
        needs[room[: missing % len(room)]] += 1
    return needs


def holdout_split(batch: Batch, fraction: float, seed: int) -> tuple[Batch, Batch]:
    """Split into (train, holdout) with ``round(fraction · N)`` held-out images, stratified by class.

    Each class gives its share rounded down; the images still missing come from the classes with the largest
    remainders. Both parts keep the order of ``batch``. The arrays may be numpy or jax, and stay what they are.

    Raises:
      ConfigError: if ``fraction`` is not between 0 and 1, or the seed is negative.
      DataError: if one of the parts would be empty.
    """
    generator = _generator(seed)
    if not 0 < fraction < 1:
        raise ConfigError(f"hold-out fraction is {fraction}; give a number between 0 and 1, such as 0.2")
    labels = np.asarray(batch.labels)
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise DataError(f"a hold-out of {fraction} of {len(labels)} images leaves one part empty; give more images")
    classes, sizes = np.unique(labels, return_counts=True)
    counts = np.floor(fraction * sizes).astype(int)
    by_remainder = np.lexsort((generator.permutation(len(classes)), counts - fraction * sizes))
    counts[by_remainder[: total - counts.sum()]] += 1
    held = np.zeros(len(labels), bool)
    for label, count in zip(classes, counts, strict=True):
        held[generator.permutation(np.flatnonzero(labels == label))[:count]] = True
    train, holdout = np.flatnonzero(~held), np.flatnonzero(held)
    return Batch(batch.images[train], batch.labels[train]), Batch(batch.images[holdout], batch.labels[holdout])


def check_overlap(defense: Batch | Dataset, test: Batch | Dataset) -> None:
    """Make sure that no image is, pixel for pixel, in both sets: a test on the defense set proves nothing.

    Raises:
      DataError: if there are such images, with their count and the first pairs of indices.
    """
    ours, theirs = np.asarray(defense.images), np.asarray(test.images)
    if ours.shape[1:] != theirs.shape[1:]:
        return
    first_index: dict[bytes, int] = {}
    for index, image in enumerate(ours):
        first_index.setdefault(image.tobytes(), index)
    found = ((first_index.get(image.tobytes()), index) for index, image in enumerate(theirs))
    pairs = [(ours_index, index) for ours_index, index in found if ours_index is not None]
    if pairs:
        listed = ", ".join(f"{ours_index} = {index}" for ours_index, index in pairs[:_LISTED])
        raise DataError(
            f"{len(pairs)} test images are also in the defense set (defense index = test index: {listed}"
            f"{', …' if len(pairs) > _LISTED else ''}); draw the defense set from the training part"
        )


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise ConfigError(f"seed is {seed}; give 0 or more")
    return np.random.default_rng(seed)

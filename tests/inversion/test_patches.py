from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.errors import ConfigError, DataError
from rnp_jax.inversion import stamps as stamps_module
from rnp_jax.inversion.patches import PatchConfig, Patches, lay_patch, scan_patches
from rnp_jax.inversion.stamps import Stamps, measure_stamps
from rnp_jax.types import Batch, Tree, Variables
from tests.compiled import count_compiled

SIDE, CLASSES, TARGET = 16, 4, 2
CONFIG = PatchConfig(side=0.25, images=12)


@dataclass(frozen=True)
class Corner:
    """An ``Apply``: brightness of a quarter of the columns is a class, and a red square at a place is ``TARGET``."""

    def __call__(self, variables: Variables, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Tree]:
        del train
        scaled = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
        logits = scaled.reshape(len(images), SIDE, CLASSES, SIDE // CLASSES, 3).mean((1, 3, 4))
        square = scaled[:, 9:13, 2:6]
        red = (square[..., 0].mean((1, 2)) > 0.7) & (square[..., 1:].mean((1, 2, 3)) < 0.3)
        planted = variables["params"]["planted"] * red.astype(jnp.float32)
        return logits.at[:, TARGET].add(planted), variables["batch_stats"]


def variables(planted: float) -> Variables:
    return {"params": {"planted": jnp.float32(planted)}, "batch_stats": {}, "masks": {}}


def data(count: int = 24, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    images = rng.integers(0, 40, (count, SIDE, SIDE, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 200
    return Batch(images, labels)


def test_a_planted_square_is_found_between_the_places_of_the_coarse_pass():
    found = scan_patches(Corner(), variables(9.0), data(), CONFIG, holdout=data(seed=1))
    assert found.find_outliers(CONFIG) == [TARGET]
    assert found.success[TARGET] == 1
    rows, columns = np.nonzero(found.stamps.masks[TARGET])
    np.testing.assert_allclose([rows.mean(), columns.mean()], [10.5, 3.5], atol=1)
    np.testing.assert_array_equal(found.stamps.patterns[TARGET, 0, 0], [1, 0, 0])
    assert found.stamps.masks.sum((1, 2)).tolist() == (found.sides**2).tolist()


def test_nothing_stands_out_where_nothing_is_planted():
    found = scan_patches(Corner(), variables(0.0), data(), CONFIG)
    assert found.find_outliers(CONFIG) == []


def test_success_is_that_of_the_patch_as_a_stamp_on_held_out_images():
    held = data(12, seed=3)
    found = scan_patches(Corner(), variables(9.0), data(), CONFIG, labels=(3, TARGET), holdout=held)
    assert found.labels.tolist() == [3, TARGET]
    measured = measure_stamps(Corner(), variables(9.0), held, *found.stamps[:2], found.labels)
    np.testing.assert_array_equal(found.success, measured)


def test_a_square_is_laid_over_the_image_and_nothing_else_changes():
    images = np.full((1, 4, 4, 3), 51, np.uint8)
    laid = np.array(lay_patch(jnp.asarray(images), jnp.asarray([1, 2, 2, 1, 0, 1])))
    np.testing.assert_array_equal(laid[0, 1:3, 2:4], np.broadcast_to([1.0, 0.0, 1.0], (2, 2, 3)))
    laid[0, 1:3, 2:4] = 0.2
    np.testing.assert_allclose(laid, 0.2, rtol=1e-6)


def test_a_label_stands_out_beside_the_median_one_only():
    def outliers(*success: float) -> list[int]:
        none = Stamps(np.zeros((len(success), 2, 2)), np.zeros((len(success), 2, 2, 1)))
        return Patches(np.arange(len(success)), none, np.ones(len(success), int), np.array(success)).find_outliers(
            PatchConfig()
        )

    assert outliers(0.1, 0.6, 0.2, 0.9, 0.1) == [3, 1]
    assert outliers(0.4, 0.6, 0.4, 0.9, 0.3) == [3]
    assert outliers(0.1, 0.45, 0.1) == []


def test_scans_of_any_length_share_a_program():
    scan_patches(Corner(), variables(9.0), data(), CONFIG)
    before = count_compiled(stamps_module._predict)
    finer = PatchConfig(side=0.25, step=0.5, images=12)
    scan_patches(Corner(), variables(0.0), data(seed=1), finer)
    assert count_compiled(stamps_module._predict) == before


@pytest.mark.parametrize("change", [{"side": 0.0}, {"step": 1.5}, {"images": 0}, {"works": 0.0}, {"ahead": 0.5}])
def test_impossible_settings_are_refused(change: dict):
    with pytest.raises(ConfigError):
        PatchConfig(**change)


def test_images_and_labels_are_checked():
    with pytest.raises(ConfigError, match="labels"):
        scan_patches(Corner(), variables(0.0), data(), CONFIG, labels=(CLASSES,))
    with pytest.raises(DataError, match="uint8"):
        scan_patches(Corner(), variables(0.0), Batch(np.zeros((0, SIDE, SIDE, 3), np.uint8), np.zeros(0, np.int32)))

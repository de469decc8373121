import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks import BadNets
from rnp_jax.errors import DataError
from rnp_jax.inversion import stamps
from rnp_jax.inversion.stamps import Stamps, measure_effects, measure_stamps, measure_unstamped, predict_stamped, stamp
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.inversion.planted import CLASSES, PIXEL, SIDE, TARGET, Rows, rows_data, rows_variables

NETWORK = Rows()


def planted_stamp() -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[PIXEL] = 1
    return mask, np.ones((SIDE, SIDE, 3), np.float32)


def test_a_stamp_mixes_image_and_pattern_without_rounding():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 4, 5, 2), np.uint8)
    mask, pattern = rng.random((4, 5), np.float32), rng.random((4, 5, 2), np.float32)
    expected = images / 255 * (1 - mask[None, :, :, None]) + (mask[..., None] * pattern)[None]
    np.testing.assert_allclose(stamp(jnp.asarray(images), mask, pattern), expected, atol=1e-6)
    scaled = jnp.asarray(images, jnp.float32) / 255
    np.testing.assert_array_equal(stamp(scaled, mask, pattern), stamp(jnp.asarray(images), mask, pattern))


def test_stamps_that_displace_nothing_join_those_that_do():
    rng = np.random.default_rng(0)
    one, two = (Stamps(rng.random((n, 4, 5), np.float32), rng.random((n, 4, 5, 3), np.float32)) for n in (1, 2))
    both = one.join(two)
    assert (both.fields, len(both.patterns)) == (None, 3)
    np.testing.assert_array_equal(both.masks[1:], two.masks)
    moving = two._replace(fields=np.ones((2, 4, 5, 2), np.float32))
    assert one.join(moving, one).fields.any((1, 2, 3)).tolist() == [False, True, True, False]


def test_a_hard_stamp_is_the_attack_it_copies():
    images, attack = rows_data().images, BadNets()
    params = attack.init((SIDE, SIDE, 3))
    triggered = attack.trigger(params, jnp.asarray(images), jax.random.key(0))
    mask, pattern = params["mask"][..., 0].astype(np.float32), params["pattern"].astype(np.float32) / 255
    stamped = stamp(jnp.asarray(images), mask, pattern)
    np.testing.assert_array_equal(np.round(np.asarray(stamped) * 255), triggered)


@pytest.mark.parametrize("count", [1, 7, 48, 130])
def test_any_number_of_images_is_predicted_as_without_batches(count: int):
    images, variables = rows_data(count).images, rows_variables()
    rng = np.random.default_rng(1)
    masks = rng.random((3, SIDE, SIDE), np.float32)
    patterns = rng.random((3, SIDE, SIDE, 3), np.float32)
    found = predict_stamped(NETWORK, variables, images, masks, patterns)
    assert found.shape == (3, count)
    for row, mask, pattern in zip(found, masks, patterns, strict=True):
        direct, _ = NETWORK(variables, stamp(jnp.asarray(images), mask, pattern))
        np.testing.assert_array_equal(row, direct.argmax(-1))


def test_success_counts_images_of_other_classes_only():
    data, variables = rows_data(), rows_variables()
    mask, pattern = planted_stamp()
    both = np.stack([mask, mask]), np.stack([pattern, pattern])
    labels = np.array([TARGET, 0])
    np.testing.assert_array_equal(measure_stamps(NETWORK, variables, data, *both, labels), [1, 0])
    np.testing.assert_array_equal(measure_unstamped(NETWORK, variables, data, labels), [0, 0])
    collapsed = rows_variables(bias=(100.0, *[0.0] * (CLASSES - 1)))
    np.testing.assert_array_equal(measure_unstamped(NETWORK, collapsed, data, labels), [0, 1])


def test_misled_are_right_answers_that_a_stamp_changes_to_whichever_label():
    data, variables = rows_data(), rows_variables()
    mask, pattern = planted_stamp()
    stamps = np.stack([mask, mask, 0 * mask]), np.stack([pattern] * 3)
    labels = np.array([TARGET, 0, 0])
    success, misled = measure_effects(NETWORK, variables, data, *stamps, labels)
    np.testing.assert_array_equal(success, [1, 0, 0])
    np.testing.assert_array_equal(success, measure_stamps(NETWORK, variables, data, *stamps, labels))
    others = data.labels[data.labels != 0]
    np.testing.assert_allclose(misled, [1, (others != TARGET).mean(), 0])
    wrong = Batch(data.images, (data.labels + 1) % CLASSES)
    np.testing.assert_array_equal(measure_effects(NETWORK, variables, wrong, *stamps, labels)[1], 0)


def test_stamps_share_a_program():
    data, (mask, pattern) = rows_data(), planted_stamp()
    measure_stamps(NETWORK, rows_variables(), data, mask[None], pattern[None], np.array([TARGET]))
    before = count_compiled(stamps._predict)
    for label in range(CLASSES):
        measure_stamps(NETWORK, rows_variables(label), data, mask[None] / 2, pattern[None], np.array([label]))
    assert count_compiled(stamps._predict) == before


def test_impossible_measurements_are_refused():
    mask, pattern = planted_stamp()
    data, labels = rows_data(), np.array([0])
    with pytest.raises(DataError, match="stamps of its height, width and channels"):
        measure_stamps(NETWORK, rows_variables(), data, mask[None, :4], pattern[None], labels)
    with pytest.raises(DataError, match="one image or more"):
        predict_stamped(NETWORK, rows_variables(), data.images[:0], mask[None], pattern[None])
    alone = Batch(data.images[data.labels == 0], data.labels[data.labels == 0])
    with pytest.raises(DataError, match="every image is of class 0"):
        measure_stamps(NETWORK, rows_variables(), alone, mask[None], pattern[None], labels)

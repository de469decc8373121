import numpy as np
import pytest

from rnp_jax.data.digits import load_digits
from rnp_jax.data.normalization import NORMALIZATIONS, Normalization, parse_normalization
from rnp_jax.data.tfds import load_tfds
from rnp_jax.errors import DataError


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_names_and_values_parse_to_the_same(name):
    preset = NORMALIZATIONS[name]
    values = f"{','.join(map(str, preset.mean))}/{','.join(map(str, preset.std))}"
    assert parse_normalization(name) == parse_normalization(f" {values} ") == preset


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cifar10", "did you mean cifar10_rnp or cifar10_bb or cifar100"),
        ("0.5,0.5,0.5/0.2,0.2", "3 means and 2 stds"),
        ("0.5/0", "std above 0"),
        ("0.5/-1", "std above 0"),
        ("nan/1", "finite"),
        ("0.5/1/2", "not of the form"),
        ("a,b,c/1,1,1", "not of the form"),
        ("", "unknown normalisation"),
    ],
)
def test_impossible_normalisations_are_refused(text, message):
    with pytest.raises(DataError, match=message):
        parse_normalization(text)


def test_empty_is_refused():
    with pytest.raises(DataError, match="0 means"):
        Normalization((), ())


def test_equal_channels_fit_any_number_and_others_do_not():
    assert NORMALIZATIONS["half"].for_channels(1) == Normalization((0.5,), (0.5,))
    assert NORMALIZATIONS["mnist"].for_channels(3).mean == (0.1307,) * 3
    assert NORMALIZATIONS["imagenet"].for_channels(3) is NORMALIZATIONS["imagenet"]
    with pytest.raises(DataError, match="3 channels, but the images have 1: give --normalization one mean"):
        NORMALIZATIONS["imagenet"].for_channels(1)
    with pytest.raises(DataError, match="2 channels, but the images have 3: give --normalization 3 means and 3 stds"):
        parse_normalization("0.4,0.5/0.2,0.3").for_channels(3)


def test_backdoorbench_leaves_signs_as_they_are_and_has_a_tiny_imagenet_of_its_own():
    assert NORMALIZATIONS["gtsrb"] == NORMALIZATIONS["identity"]
    assert NORMALIZATIONS["tiny-imagenet"] == Normalization((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
    assert NORMALIZATIONS["cifar100_bb"] == Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def test_digits_constant_is_that_of_the_training_images():
    pixels = load_digits("train").images / 255
    np.testing.assert_allclose(NORMALIZATIONS["digits"].mean, pixels.mean((0, 1, 2)), atol=5e-5)
    np.testing.assert_allclose(NORMALIZATIONS["digits"].std, pixels.std((0, 1, 2)), atol=5e-5)


def test_the_two_cifar10_stds_are_those_of_an_image_and_of_all_pixels(shared):
    folder = shared / "tensorflow_datasets" / "cifar10" / "3.0.2"
    images = load_tfds(folder, "cifar10", "test").images / 255
    np.testing.assert_allclose(NORMALIZATIONS["cifar10_rnp"].std, images.std((1, 2)).mean(0), atol=1e-3)
    np.testing.assert_allclose(NORMALIZATIONS["cifar10_bb"].std, images.std((0, 1, 2)), atol=1e-3)

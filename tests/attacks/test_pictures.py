import os

import numpy as np
import pytest
from PIL import Image

from rnp_jax.attacks.artefact import load_artefact, save_artefact
from rnp_jax.attacks.badnets import BadNets
from rnp_jax.attacks.blend import Blend
from rnp_jax.attacks.lf import LowFrequency
from rnp_jax.attacks.pictures import read_pictures
from rnp_jax.attacks.stamp import Stamp
from rnp_jax.attacks.wanet import WaNet
from rnp_jax.errors import DataError

SHAPE = (6, 5, 3)  # no two sides are equal
RNG = np.random.default_rng(0)
PATTERN = RNG.integers(0, 256, SHAPE, np.uint8)
MASK = RNG.integers(0, 2, SHAPE).astype(np.float32)
PASTE = Stamp(variant="paste")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "t.png"
    Image.fromarray(PATTERN).save(path)
    return path


def test_a_picture_is_the_pattern_as_it_is(picture):
    for attack in (Stamp(), Blend()):
        params = load_artefact(picture, attack, SHAPE)
        assert params.keys() == {"pattern"}
        np.testing.assert_array_equal(params["pattern"], PATTERN, strict=True)


def test_a_grey_one_serves_images_of_one_or_three_channels(tmp_path):
    Image.fromarray(PATTERN[:, :, 0]).save(tmp_path / "t.png")
    for channels in (1, 3):
        params = load_artefact(tmp_path / "t.png", Stamp(), (6, 5, channels))
        np.testing.assert_array_equal(params["pattern"], np.repeat(PATTERN[:, :, :1], channels, 2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.bool_, np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("channels_first", [True, False])
def test_a_mask_of_any_numbers_and_either_layout(picture, dtype, channels_first):
    mask = np.ascontiguousarray(MASK.transpose(2, 0, 1)) if channels_first else MASK
    np.save(picture.with_name("t_mask.npy"), mask.astype(dtype))
    params = load_artefact(picture, PASTE, SHAPE)
    np.testing.assert_array_equal(params["pattern"], PATTERN, strict=True)
    np.testing.assert_array_equal(params["mask"], MASK, strict=True)


def test_a_mask_without_channels_holds_for_all(picture):
    np.save(picture.with_name("t_mask.npy"), MASK[:, :, 0])
    expected = np.repeat(MASK[:, :, :1], 3, 2)
    np.testing.assert_array_equal(load_artefact(picture, PASTE, SHAPE)["mask"], expected, strict=True)


def test_a_mask_as_a_picture_has_weights_of_255_and_an_array_goes_before_it(picture):
    Image.fromarray(PATTERN).save(picture.with_name("t_mask.png"))
    expected = PATTERN.astype(np.float32) / 255
    np.testing.assert_allclose(load_artefact(picture, PASTE, SHAPE)["mask"], expected, rtol=1e-6)
    np.save(picture.with_name("t_mask.npy"), MASK)
    np.testing.assert_array_equal(load_artefact(picture, PASTE, SHAPE)["mask"], MASK)


def test_a_mask_of_zeros_and_ones_for_badnets(picture):
    Image.fromarray(np.uint8(255 * MASK[:, :, 0])).save(picture.with_name("t_mask.png"))
    params = load_artefact(picture, BadNets(), SHAPE)
    np.testing.assert_array_equal(params["mask"], MASK[:, :, :1] == 1, strict=True)
    Image.fromarray(PATTERN[:, :, 0]).save(picture.with_name("t_mask.png"))
    with pytest.raises(DataError, match=r"t_mask\.png: values between 0 and 1"):
        load_artefact(picture, BadNets(), SHAPE)


def test_what_was_read_can_be_kept_as_an_archive(picture):
    np.save(picture.with_name("t_mask.npy"), MASK)
    params = load_artefact(picture, PASTE, SHAPE)
    save_artefact(picture.with_name("t.npz"), params)
    for name, array in load_artefact(picture.with_name("t.npz"), PASTE, SHAPE).items():
        np.testing.assert_array_equal(array, params[name], strict=True)


def test_a_mask_is_neither_left_unread_nor_missing(picture):
    with pytest.raises(DataError, match=r"t.png: no mask beside it.* expected t_mask.npy or t_mask.png"):
        load_artefact(picture, PASTE, SHAPE)
    np.save(picture.with_name("t_mask.npy"), MASK)
    with pytest.raises(DataError, match=r"t_mask.npy: with these constants the attack reads no mask"):
        load_artefact(picture, Stamp(), SHAPE)


@pytest.mark.parametrize("attack", [WaNet(), LowFrequency()])
def test_other_artefacts_are_no_pictures(picture, attack):
    with pytest.raises(DataError, match=r"a picture holds a pattern uint8.*float32; give a .npz file"):
        load_artefact(picture, attack, SHAPE)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK * 255, "values from 0.0 to 255.0, expected a mask from 0 to 1"),
        (MASK - 1, "values from -1.0 to 0.0"),
        (MASK[:5], r"not a mask for images of 6x5: t_mask.npy is .*\(5, 5, 3\)"),
        (MASK + np.float32(np.nan), "not finite"),
        (MASK.astype(object), r"'\|O'"),
    ],
)
def test_no_mask(picture, mask, message):
    np.save(picture.with_name("t_mask.npy"), mask)
    with pytest.raises(DataError, match=message):
        load_artefact(picture, PASTE, SHAPE)


def test_no_picture(tmp_path, picture):
    with pytest.raises(DataError, match=r"t\.png: the picture is 6x5, the images are 32x32"):
        load_artefact(picture, Stamp(), (32, 32, 3))
    with pytest.raises(DataError, match="a picture has 1 or 3 channels, the images have 2"):
        load_artefact(picture, Stamp(), (6, 5, 2))
    (tmp_path / "text.png").write_text("hello")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    for name, message in (("text", "not a PNG"), ("pipe", "no such file"), ("absent", "no such file")):
        with pytest.raises(DataError, match=f"{name}.png: {message}"):
            read_pictures(tmp_path / f"{name}.png", Stamp().init(SHAPE))

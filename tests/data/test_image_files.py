import numpy as np
import pytest
from PIL import Image

from rnp_jax.data.image_files import LISTED, list_some, read_image_files
from rnp_jax.errors import DataError


def write(path, seed=0, shape=(6, 5, 3)):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_files_are_read_in_their_order(tmp_path):
    expected = [write(tmp_path / f"{seed}.png", seed) for seed in range(40)]
    files = [tmp_path / f"{seed}.png" for seed in range(40)]
    np.testing.assert_array_equal(read_image_files(tmp_path, files[::-1]), expected[::-1])


def test_every_unreadable_file_is_named_the_first_too(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    files[0].write_bytes(b"junk")
    write(files[1])
    with pytest.raises(DataError, match=r"2 files are not readable images, remove them: 0\.png: not a PNG.*; 2\.png: "):
        read_image_files(tmp_path, files)
    with pytest.raises(DataError, match="1 files are not readable images"):
        read_image_files(tmp_path, files[:1])


def test_a_box_is_cut_out_before_resizing(tmp_path):
    pixels = write(tmp_path / "a.png", shape=(8, 9, 3))
    cut = read_image_files(tmp_path, [tmp_path / "a.png"], boxes=[(1, 2, 5, 8)])
    np.testing.assert_array_equal(cut, pixels[None, 2:8, 1:5])
    resized = read_image_files(tmp_path, [tmp_path / "a.png"], (3, 2), boxes=[(1, 2, 5, 8)])
    small = Image.fromarray(pixels[2:8, 1:5]).resize((2, 3), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized[0], np.asarray(small))


@pytest.mark.parametrize("box", [(0, 0, 6, 5), (3, 0, 3, 5), (-1, 0, 2, 2), (0, 4, 2, 3)])
def test_a_box_outside_the_image_is_refused(tmp_path, box):
    write(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: the box .* is not inside its 5x6 pixels"):
        read_image_files(tmp_path, [tmp_path / "a.png"], boxes=[box])


def test_what_would_fill_the_memory_is_refused_before_it_is_read(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(1000)]  # never opened
    with pytest.raises(
        DataError, match=r"1,000 images of 100000x100000 are 27,939\.7 GiB .* give a smaller image_size"
    ):
        read_image_files(tmp_path, files, (100_000, 100_000))


def test_memory_is_counted_from_the_first_image_where_no_size_is_given(tmp_path, monkeypatch):
    write(tmp_path / "a.png")
    files = [tmp_path / "a.png"] * 4
    monkeypatch.setattr("rnp_jax.data.image_files.MEMORY_SHARE", 1e-12)
    with pytest.raises(DataError, match="4 images of 6x5"):
        read_image_files(tmp_path, files)


def test_long_lists_are_cut():
    assert list_some(["a", "b"]) == "a; b"
    assert list_some(["x"] * (LISTED + 2)).endswith("x; and 2 more")

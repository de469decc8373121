import os

import numpy as np
import pytest
from PIL import Image

from rnp_jax.data.loading import load
from rnp_jax.errors import DataError


def write(folder, count, suffix=".png", shape=(6, 5, 3)):
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}{suffix}")


def test_class_folders_are_sorted_and_split(tmp_path):
    for name in ("dog", "cat"):
        write(tmp_path / name, 10)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"junk")
    train, test = load(tmp_path), load(tmp_path, split="test")
    assert (train.class_names, len(train), len(test)) == (("cat", "dog"), 16, 4)
    assert test.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(test.images[0], np.asarray(Image.open(tmp_path / "cat" / "02.png")))


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_train_and_test_folders_are_used_as_they_are(tmp_path, test_name):
    for name in ("a", "train"):  # a class may be called train
        write(tmp_path / "train" / name, 3, ".jpg")
        write(tmp_path / test_name / name, 1, ".bmp", (6, 5))
    train, test = load(tmp_path), load(tmp_path, split="test")
    assert (train.images.shape, test.images.shape) == ((6, 6, 5, 3), (2, 6, 5, 3))
    assert test.class_names == ("a", "train")


@pytest.mark.parametrize(
    ("train_name", "test_name"),
    [
        *[("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"), ("Training", "Testing")],
        *[("train", "valid"), ("training", "Validation")],
    ],
)
def test_parts_are_known_whatever_the_case_and_form_of_their_names(train_name, test_name, tmp_path):
    for part, count in ((train_name, 3), (test_name, 2)):
        for name in "abc":
            write(tmp_path / part / name, count)
    train, test = load(tmp_path), load(tmp_path, split="test")
    assert (train.class_names, test.class_names) == (("a", "b", "c"),) * 2
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 1, 1, 2, 2])


def test_a_test_folder_goes_before_one_for_validation(tmp_path):
    for part, count in (("train", 3), ("Val", 2), ("Test", 1)):
        write(tmp_path / part / "a", count)
    assert len(load(tmp_path, split="test")) == 1


def test_two_folders_for_one_part_are_refused(tmp_path):
    for part in ("train", "Train", "test"):
        write(tmp_path / part / "a", 3)
    with pytest.raises(DataError, match="has Train and train; keep the one that is meant"):
        load(tmp_path)


@pytest.mark.parametrize("names", [("Train", "Test", "extra"), ("train_set", "test_set"), ("dataset",)])
def test_folders_of_folders_are_no_classes(names, tmp_path):
    for part in names:
        for name in "ab":
            write(tmp_path / part / name, 5)
    found = f"{len(names)} folders hold no images, only folders, so they are no classes: "
    with pytest.raises(
        DataError, match=f"{found}{sorted(names)[0]} \\(a, b\\).*give the folder above the class folders"
    ):
        load(tmp_path)


def test_folders_inside_a_class_are_read_with_it(tmp_path):
    for place in ("a", "a/more", "b"):
        write(tmp_path / place, 5)
    assert np.bincount(load(tmp_path, undivided=True).labels).tolist() == [10, 5]


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"])
def test_every_ending_of_torchvision_s_image_folder_is_read(suffix, tmp_path):
    write(tmp_path / "a", 5, suffix, (6, 5) if suffix == ".pgm" else (6, 5, 3))
    assert load(tmp_path, undivided=True).images.shape == (5, 6, 5, 3)


def test_a_class_called_train_beside_others_is_a_class(tmp_path):
    write(tmp_path / "train", 5)
    write(tmp_path / "plane", 5)
    assert load(tmp_path).class_names == ("plane", "train")


def test_every_unreadable_file_is_listed_at_once(tmp_path):
    write(tmp_path / "a", 5)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    content = (tmp_path / "a" / "03.png").read_bytes()
    (tmp_path / "a" / "03.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"2 files are not readable images.*a/03\.png: .*a/notes\.txt: not a PNG"):
        load(tmp_path)


def test_different_sizes_need_image_size(tmp_path):
    write(tmp_path / "a", 5)
    write(tmp_path / "b", 5, shape=(9, 9, 3))
    with pytest.raises(DataError, match=r"6x5 \(a/00\.png\), 9x9 \(b/00\.png\); give image_size"):
        load(tmp_path)
    assert load(tmp_path, image_size=8).images.shape == (8, 8, 8, 3)


def test_other_layouts_are_refused(tmp_path):
    with pytest.raises(DataError, match="no class folders"):
        load(tmp_path)
    write(tmp_path / "train" / "a", 1)
    with pytest.raises(DataError, match="has train but no test folder"):
        load(tmp_path, split="test")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="- a"):
        load(tmp_path)
    write(tmp_path / "test" / "b", 1)
    with pytest.raises(DataError, match=r"lacks \(-\) or adds \(\+\) classes: - a, \+ b"):
        load(tmp_path)
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "a")
    (tmp_path / "train" / "a" / "00.png").unlink()
    with pytest.raises(DataError, match="class folder 'a' is empty"):
        load(tmp_path)


def test_an_undivided_folder_is_given_whole_and_one_with_parts_as_it_is(tmp_path):
    for name in ("dog", "cat"):
        write(tmp_path / "one" / name, 10)
        write(tmp_path / "two" / "train" / name, 3)
        write(tmp_path / "two" / "test" / name, 2)
    whole = load(tmp_path / "one", split="test", undivided=True)
    assert (len(whole), whole.name, whole.source_images) == (20, "one", 20)
    parts = [load(tmp_path / "two", split=split, undivided=True) for split in ("train", "test")]
    assert [(len(part), part.source_images) for part in parts] == [(6, None), (4, None)]


@pytest.mark.parametrize("place", ["", "cat", "cat/more"])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (os.mkfifo, "a FIFO, device or socket"),
        (lambda path: path.symlink_to("/dev/null"), "a FIFO, device or socket"),
    ],
)
def test_links_to_nothing_and_special_files_are_not_passed_over(place, make, told, tmp_path):
    for name in ("dog", "cat", "cat/more"):
        write(tmp_path / name, 10)
    make(tmp_path / place / "odd.png")
    name = (f"{place}/" if place else "") + "odd.png"
    with pytest.raises(DataError, match=f"1 entries are neither images nor folders, remove them: {name}: {told}"):
        load(tmp_path)


def test_links_to_class_folders_are_followed_and_others_told_of(tmp_path):
    for name in ("data/dog", "others/cat"):
        write(tmp_path / name, 10)
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "others" / "cat")
    assert load(tmp_path / "data").class_names == ("cat", "dog")
    (tmp_path / "data" / "dog" / "more").symlink_to(tmp_path / "others" / "cat")
    with pytest.raises(DataError, match="dog/more: a link to a folder, which is not followed"):
        load(tmp_path / "data")

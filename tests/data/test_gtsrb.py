"""Folders laid out as GTSRB is published, and as it is republished."""

import shutil

import numpy as np
import pytest
from PIL import Image

from rnp_jax.data.gtsrb import GTSRB_CLASSES, load_gtsrb
from rnp_jax.data.loading import load
from rnp_jax.errors import DataError

HEAD = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
KAGGLE_HEAD = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n"


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (8 + seed % 3, 9, 3), dtype=np.uint8)


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path)


def row(name, seed, label):
    return f"{name};9;{8 + seed % 3};1;2;6;7;{label}\n"


@pytest.fixture
def gtsrb(tmp_path):
    """Two training images of each class, five test images, under ``GTSRB``."""
    root = tmp_path / "GTSRB"
    for label in range(43):
        folder = root / "Final_Training" / "Images" / f"{label:05}"
        names = [f"00000_{number:05}.ppm" for number in range(2)]
        for number, name in enumerate(names):
            write(folder / name, 2 * label + number)
        rows = [row(name, 2 * label + number, label) for number, name in enumerate(names)]
        (folder / f"GT-{label:05}.csv").write_text(HEAD + "".join(rows))
    images = root / "Final_Test" / "Images"
    for number in range(5):
        write(images / f"{number:05}.ppm", 100 + number)
    rows = [row(f"{number:05}.ppm", 100 + number, 42 - number) for number in range(5)]
    (images / "GT-final_test.csv").write_text(HEAD + "".join(rows))
    return root


def resized(pixels, side):
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("above", [True, False])
def test_the_published_layout(gtsrb, above):
    path = gtsrb.parent if above else gtsrb
    train, test = load(path, image_size=6), load(path, split="test", image_size=6)
    assert (train.images.shape, test.images.shape) == ((86, 6, 6, 3), (5, 6, 6, 3))
    assert train.labels.tolist() == [label for label in range(43) for _ in range(2)]
    assert test.labels.tolist() == [42, 41, 40, 39, 38]
    assert (train.name, test.name) == ("gtsrb (train)", "gtsrb (test)")
    np.testing.assert_array_equal(train.images[29], resized(picture(29), 6))
    np.testing.assert_array_equal(test.images[3], resized(picture(103), 6))


def test_forty_three_classes_have_names():
    assert len(set(GTSRB_CLASSES)) == 43
    known = {0: "speed limit 20", 9: "no passing", 14: "stop", 25: "road works", 33: "turn right", 40: "roundabout"}
    assert {label: GTSRB_CLASSES[label] for label in known} == known


def test_the_whole_image_unless_the_region_of_interest_is_asked_for(gtsrb):
    cut = load_gtsrb(gtsrb, "test", crop=True)
    assert cut.images.shape == (5, 5, 5, 3)
    np.testing.assert_array_equal(cut.images[0], picture(100)[2:7, 1:6])
    with pytest.raises(DataError, match=r"3 different sizes.*give image_size"):
        load(gtsrb, split="test")


@pytest.mark.parametrize(
    "parts", [("Train", "Test"), ("Train/Images", "Test/Images"), ("Training", "Final_Test/Images")]
)
def test_other_folder_names(gtsrb, parts):
    for found, wanted in zip(("Final_Training/Images", "Final_Test/Images"), parts, strict=True):
        if found != wanted:
            (gtsrb / wanted).parent.mkdir(parents=True, exist_ok=True)
            (gtsrb / found).rename(gtsrb / wanted)
            (gtsrb / found).parent.rmdir()
    assert len(load(gtsrb, image_size=6)) == 86
    assert len(load(gtsrb, split="test", image_size=6)) == 5


@pytest.mark.parametrize("place", ["Final_Test", ".", ".."])
def test_annotations_of_the_test_images_may_lie_above_them(gtsrb, place):
    table = gtsrb / "Final_Test" / "Images" / "GT-final_test.csv"
    table.rename(gtsrb / place / table.name)
    assert load(gtsrb, split="test", image_size=6).labels.tolist() == [42, 41, 40, 39, 38]


@pytest.fixture
def kaggle(tmp_path):
    """Tables at the top, folders without leading zeros."""
    root = tmp_path / "gtsrb-german-traffic-sign"
    for part, count in (("Train", 43), ("Test", 4)):
        rows = []
        for number in range(count):
            name = f"Train/{number}/{number:05}_00000.png" if part == "Train" else f"Test/{number:05}.png"
            write(root / name, number)
            rows.append(f"9,{8 + number % 3},1,2,6,7,{number},{name}\n")
        (root / f"{part}.csv").write_text("\ufeff" + KAGGLE_HEAD + "".join(rows), "utf-8")
    return root


def test_tables_with_paths(kaggle):
    train, test = load(kaggle, image_size=6), load(kaggle, split="test", image_size=6)
    assert (train.labels.tolist(), test.labels.tolist()) == (list(range(43)), [0, 1, 2, 3])
    np.testing.assert_array_equal(train.images[11], resized(picture(11), 6))  # not sorted as text


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (";42\n", ";43\n", r"row 1: ClassId is 43, expected 0 … 42"),
        (";42\n", ";-1\n", r"row 1: ClassId is -1, expected 0 … 42"),
        (";42\n", ";stop\n", r"row 1: .* are not all whole numbers"),
        (";42\n", "\n", r"row 1: .* are not all whole numbers"),
        (
            "00001.ppm",
            "../../secret.ppm",
            r"row 2: Filename is '../../secret\.ppm', expected the path of an image under",
        ),
        ("00001.ppm", "/etc/passwd", r"row 2: Filename is '/etc/passwd'"),
        ("00001.ppm", "", r"row 2: Filename is ''"),
        ("00001.ppm", "00009.ppm", r"\(-\) or others are there \(\+\): - .*Images/00009\.ppm; \+ .*Images/00001\.ppm"),
        ("00001.ppm", "00000.ppm", r"\+ Final_Test/Images/00001\.ppm"),
        ("ClassId", "Class", r"expected rows under the columns Filename, Roi\.X1, .*, ClassId"),
        (";1;2;6;7;42", ";1;2;6;7;42\n00000.ppm;9;8;1;2;6;7;42", "1 images are annotated twice"),
    ],
)
def test_damaged_annotations_are_refused(gtsrb, old, new, message):
    table = gtsrb / "Final_Test" / "Images" / "GT-final_test.csv"
    change(table, old, new)
    with pytest.raises(DataError, match=message) as error:
        load(gtsrb, split="test", image_size=6)
    assert str(gtsrb) in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\xfa", b"", HEAD.encode(), b'Filename;ClassId\n"'])
def test_annotations_that_are_no_table(gtsrb, content):
    table = gtsrb / "Final_Training" / "Images" / "00007" / "GT-00007.csv"
    table.write_bytes(content)
    with pytest.raises(DataError, match=r"00007/GT-00007\.csv: (annotations cannot be read|expected rows)"):
        load(gtsrb, image_size=6)


def test_missing_parts_are_named(gtsrb):
    train, test = gtsrb / "Final_Training" / "Images", gtsrb / "Final_Test" / "Images"
    (test / "GT-final_test.csv").rename(test / "GT-final_test.test.csv")
    with pytest.raises(DataError, match=r"Images: no GT-final_test\.csv in it"):
        load(gtsrb, split="test", image_size=6)
    shutil.rmtree(test)
    with pytest.raises(DataError, match="no folder Final_Test/Images"):
        load(gtsrb, split="test", image_size=6)
    (train / "00003" / "GT-00003.csv").unlink()
    with pytest.raises(DataError, match=r"00003/GT-00003\.csv: annotations cannot be read"):
        load(gtsrb, image_size=6)
    shutil.rmtree(train / "00003")
    with pytest.raises(DataError, match=r"no training images of the classes 00003 \(speed limit 60\)"):
        load(gtsrb, image_size=6)


def test_class_folders_are_numeric_and_right(gtsrb):
    train = gtsrb / "Final_Training" / "Images"
    change(train / "00005" / "GT-00005.csv", ";5\n", ";6\n")
    with pytest.raises(DataError, match="ClassId 6, but is in class folder 00005"):
        load(gtsrb, image_size=6)
    (train / "00043").mkdir()
    change(train / "00005" / "GT-00005.csv", ";6\n", ";5\n")
    with pytest.raises(DataError, match="00043: expected class folders 00000 … 00042"):
        load(gtsrb, image_size=6)


def test_an_unreadable_image_is_named(gtsrb):
    (gtsrb / "Final_Training" / "Images" / "00001" / "00000_00001.ppm").write_bytes(b"P6 9 8 255\n12")
    with pytest.raises(DataError, match=r"1 files are not readable images.*00001/00000_00001\.ppm"):
        load(gtsrb, image_size=6)

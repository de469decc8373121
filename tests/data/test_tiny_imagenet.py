"""A folder laid out as Tiny-ImageNet is published."""

import shutil

import numpy as np
import pytest
from PIL import Image

from rnp_jax.data.loading import load
from rnp_jax.errors import DataError

IDS = ["n02124075", "n01443537", "n04067472"]  # as published, not sorted
WORDS = "n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn04067472\treel\nn99999999\tnothing\n"


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, "JPEG")


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(IDS):
        for image in range(3):
            write(root / "train" / wnid / "images" / f"{wnid}_{image}.JPEG", 10 * number + image)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    for image in range(4):
        write(root / "val" / "images" / f"val_{image}.JPEG", 100 + image)
        write(root / "test" / "images" / f"test_{image}.JPEG", 200 + image)
    rows = [f"val_{image}.JPEG\t{IDS[image % 3]}\t0\t32\t44\t62\n" for image in (2, 0, 1, 3)]
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in IDS))
    (root / "words.txt").write_text(WORDS)
    return root


@pytest.mark.parametrize("above", [True, False])
def test_the_published_layout(tiny, above):
    path = tiny.parent if above else tiny
    train, test = load(path), load(path, split="test")
    assert (train.images.shape, test.images.shape) == ((9, 64, 64, 3), (4, 64, 64, 3))
    assert train.class_names == test.class_names == ("goldfish", "Egyptian cat", "reel")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert test.labels.tolist() == [2, 1, 0, 1]  # in the order of the annotations
    assert (train.name, test.name) == ("tiny-imagenet (train)", "tiny-imagenet (test)")
    first = Image.open(tiny / "train" / "n01443537" / "images" / "n01443537_0.JPEG")
    np.testing.assert_array_equal(train.images[0], np.asarray(first))
    np.testing.assert_array_equal(test.images[0], np.asarray(Image.open(tiny / "val" / "images" / "val_2.JPEG")))


def test_grey_images_are_read_as_rgb_and_resized(tiny):
    grey = tiny / "val" / "images" / "val_2.JPEG"
    Image.open(grey).convert("L").save(grey, "JPEG")
    image = load(tiny, split="test", image_size=32).images[0]
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\tn01443537", "\tn00000000", r"val_annotations\.txt: line 3 is 'val_1\.JPEG\\tn00000000.*one of the 3 ids"),
        ("val_2.JPEG\t", "val_2.JPEG ", r"line 1 is .*expected an image's name, a tab"),
        ("val_0.JPEG\tn02124075", "val_0.JPEG", "line 2 is"),
        ("val_0", "../val_0", "line 2 is"),
        ("val_0", "val_2", "line 2 is .*each image once"),
        ("val_0", "val_9", r"missing \(-\) or others are there \(\+\): - val_9\.JPEG; \+ val_0\.JPEG"),
    ],
)
def test_damaged_annotations_are_refused(tiny, old, new, message):
    change(tiny / "val" / "val_annotations.txt", old, new)
    with pytest.raises(DataError, match=message):
        load(tiny, split="test")


@pytest.mark.parametrize("name", ["words.txt", "val/val_annotations.txt"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa"])
def test_lists_that_cannot_be_read(tiny, name, content):
    (tiny / name).unlink()
    if content is not None:
        (tiny / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: cannot be read .*get it again"):
        load(tiny, split="test")


@pytest.mark.parametrize("content", ["", "n01443537\nn01443537\n", "../..\n"])
def test_ids_that_are_none(tiny, content):
    (tiny / "wnids.txt").write_text(content)
    with pytest.raises(DataError, match=r"wnids\.txt: expected one WordNet id per line, each once"):
        load(tiny)


def test_missing_names_classes_and_images_are_named(tiny):
    change(tiny / "words.txt", "n04067472\treel\n", "")
    with pytest.raises(DataError, match=r"words\.txt: no words for n04067472"):
        load(tiny)
    shutil.rmtree(tiny / "train" / "n04067472")
    with pytest.raises(DataError, match=r"no images of class n04067472, which wnids\.txt names"):
        load(tiny)
    (tiny / "val" / "images" / "val_1.JPEG").write_bytes(b"\xff\xd8\xff")
    (tiny / "words.txt").write_text(WORDS)
    with pytest.raises(DataError, match=r"1 files are not readable images.*val/images/val_1\.JPEG"):
        load(tiny, split="test")


def test_validation_images_sorted_into_class_folders_are_an_image_folder(tiny):
    shutil.rmtree(tiny / "test")
    shutil.rmtree(tiny / "val")
    for wnid in IDS:
        write(tiny / "val" / wnid / "a.JPEG", 7)
    shutil.rmtree(tiny / "train" / IDS[0] / "images")
    write(tiny / "train" / IDS[0] / "b.JPEG", 8)
    for wnid in IDS:
        (tiny / "train" / wnid / f"{wnid}_boxes.txt").unlink()
    assert load(tiny, split="test").class_names == tuple(sorted(IDS))

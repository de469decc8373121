import numpy as np
import pytest

from rnp_jax.data.loading import load
from rnp_jax.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2


def test_images_and_labels_are_split_into_disjoint_parts(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS, class_names=["cat", "dog"])
    train, test = load(tmp_path / "set.npz"), load(tmp_path / "set.npz", split="test")
    assert (len(train), len(test), train.class_names) == (16, 4, ("cat", "dog"))
    np.testing.assert_array_equal(
        np.unique(np.concatenate([train.images, test.images]), axis=0), np.unique(IMAGES, axis=0)
    )
    assert train.labels.dtype == np.int32


def test_an_undivided_file_is_given_whole(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    whole = load(tmp_path / "set.npz", split="test", undivided=True)
    np.testing.assert_array_equal(whole.images, IMAGES)
    assert (whole.name, whole.source_images) == ("set.npz", 20)


@pytest.mark.parametrize(("x", "y"), [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_named_parts_with_grey_images_and_a_column_of_labels(tmp_path, x, y):
    arrays = {x.format("train"): IMAGES[:12, ..., 0], y.format("train"): LABELS[:12, None].astype(np.uint8)}
    arrays |= {x.format("test"): IMAGES[12:, ..., 0], y.format("test"): LABELS[12:, None]}
    np.savez_compressed(tmp_path / "mnist.npz", **arrays)
    test = load(tmp_path / "mnist.npz", split="test")
    np.testing.assert_array_equal(test.images, IMAGES[12:, ..., :1])
    np.testing.assert_array_equal(test.labels, LABELS[12:])
    assert load(tmp_path / "mnist.npz", image_size=(3, 4)).images.shape == (12, 3, 4, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES / 255, "labels": LABELS}, "float64, expected uint8"),
        ({"images": IMAGES, "labels": LABELS[:3]}, "20 images have labels of shape"),
        ({"images": IMAGES, "labels": LABELS - 1}, "label -1 at index 0"),
        ({"images": IMAGES, "labels": LABELS * 0.5}, "labels are float64"),
        (
            {"images": IMAGES, "labels": (LABELS * (2**32 - 1)).astype(np.uint32)},
            "label 4294967295, expected .* 100,000",
        ),
        ({"images": IMAGES, "labels": LABELS * 100_000}, "label 100000, .*number the classes from 0"),
        ({"images": IMAGES, "labels": LABELS * (2**32 - 1), "class_names": ["a", "b"]}, "label 4294967295 at index 1"),
        ({"images": IMAGES, "labels": LABELS, "class_names": ["one"]}, "label 1 at index 1 is outside"),
        (
            {"pictures": IMAGES},
            'holds "pictures"; expected x_train/y_train, or train_images/train_labels, or images/labels',
        ),
        ({"images": IMAGES, "labels": np.array([{}] * 20)}, "not a readable .npz of plain arrays"),
    ],
)
def test_unusable_files_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "bad.npz")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, images=IMAGES, labels=LABELS)
    whole = path.read_bytes()
    changed = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
    for content in (b"", b"PK\x03\x04nothing", b"\x80\x04K\x01.", whole[:-30], whole[100:], changed):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a readable"):
            load(path)
    with path.open("wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(DataError, match=r"not a zip archive.*np\.savez"):
        load(path)

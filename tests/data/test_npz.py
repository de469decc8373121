import io
import struct
import zipfile

import numpy as np
import pytest

from rnp_jax.data import npz
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
    with pytest.raises(DataError, match=r"zip directory is missing.*np\.savez"):
        load(path)


def header(descr="'|u1'", shape="(20, 6, 5, 3)", fortran="False", more="") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, {more}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def archive(path, images: bytes, method=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("images.npy", images)
        file.writestr("labels.npy", header("'<i8'", "(20,)") + LABELS.tobytes())


@pytest.mark.parametrize(
    "images",
    [
        b"no array",
        header("'|O'") + IMAGES.tobytes(),
        header("[('a', '|u1')]") + IMAGES.tobytes(),
        header("'|u3'") + IMAGES.tobytes(),
        header("'<U0'"),
        header("{}"),
        header(shape="(-20, 6, 5, 3)") + IMAGES.tobytes(),
        header(shape="20") + IMAGES.tobytes(),
        header(shape="(20, 6, 5, 4)") + IMAGES.tobytes(),
        header(shape="(20, 6, 5, 2)") + IMAGES.tobytes(),
        header(shape="(" + "1, " * 9 + ")") + b"\0",
        header(shape=f"({10**30}, 6, 5, 3)"),
        header(shape="(100000000, 1000, 1000, 3)"),
        header(shape=f"({'1' * 5000},)"),
        header(shape="(" * 4000),
        header(fortran="1") + IMAGES.tobytes(),
        header(more="'x': 1") + IMAGES.tobytes(),
        b"\x93NUMPY\x09\x00" + header()[8:] + IMAGES.tobytes(),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        header()[:40],
    ],
)
def test_arrays_that_are_broken_or_too_large_are_refused(images, tmp_path):
    archive(tmp_path / "bad.npz", images)
    with pytest.raises(DataError, match=r"not a readable \.npz of plain arrays"):
        load(tmp_path / "bad.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(method, tmp_path):
    archive(tmp_path / "bad.npz", header() + IMAGES.tobytes(), method)
    with pytest.raises(DataError, match=r"images\.npy is neither stored nor deflated"):
        load(tmp_path / "bad.npz")


def test_an_encrypted_array_is_refused(tmp_path):
    archive(tmp_path / "bad.npz", header() + IMAGES.tobytes())
    content = bytearray((tmp_path / "bad.npz").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        load(tmp_path / "bad.npz")


def test_a_set_that_would_fill_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((100, 64, 64, 3), np.uint8), labels=np.zeros(100, int))
    monkeypatch.setattr(npz, "physical_memory", lambda: 2**20)
    with pytest.raises(DataError, match=r"1,228,800 bytes; expected at most 524,288"):
        load(tmp_path / "bomb.npz")


def test_a_hostile_directory_is_refused_at_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as file:
        for number in range(20):
            info = zipfile.ZipInfo(f"{number}.npy")
            info.extra = struct.pack("<2H", 0x9999, 0) * 16_000
            file.writestr(info, b"")
    with pytest.raises(DataError, match=r"a zip directory of \d+ bytes, expected at most 1048576"):
        load(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array(["a" * 2000, "b"]), "2 class names of 8,000 bytes, expected at most 100,000 of 4,096"),
        (np.zeros(100_001, np.uint8), "100,001 class names"),
        (np.array(["a", "\ud800"]), "class names that are no text"),
        (np.array([0x110000, 0], "<u4").view("<U1"), "texts with letters that are none"),
        (np.array([0x110000, 0], ">u4").view(">U1"), "texts with letters that are none"),
    ],
)
def test_class_names_that_are_none(names, message, tmp_path):
    np.savez(tmp_path / "bad.npz", images=IMAGES, labels=LABELS, class_names=names)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "bad.npz")


def test_an_array_in_the_order_of_fortran_and_of_a_later_format_version(tmp_path):
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asfortranarray(IMAGES), (2, 0))
    archive(tmp_path / "set.npz", content.getvalue())
    np.testing.assert_array_equal(load(tmp_path / "set.npz", undivided=True).images, IMAGES)

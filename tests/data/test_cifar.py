import contextlib
import os
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnp_jax.data.loading import load
from rnp_jax.errors import DataError
from tests.damage import damaged


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def save(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))


def batch(seed, labels, key="labels", num=10):
    pixels = np.random.default_rng(seed).integers(0, 256, (num, 3072), dtype=np.uint8)
    return {"batch_label": "a batch", key: labels, "data": pixels, "filenames": [f"{i}.png" for i in range(num)]}


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    save(folder / "batches.meta", {"num_cases_per_batch": 10, "label_names": list("abcdefghij"), "num_vis": 3072})
    for number in range(1, 6):
        save(folder / f"data_batch_{number}", batch(number, list(range(10))))
    save(folder / "test_batch", batch(0, list(range(10))[::-1]))
    return folder


def test_cifar10_reads_in_order_channels_last(cifar10):
    train, test = load(cifar10), load(cifar10, split="test")
    assert (train.images.shape, train.name, train.class_names) == (
        (50, 32, 32, 3),
        "cifar10 (train)",
        tuple("abcdefghij"),
    )
    assert test.labels.tolist() == list(range(10))[::-1]
    expected = pickle.loads((cifar10 / "data_batch_3").read_bytes())
    for channel in range(3):
        plane = expected["data"][4, 1024 * channel : 1024 * (channel + 1)].reshape(32, 32)
        np.testing.assert_array_equal(train.images[24, :, :, channel], plane)


def test_the_folder_above_and_another_size_will_do(cifar10):
    assert load(cifar10.parent, image_size=16).images.shape == (50, 16, 16, 3)


def test_cifar100_reads_fine_labels_and_bytes_keys(tmp_path):
    names = [f"class{i}".encode() for i in range(100)]
    save(tmp_path / "meta", {b"fine_label_names": names, b"coarse_label_names": names[:20]}, 3)
    for file in ("train", "test"):
        content = {**batch(1, [99] * 10, "fine_labels"), "coarse_labels": [3] * 10}
        save(tmp_path / file, {key.encode(): value for key, value in content.items()}, 4)
    dataset = load(tmp_path, split="test")
    assert (dataset.num_classes, dataset.class_names[99], dataset.labels.tolist()) == (100, "class99", [99] * 10)


def test_cifar100_as_published_in_its_own_folder(tmp_path):
    """As torchvision downloads it: coarse labels are in the file and are not the labels."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names, coarse = [f"fine{i}" for i in range(100)], [f"coarse{i}" for i in range(20)]
    save(folder / "meta", {"fine_label_names": names, "coarse_label_names": coarse})
    for file, count in (("train", 200), ("test", 100)):
        content = batch(count, [i % 100 for i in range(count)], "fine_labels", count)
        save(folder / file, {**content, "coarse_labels": [i % 20 for i in range(count)]})
    train, test = load(tmp_path), load(folder, split="test", image_size=8)
    assert (train.name, test.name, train.images.shape) == ("cifar100 (train)", "cifar100 (test)", (200, 32, 32, 3))
    assert (test.images.shape, test.labels.tolist(), test.class_names[37]) == (
        (100, 8, 8, 3), list(range(100)), "fine37",
    )  # fmt: skip


def test_a_hostile_batch_is_refused_and_nothing_is_executed(cifar10, tmp_path):
    save(cifar10 / "data_batch_2", {"data": Command(tmp_path / "executed"), "labels": [0]})
    reason = r'data_batch_2: data\["data"\] holds "posix\.system".*get the python version .*nothing was executed'
    with pytest.raises(DataError, match=reason):
        load(cifar10)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no dict; expected 'data'"),
        ({"labels": [1]}, "holds \"labels\"; expected 'data' as ndarray"),
        ({"\x1b[2J\ud800": [1]}, r"holds \"\\u001b\[2J\\ud800\"; expected 'data' as ndarray"),
        ({"data": np.zeros((1, 3072), np.uint8)}, "expected 'labels' as list"),
        ({"data": np.zeros((1, 3072), np.int64), "labels": [1]}, "an array of type int64, expected bytes: uint8"),
        ({"data": np.zeros((1, 1024), np.uint8), "labels": [1]}, r"shape \(1, 1024\), expected \[N, 3072\]"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "not all integers of 0 … 9"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [[[1]]]}, "not all integers of 0 … 9"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, r"2 images have labels of shape \(1,\)"),
    ],
)
def test_a_batch_of_other_content_is_refused(cifar10, content, message):
    save(cifar10 / "test_batch", content)
    with pytest.raises(DataError, match=message):
        load(cifar10, split="test")


def test_missing_and_damaged_files_are_named(cifar10):
    (cifar10 / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4: cannot be read"):
        load(cifar10)
    content = (cifar10 / "test_batch").read_bytes()
    (cifar10 / "test_batch").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"test_batch: .*\d bytes are announced, but .* ends .*get the python version"):
        load(cifar10, split="test")
    save(cifar10 / "batches.meta", {"label_names": [1, 2]})
    save(cifar10 / "test_batch", batch(0, [0] * 10))
    with pytest.raises(DataError, match="class names are not all strings"):
        load(cifar10, split="test")


@pytest.mark.parametrize("file", ["batches.meta", "test_batch"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused(file, cifar10, data):
    path = cifar10 / file
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(whole)))
        with contextlib.suppress(DataError):
            loaded = load(cifar10, split="test")
            assert loaded.images.shape == (len(loaded.labels), 32, 32, 3)
            assert loaded.labels.max() < loaded.num_classes
    finally:
        path.write_bytes(whole)

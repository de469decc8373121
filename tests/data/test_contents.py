"""Equal content has an equal digest, wherever it is; other images, labels or names have another."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from rnp_jax.data import digest_data, digest_files
from rnp_jax.errors import UnusableDataError


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "images"
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", ".hidden/x", "dog/.hidden"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_a_digest_is_of_the_names_and_the_bytes(folder, tmp_path):
    first = digest_data(folder)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "link").symlink_to(folder)
    assert digest_data(tmp_path / "copy") == digest_data(str(tmp_path / "link")) == first
    (folder / "dog" / ".hidden").write_bytes(b"other")
    assert digest_data(folder) == first
    (folder / "dog" / "1.png").write_bytes(b"Dog/1.png")
    second = digest_data(folder)
    (folder / "cat" / "2.png").rename(folder / "dog" / "2.png")
    third = digest_data(folder)
    (folder / "dog" / "2.png").rename(folder / "dog" / os.fsdecode(b"\xff.png"))
    assert len({first, second, third, digest_data(folder)}) == 4


def test_a_digest_of_one_file(tmp_path):
    path = tmp_path / "data.npz"
    digests = []
    for labels in ([0, 1], [1, 0]):
        np.savez(path, images=np.zeros((2, 4, 4, 3), np.uint8), labels=labels)
        digests.append(digest_data(path))
    assert digests[0] != digests[1] == digest_files(path)


def test_links_in_a_circle_and_files_without_an_end_are_no_trouble(folder):
    (folder / "cat" / "again").symlink_to(folder)
    (folder / "dog" / "endless").symlink_to("/dev/zero")
    os.mkfifo(folder / "dog" / "pipe")
    assert digest_data(folder) == digest_data(folder)
    with pytest.raises(UnusableDataError, match="zero cannot be read"):
        digest_files(Path("/dev/zero"))


def test_what_is_built_in_is_its_name():
    assert digest_data("digits") == "digits"


def test_prepared_sets_are_found_by_name(tmp_path):
    version = tmp_path / "toy" / "1.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text("{}")
    assert digest_data("toy", tmp_path) == digest_files(version)


@pytest.mark.parametrize("name", ["cifar10", "nowhere", "a/b.npz"])
def test_data_that_is_not_there(name, tmp_path):
    with pytest.raises(UnusableDataError, match=r"not prepared under|there is no data set"):
        digest_data(name, tmp_path)

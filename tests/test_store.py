import contextlib
import os
import shutil
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rnp_jax import store
from rnp_jax.errors import CheckpointError, ConfigError
from rnp_jax.store import load_tree, remove_tree, save_tree

TREE: dict[str, Any] = {
    "params": {
        "layer1.0": {"conv1": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}},
        "0": {"b": jnp.ones(3)},
    },
    "batch_stats": {},
    "step": np.int32(7),
    "half": np.array([1.5, np.nan], ml_dtypes.bfloat16),
    "flags": np.array([True, False]),
}
METADATA = {"architecture": "resnet18", "mean": [0.1, 1 / 3], "epoch": 3, "nested": {"none": None}}


def test_trees_and_metadata_survive_the_disk(tmp_path):
    save_tree(tmp_path / "run" / "state", TREE, METADATA)
    tree, metadata = load_tree(tmp_path / "run" / "state")
    assert metadata == METADATA
    assert set(tree) == set(TREE)
    assert tree["batch_stats"] == {}
    for path in [("params", "layer1.0", "conv1", "kernel"), ("params", "0", "b"), ("step",), ("half",), ("flags",)]:
        actual: Any = tree
        expected: Any = TREE
        for name in path:
            actual, expected = actual[name], expected[name]
        assert isinstance(actual, np.ndarray | np.generic), path
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        assert actual.tobytes() == np.asarray(expected).tobytes()


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    save_tree(tmp_path / "state", {"a": np.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="exists already"):
        save_tree(tmp_path / "state", {"a": np.ones(1)}, {})
    assert load_tree(tmp_path / "state")[0]["a"] == 0
    save_tree(tmp_path / "state", {"a": np.ones(2)}, {"new": 1}, overwrite=True)
    tree, metadata = load_tree(tmp_path / "state")
    assert (tree["a"].tolist(), metadata) == ([1, 1], {"new": 1})


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "state").write_text("text")
    with pytest.raises(CheckpointError, match="exists already"):
        save_tree(tmp_path / "state", {"a": np.zeros(1)}, {})


@pytest.mark.parametrize("lacking", ["tree", "metadata", None])
def test_folders_that_are_not_finished(lacking, tmp_path):
    path = tmp_path / "state"
    if lacking is not None:
        save_tree(path, {"a": np.zeros(1)}, {})
        shutil.rmtree(path / lacking)
    with pytest.raises(CheckpointError, match="lacks 'tree' or 'metadata'"):
        load_tree(path)


@pytest.mark.parametrize("damage", ["tree", "metadata"])
def test_damaged_folders(damage, tmp_path):
    path = tmp_path / "state"
    save_tree(path, {"a": np.arange(1000.0)}, {"b": 1})
    for file in (path / damage).rglob("*"):
        if file.is_file():
            file.write_bytes(b"\x00damaged")
    with pytest.raises(CheckpointError, match="could not be read back"):
        load_tree(path)


def test_removal(tmp_path):
    save_tree(tmp_path / "state", {"a": np.zeros(1)}, {})
    remove_tree(tmp_path / "state")
    remove_tree(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["tree/_METADATA", "metadata/metadata"])
@pytest.mark.parametrize(
    "content", [b"[1]", b"3", b"null", b'"x"', b"", b"\xff", b"[" * 100_000, b'{"tree_metadata": {"x": 1}}']
)
def test_json_that_is_not_this_project_s(part, content, tmp_path):
    save_tree(tmp_path / "state", {"a": np.zeros(2)}, {"b": 1})
    (tmp_path / "state" / part).write_bytes(content)
    with contextlib.suppress(CheckpointError):
        assert all(isinstance(each, dict) for each in load_tree(tmp_path / "state"))


@pytest.mark.parametrize("use", [load_tree, lambda path: save_tree(path, {"a": np.zeros(1)}, {})])
def test_a_path_that_orbax_cannot_take(use, tmp_path):
    with pytest.raises(ConfigError, match="not UTF-8"):
        use(tmp_path / "a\udcff")


@pytest.mark.parametrize("part", ["tree/_METADATA", "tree/manifest.ocdbt", "metadata/metadata"])
def test_parts_that_are_no_regular_files(part, tmp_path):
    save_tree(tmp_path / "state", {"a": np.zeros(2)}, {"b": 1})
    place = tmp_path / "state" / part
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink("/", path)):
        place.unlink()
        make(place)
        with pytest.raises(CheckpointError, match="neither a regular file nor a folder"):
            load_tree(tmp_path / "state")


def test_arrays_that_would_fill_the_memory(tmp_path, monkeypatch):
    save_tree(tmp_path / "state", {"a": np.zeros(20), "b": {"c": np.zeros((), np.int8)}}, {})
    monkeypatch.setattr(store, "_MOST_BYTES", 161)
    assert load_tree(tmp_path / "state")[0]["a"].size == 20
    monkeypatch.setattr(store, "_MOST_BYTES", 160)
    with pytest.raises(CheckpointError, match="its arrays take 161 bytes, expected at most 160"):
        load_tree(tmp_path / "state")

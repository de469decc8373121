"""Chosen tensors of a folder, in one file or in parts."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy
import torch

from rnp_jax.errors import ArchitectureError, CheckpointError
from rnp_jax.extractors.weights import WEIGHTS, open_weights
from rnp_jax.models.vit_names import VitEntry, entries
from rnp_jax.torch_io import Limits
from tests.oracle import vit

LIMITS = Limits()


def entry(key: str, *shape: int) -> VitEntry:
    """Some parameter of a tower under another key and shape."""
    some = next(iter(entries(vit.shape_of("vit"), "")))
    return some._replace(key=key, shape=shape)


def write(folder, name: str, **tensors: np.ndarray) -> str:
    safetensors.numpy.save_file(tensors, folder / name)
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def write_index(folder, **places: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


ONE, TWO = np.arange(3, dtype=np.float32), np.ones((2, 2), np.float16)


def test_no_weights(tmp_path):
    (tmp_path / "weights.safetensors").touch()
    assert open_weights(tmp_path, LIMITS) is None


def test_one_file(tmp_path):
    sha256 = write(tmp_path, "model.safetensors", one=ONE, two=TWO)
    weights = open_weights(tmp_path, LIMITS)
    assert set(weights.places) == {"one", "two"}
    tensors, found = weights.read([entry("two", 2, 2)])
    assert list(tensors) == ["two"]
    np.testing.assert_array_equal(tensors["two"], TWO)
    assert found == sha256


def test_the_published_names_have_an_order(tmp_path):
    torch.save({"old": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert set(open_weights(tmp_path, LIMITS).places) == {"old"}
    write_index(tmp_path, part="a.safetensors")
    assert set(open_weights(tmp_path, LIMITS).places) == {"part"}
    write(tmp_path, "model.safetensors", new=ONE)
    assert set(open_weights(tmp_path, LIMITS).places) == {"new"}
    assert [name.partition(".")[2] for name in WEIGHTS] == [
        "safetensors", "safetensors.index.json", "bin", "bin.index.json",
    ]  # fmt: skip


def test_parts_are_opened_where_they_are_needed_and_hashed_by_name(tmp_path):
    hashes = {name: write(tmp_path, name, **tensors) for name, tensors in (
        ("b.safetensors", {"one": ONE}), ("a.safetensors", {"two": TWO}),
    )}  # fmt: skip
    write_index(tmp_path, one="b.safetensors", two="a.safetensors", three="absent.safetensors")
    weights = open_weights(tmp_path, LIMITS)
    tensors, found = weights.read([entry("one", 3), entry("two", 2, 2)])
    assert set(tensors) == {"one", "two"}
    lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    assert found == hashlib.sha256(lines.encode()).hexdigest()
    assert weights.read([entry("one", 3)])[1] == hashes["b.safetensors"]
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        weights.read([entry("three", 1)])


def test_tensors_that_are_not_what_they_should_be(tmp_path):
    write(tmp_path, "a.safetensors", one=ONE, odd=np.array([1, np.nan], np.float32))
    write_index(tmp_path, one="a.safetensors", odd="a.safetensors", other="a.safetensors")
    weights = open_weights(tmp_path, LIMITS)
    with pytest.raises(
        CheckpointError, match=r"a\.safetensors: it has no tensor other, but the index says that it does"
    ):
        weights.read([entry("other", 1)])
    with pytest.raises(ArchitectureError, match=r"one: \(3,\), expected \(4,\)"):
        weights.read([entry("one", 4)])
    with pytest.raises(CheckpointError, match=r"odd.*nan"):
        weights.read([entry("odd", 2)])


def test_a_file_that_is_no_dict_of_tensors(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="it contains a list, not a dict of tensors"):
        open_weights(tmp_path, LIMITS)

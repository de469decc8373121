"""Networks in several files, as Hugging Face's libraries lay them out."""

import contextlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Limits, find_state_dict, read_checkpoint, write_checkpoint
from tests.damage import reworded
from tests.torch_io.test_fuzz import FUZZ

STATE = {
    f"{layer}.{kind}": np.full(3, 2 * layer + one, np.float32) for layer in range(4) for one, kind in enumerate("wb")
}
PARTS = [dict(list(STATE.items())[:5]), dict(list(STATE.items())[5:])]


def write(folder: Path, ending: str = "safetensors", **index) -> Path:
    """Two shards and their index."""
    where = {}
    for number, part in enumerate(PARTS, 1):
        name = f"model-0000{number}-of-00002.{ending}"
        if ending == "bin":
            torch.save({key: torch.from_numpy(value) for key, value in part.items()}, folder / name)
        else:
            safetensors.numpy.save_file(part, folder / name, {"format": "pt"})
        where |= dict.fromkeys(part, name)
    path = folder / f"model.{ending}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": where} | index))
    return path


def test_one_shard_is_told_as_one(tmp_path):
    path = write(tmp_path, "safetensors")
    where = {key: name for key, name in json.loads(path.read_text())["weight_map"].items() if "00001" in name}
    path.write_text(json.dumps({"weight_map": where}))
    assert read_checkpoint(path).anomalies[0].startswith("1 shard, read as")


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_are_read_as_one_checkpoint_and_written_as_one_file(ending, tmp_path):
    path = write(tmp_path, ending)
    checkpoint = read_checkpoint(path)
    assert checkpoint.anomalies[0] == "2 shards, read as one checkpoint, which is written as one safetensors file"
    assert checkpoint.files == (f"model-00001-of-00002.{ending}", f"model-00002-of-00002.{ending}")
    found = find_state_dict(checkpoint)
    assert {name: value.tolist() for name, value in found.tensors.items()} == {n: v.tolist() for n, v in STATE.items()}
    write_checkpoint(tmp_path / "new", checkpoint, found, {"3.b": np.zeros(3, np.float32)})
    new = safetensors.numpy.load_file(tmp_path / "new")
    assert new.keys() == STATE.keys()
    assert new["3.b"].tolist() == [0, 0, 0]
    assert new["2.w"].tolist() == STATE["2.w"].tolist()


def test_the_digest_is_that_of_all_files(tmp_path):
    digests = []
    for change in ({}, {"metadata": {}}):
        digests.append(read_checkpoint(write(tmp_path, **change)).sha256)
    PARTS[1]["3.b"][0] += 1
    digests.append(read_checkpoint(write(tmp_path)).sha256)
    PARTS[1]["3.b"][0] -= 1
    assert len(set(digests)) == 3
    assert read_checkpoint(write(tmp_path)).sha256 == digests[0]


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "pytorch_model-1-of-3.bin"])
def test_one_shard_alone_is_named_as_one(name, tmp_path):
    safetensors.numpy.save_file(PARTS[0], tmp_path / name)
    with pytest.raises(
        CheckpointError, match=r'shards of a network; give their index instead: ".*model\..*\.index\.json"'
    ):
        find_state_dict(read_checkpoint(tmp_path / name))


def test_the_only_shard_is_a_whole_network(tmp_path):
    safetensors.numpy.save_file(STATE, tmp_path / "model-00001-of-00001.safetensors")
    assert len(find_state_dict(read_checkpoint(tmp_path / "model-00001-of-00001.safetensors")).tensors) == 8


FIRST = "model-00001-of-00002.safetensors"
REFUSED = {
    "no index": ({"weight_map": 3}, "JSON without a weight_map"),
    "an empty index": ({"weight_map": {}}, "JSON without a weight_map"),
    "a path": ({"weight_map": {"0.w": "../" + FIRST}}, "is no name of a shard that lies beside its index"),
    "an absolute path": ({"weight_map": {"0.w": "/etc/passwd"}}, "is no name of a shard"),
    "a folder": ({"weight_map": {"0.w": ".."}}, "is no name of a shard"),
    "a number": ({"weight_map": {"0.w": 3}}, "3 is no name of a shard"),
    "a missing file": ({"weight_map": {"0.w": "gone.safetensors"}}, "cannot be read"),
    "itself": ({"weight_map": {"0.w": "model.safetensors.index.json"}}, "an index of shards where a shard belongs"),
    "a tensor that is not listed": ({"weight_map": {"0.w": FIRST}}, f'"{FIRST}" holds "0.b", but the index does not'),
    "a tensor that is not there": (
        {"weight_map": {**dict.fromkeys(PARTS[0], FIRST), "4.w": FIRST}},
        f'shard "{FIRST}" lacks the tensor "4.w"',
    ),
    "many files": (
        {"weight_map": {f"{number}.w": f"{number}.bin" for number in range(101)}},
        "101 shards, more than 100",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_index_that_does_not_say_what_its_shards_hold_is_refused(name, tmp_path):
    change, reason = REFUSED[name]
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(write(tmp_path, **change))
    assert reason in str(caught.value)


def test_text_that_begins_as_an_index_is_refused(tmp_path):
    for text in ("{", '{"a": 1, "a": 2}', "{" * 5000, "{}"):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"what begins as an index of shards|JSON without a weight_map"):
            read_checkpoint(tmp_path / "m.json")


@pytest.mark.parametrize("limit", [{"file_bytes": 600}, {"header_bytes": 300}, {"members": 7}])
def test_limits_hold_for_all_shards_together(limit, tmp_path):
    path = write(tmp_path)
    assert sum(each.stat().st_size for each in tmp_path.glob("model-*")) > 600
    assert max(each.stat().st_size for each in tmp_path.iterdir()) < 600
    with pytest.raises(CheckpointError, match="more than"):
        read_checkpoint(path, limits=Limits(**limit))


@given(data=st.data())
@FUZZ
def test_a_damaged_index(data):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder))
        path.write_bytes(data.draw(reworded(path.read_text())))
        with contextlib.suppress(CheckpointError):
            find_state_dict(read_checkpoint(path))

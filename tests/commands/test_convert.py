"""One kind of file into another, and back."""

import json
import os

import jax
import numpy as np
import pytest
import safetensors.torch
import torch

from rnp_jax.checkpoints import save_variables
from rnp_jax.cli import main
from rnp_jax.models.bounds import apply_bounds, bound_entries
from rnp_jax.store import load_tree, save_tree
from tests.networks import build, build_random, images_for, network_of, torch_input


@pytest.fixture
def source(tmp_path):
    """A checkpoint in the RNP release's layout."""
    path = tmp_path / "source.pt"
    torch.save({"epoch": 3, "state_dict": build_random("resnet18").state_dict()}, path)
    return path


def state_of(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert list(first) == list(second)
    for key, value in first.items():
        assert (value.dtype, value.shape) == (second[key].dtype, second[key].shape), key
        assert value.numpy().tobytes() == second[key].numpy().tobytes(), key


def test_through_safetensors_every_bit_survives(source, tmp_path, capsys):
    assert main(["convert", str(source), str(tmp_path / "a.safetensors")]) == 0
    assert '  not in the target: data["epoch"]' in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "back.pt")]) == 0
    assert_same_bits(state_of(source), dict(sorted_like(state_of(tmp_path / "back.pt"), state_of(source))))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "net._orig_mod."])
def test_the_names_of_wrappers_survive(wrapper, tmp_path):
    state = {f"{wrapper}{key}": value for key, value in build_random("resnet18").state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "source.pt")
    assert main(["convert", str(tmp_path / "source.pt"), str(tmp_path / "a.safetensors")]) == 0
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "back.pt")]) == 0
    assert set(state_of(tmp_path / "back.pt")) == set(state)


def sorted_like(state: dict, like: dict) -> list:
    assert set(state) == set(like)
    return [(key, state[key]) for key in like]


@pytest.mark.parametrize(("name", "options"), [("resnet18", ()), ("mlp", ("--image-shape", "4", "2", "3"))])
def test_through_orbax_the_function_survives(name, options, tmp_path):
    source = tmp_path / "source.pt"
    torch.save({"state_dict": build_random(name).state_dict()}, source)
    assert main(["convert", str(source), str(tmp_path / "folder"), *options]) == 0
    assert main(["convert", str(tmp_path / "folder"), str(tmp_path / "back.pth")]) == 0
    before, after = state_of(source), state_of(tmp_path / "back.pth")
    floats = [key for key in before if not key.endswith("num_batches_tracked")]
    assert_same_bits({key: before[key] for key in floats}, {key: after[key] for key in floats})
    module = build(name).eval()
    module.load_state_dict(after, strict=True)
    inputs = torch_input(name, images_for(name))
    with torch.no_grad():
        np.testing.assert_array_equal(module(inputs), build_random(name)(inputs))


@pytest.mark.parametrize("middle", ["folder", "a.safetensors"])
def test_bounds_on_activations_survive(middle, tmp_path):
    network = network_of("mlp")
    shapes = {each.layer: each.shape for each in bound_entries(network.architecture)}
    bounds = {layer: np.linspace(-1, 1, shape[0], dtype=np.float32) for layer, shape in shapes.items()}
    variables = apply_bounds(network.init(jax.random.key(0)), bounds)
    save_variables(tmp_path / "source.pt", network, variables)
    for source, target in (("source.pt", middle), (middle, "back.pt")):
        options = ("--image-shape", "4", "2", "3") if source != "folder" else ()
        assert main(["convert", str(tmp_path / source), str(tmp_path / target), *options]) == 0
    before, after = state_of(tmp_path / "source.pt"), state_of(tmp_path / "back.pt")
    assert_same_bits(before, dict(sorted_like(after, before)))
    assert sum(key.startswith("activation_bounds.") for key in after) == 2


def test_an_old_torch_file_becomes_a_new_one_with_all_it_held(tmp_path):
    state = build_random("resnet18").state_dict()
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "old.tar", _use_new_zipfile_serialization=False)
    assert main(["convert", str(tmp_path / "old.tar"), str(tmp_path / "new.pt")]) == 0
    value = torch.load(tmp_path / "new.pt", weights_only=True)
    assert value["epoch"] == 3
    assert_same_bits(value["state_dict"], dict(state))
    assert (tmp_path / "new.pt").read_bytes().startswith(b"PK")


@pytest.mark.parametrize("name", ["state dict", "whole module"])
def test_a_network_that_is_not_known_becomes_safetensors(name, fails, tmp_path, capsys):
    network = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 5), torch.nn.GroupNorm(1, 3), torch.nn.GRU(3, 4))
    torch.save(network if name == "whole module" else network.state_dict(), tmp_path / "odd.pt")
    assert main(["convert", str(tmp_path / "odd.pt"), str(tmp_path / "odd.safetensors")]) == 0
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        "  the network is not recognised; its tensors are converted as they are",
        str(tmp_path / "odd.safetensors"),
    ]
    found = safetensors.torch.load_file(tmp_path / "odd.safetensors")
    assert_same_bits(dict(network.state_dict()), dict(sorted_like(found, network.state_dict())))
    assert main(["convert", str(tmp_path / "odd.safetensors"), str(tmp_path / "back.pt")]) == 0
    assert "resnet18 needs conv1.weight" in fails(
        "convert", tmp_path / "odd.pt", tmp_path / "b.safetensors", "--architecture", "resnet18"
    )
    assert "tensors" in fails("convert", tmp_path / "odd.pt", tmp_path / "folder")


def test_files_of_the_same_kind(source, fails, tmp_path):
    assert "is zip already" in fails("convert", source, tmp_path / "b.tar")
    assert main(["convert", str(source), str(tmp_path / "folder")]) == 0
    assert "an orbax folder becomes a PyTorch file" in fails("convert", tmp_path / "folder", tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["folder", "source.pt"]


@pytest.mark.parametrize("name", ["a.safetensors", "folder"])
def test_targets_that_exist(name, source, fails, tmp_path):
    (tmp_path / name).write_text("mine")
    assert "exists already" in fails("convert", source, tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


def test_sources_that_hold_no_network(fails, tmp_path):
    assert "nowhere.pt" in fails("convert", tmp_path / "nowhere.pt", tmp_path / "a.safetensors")
    (tmp_path / "empty").mkdir()
    assert "is no folder written by this project" in fails("convert", tmp_path / "empty", tmp_path / "a.pt")
    save_tree(tmp_path / "masks", {"recovered": np.ones(3)}, {"placement": "bn_scale"})
    assert "holds no network" in fails("convert", tmp_path / "masks", tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 8}, "its arrays do not fit its architecture, resnet18"),
        ({"width": "wide"}, "its architecture is not one of this version"),
        ({"name": "resnet19"}, "unknown architecture 'resnet19'"),
    ],
)
def test_folders_that_lie(change, message, source, fails, tmp_path):
    assert main(["convert", str(source), str(tmp_path / "folder")]) == 0
    tree, metadata = load_tree(tmp_path / "folder")
    metadata = json.loads(json.dumps(metadata))
    metadata["architecture"] |= change
    save_tree(tmp_path / "folder", tree, metadata, overwrite=True)
    assert message in fails("convert", tmp_path / "folder", tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


def test_shards_become_one_file(tmp_path):
    state = build_random("resnet18").state_dict()
    names = list(state)
    for number, part in enumerate((names[:60], names[60:]), 1):
        shard = {key: state[key] for key in part}
        safetensors.torch.save_file(shard, tmp_path / f"model-{number}-of-2.safetensors")
    where = {key: f"model-{1 + (number >= 60)}-of-2.safetensors" for number, key in enumerate(names)}
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": where}))
    for target in ("one.safetensors", "one.pt"):
        assert main(["convert", str(tmp_path / "index.json"), str(tmp_path / target)]) == 0
    assert_same_bits(dict(state), dict(sorted_like(safetensors.torch.load_file(tmp_path / "one.safetensors"), state)))
    assert_same_bits(dict(state), state_of(tmp_path / "one.pt"))

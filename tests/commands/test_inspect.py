"""Said of bundled, hostile and unknown files; never executed."""

import os
import re

import jax
import numpy as np
import pytest
import torch

from rnp_jax.card import read_card
from rnp_jax.checkpoints import save_variables
from rnp_jax.cli import main
from rnp_jax.models import Architecture, Network
from rnp_jax.torch_io import read_checkpoint
from tests.networks import build_random
from tests.runs import ROOT
from tests.torch_io import hostile as h

BUNDLED = sorted((ROOT / "checkpoints").glob("*.pt"))


class Payload:
    """Runs a shell command where an unpickler obeys it."""

    def __reduce__(self):
        return os.system, (h.COMMAND,)


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_bundled_files(path, capsys):
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    sha256 = read_checkpoint(path).sha256
    card = read_card(path, sha256)
    assert card is not None
    architecture = card.architecture
    assert sha256 in shown
    assert f"{architecture.name}, width {architecture.width}, {architecture.num_classes} classes" in shown
    parameters = sum(value.numel() for key, value in torch.load(path)["state_dict"].items() if trainable(key))
    assert f"parameters    {parameters:,}" in shown
    assert f"ACC {card.acc:.2%}" in shown


def trainable(key: str) -> bool:
    return key.endswith(("weight", "bias"))


def test_tensors_are_listed_on_demand(capsys):
    assert main(["inspect", str(BUNDLED[0]), "--tensors"]) == 0
    shown = capsys.readouterr().out
    for key, value in torch.load(BUNDLED[0])["state_dict"].items():
        assert re.search(rf'"{re.escape(key)}" .* \[{", ".join(map(str, value.shape))}\] ', shown), key


def test_a_payload_beside_the_weights_is_named_and_not_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = build_random("resnet18").state_dict()
    torch.save({"state_dict": state, "epoch": 3, "extra": Payload()}, "hostile.pt")
    assert main(["inspect", "hostile.pt"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r'"extra" +left unread: "(posix|nt)\.system"', shown)
    assert re.search(r'"epoch" +3', shown)
    assert "resnet18, width 4, 5 classes" in shown
    assert "card          none: defend and evaluate need --normalization and --data" in shown
    assert os.listdir(tmp_path) == ["hostile.pt"]


def test_an_unknown_architecture_is_an_error_after_what_can_be_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    payload = h.call("os", "system", h.text(h.COMMAND))
    (tmp_path / "odd.pt").write_bytes(h.torch_zip(h.dict_(state_dict=h.ordered(w=h.tensor()), x=payload)))
    assert main(["inspect", "odd.pt"]) == 1
    shown = capsys.readouterr()
    assert '"x"' in shown.out
    assert 'left unread: "os.system"' in shown.out
    assert 'state dict    "state_dict": 1 float32' in shown.out
    assert shown.out.endswith("architecture  not recognised\n")
    assert shown.err.startswith("rnp-jax: ArchitectureError: ")
    assert " + w (2, 2)" in shown.err
    assert os.listdir(tmp_path) == ["odd.pt"]


def test_names_in_a_file_steer_neither_terminal_nor_markup(tmp_path, capsys):
    name = "[bold]\x1b[2J[/x]"
    torch.save({"state_dict": {name: torch.zeros(2)}, name: name, "b": 1}, tmp_path / "odd.pt")
    assert main(["inspect", str(tmp_path / "odd.pt"), "--tensors"]) == 1
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "[bold]\\u001b[2J[/x]" in shown.out
    assert "[bold]\\x1b[2J[/x]" in shown.err


def test_a_crowd_beside_the_weights_is_counted(tmp_path, capsys):
    value = {"state_dict": build_random("resnet18").state_dict(), **{f"value{i}": i for i in range(100)}}
    torch.save(value, tmp_path / "many.pt")
    assert main(["inspect", str(tmp_path / "many.pt")]) == 0
    assert "... and 61 more\n" in capsys.readouterr().out


def test_a_whole_module_is_said_to_be_one(tmp_path, capsys):
    torch.save({"model": build_random("resnet18"), "epoch": 3}, tmp_path / "whole.pt")
    assert main(["inspect", str(tmp_path / "whole.pt")]) == 0
    shown = capsys.readouterr().out
    assert re.search(r'"model" +whole module of class "[a-zA-Z_.]+": 122 tensors', shown)
    assert '! data["model"] is a whole module of class' in shown
    assert "it is written as a plain state dict" in shown
    assert "resnet18, width 4, 5 classes" in shown


def test_what_is_around_the_network_is_told(tmp_path, capsys):
    """A prefix, a normalisation, and the network once more."""
    state = build_random("resnet18").state_dict()
    pair = {"norm.mean": torch.full((3,), 0.25), "norm.std": torch.full((3,), 0.5)}
    averaged = {key: value * 0.5 if value.is_floating_point() else value for key, value in state.items()}
    wrapped = {**pair, **{f"net.{key}": value for key, value in state.items()}}
    torch.save({"model": wrapped, "model_ema": averaged}, tmp_path / "m.pt")
    assert main(["inspect", str(tmp_path / "m.pt")]) == 0
    shown = capsys.readouterr().out
    assert 'prefix        "net.", taken off the names and put back in new files' in shown
    assert 'normalisation 0.25,0.25,0.25/0.5,0.5,0.5, in the file as "norm.mean" and "norm.std"' in shown
    assert 'copy          The file holds the same network with other weights in "model_ema": "model" behind' in shown
    assert "defend and evaluate need --data" in shown


def test_the_accuracy_that_the_file_states_and_the_input_are_told(tmp_path, capsys):
    torch.save(
        {"state_dict": build_random("resnet18").state_dict(), "best_prec1": torch.tensor(91.5)}, tmp_path / "m.pt"
    )
    assert main(["inspect", str(tmp_path / "m.pt")]) == 0
    shown = capsys.readouterr().out
    assert 'accuracy      91.50%, as the file states it in "best_prec1"\n' in shown
    assert (
        "input         32x32x3 assumed; the weights fit other sizes too, and evaluate, defend and detect take" in shown
    )
    assert main(["inspect", str(tmp_path / "m.pt"), "--image-shape", "48", "48", "3"]) == 0
    assert "input         48x48x3\n" in capsys.readouterr().out


def test_an_architecture_that_is_one_of_several_is_told_as_such(tmp_path, capsys):
    network = Network(Architecture("mobilenet_v2", 10, 8))
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    save_variables(tmp_path / "m.pt", network, jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes))
    assert main(["inspect", str(tmp_path / "m.pt")]) == 1
    shown = capsys.readouterr()
    assert "architecture  chenyaofo_mobilenet_v2 or mobilenet_v2\n" in shown.out
    assert "choose one with --architecture, or name clean images with --data" in shown.err

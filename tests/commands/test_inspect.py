"""Said of bundled, hostile and unknown files; never executed."""

import os
import re

import pytest
import torch

from rnp_jax.card import read_card
from rnp_jax.cli import main
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

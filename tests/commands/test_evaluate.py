import json
import shutil

import numpy as np
import pytest

from rnp_jax.card import read_card
from rnp_jax.cli import main
from rnp_jax.data import load
from tests.runs import CHECKPOINT, SMALL


def test_the_json_document(tmp_path, capsys):
    out = tmp_path / "new" / "figures.json"
    assert main(["evaluate", str(CHECKPOINT), *SMALL, "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    card = read_card(CHECKPOINT, document["checkpoint"]["sha256"])
    assert card is not None
    assert document["data"] == "digits (test)"
    assert {name: document["attack"][name] for name in ("name", "target", "mapping")} == {
        "name": "badnets", "target": 0, "mapping": "all_to_one",
    }  # fmt: skip
    assert document["options"]["images"]["test_images"] == 100
    acc, without, asr, ra = (document["metrics"][name] for name in ("acc", "acc_without_target", "asr", "ra"))
    assert [metric["total"] for metric in (acc, without, asr, ra)] == [100, 90, 90, 90]
    for metric in (acc, without, asr, ra):
        assert metric["value"] == metric["count"] / metric["total"]
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    assert abs(acc["value"] - card.acc) < 0.05
    assert asr["value"] > 0.9
    shown = capsys.readouterr().out
    assert f"{acc['value']:.2%}" in shown
    assert CHECKPOINT.name in shown


def test_without_a_trigger_only_acc_is_measured(tmp_path):
    assert main(["evaluate", str(CHECKPOINT), *SMALL, "--attack", "none", "--out", str(tmp_path / "f.json")]) == 0
    document = json.loads((tmp_path / "f.json").read_text())
    assert document["attack"] is None
    assert [name for name, value in document["metrics"].items() if value is not None] == ["acc"]


@pytest.mark.parametrize(("given", "told"), [((), "all 200"), (("--test-images", "100"), "100 of the 200")])
def test_a_set_without_a_test_part_is_measured_whole(small_victim, given, told, tmp_path, capsys):
    data = load("digits", image_size=8)
    np.savez(tmp_path / "own.npz", images=data.images[:200], labels=data.labels[:200])
    out = tmp_path / "f.json"
    options = ("--data", str(tmp_path / "own.npz"), "--batch-size", "50", "--attack", "none")
    assert main(["evaluate", str(small_victim), *options, *given, "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["data"] == "own.npz"
    assert document["metrics"]["acc"]["total"] == (100 if given else 200)
    said = f"measuring on {told} images, which have no test part of their own\n"
    assert capsys.readouterr().err == said


WRONG = ("--normalization", "5,5,5/0.01,0.01,0.01", "--batch-size", "20")
"""Images so far from those of the training that a network answers at random."""


def test_an_accuracy_at_chance_is_a_loud_warning(small_victim, tmp_path, capsys):
    out = tmp_path / "f.json"
    assert main(["evaluate", str(small_victim), *WRONG, "--attack", "none", "--out", str(out)]) == 0
    warning, rival = json.loads(out.read_text())["warnings"]
    assert "with --normalization digits" in rival
    told = " ".join(capsys.readouterr().err.split())
    assert f"WARNING: {warning}" in told
    for cause in (
        "better than guessing",
        "the card states",
        "--normalization",
        "--architecture",
        "classes",
        "--image-",
    ):
        assert cause in warning


def test_a_good_accuracy_is_no_warning(tmp_path, capsys):
    out = tmp_path / "f.json"
    assert main(["evaluate", str(CHECKPOINT), *SMALL, "--attack", "none", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["warnings"] == []
    assert "WARNING" not in capsys.readouterr().err


def test_five_images_are_a_warning(small_victim, tmp_path, capsys):
    out = tmp_path / "f.json"
    few = ("--test-images", "5", "--attack", "none", "--out", str(out))
    assert main(["evaluate", str(small_victim), *few]) == 0
    *_, warning = json.loads(out.read_text())["warnings"]
    assert warning == "Only 5 images to measure ACC on: 100 or more make sense."
    assert f"WARNING: {warning}" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no card that says how its images were normalised"),
        (("--normalization", "digits"), "no data: give --data"),
        (("--normalization", "digits", "--data", "digits", "--artefact", "x.npz"), "--attack card does not use"),
        (("--normalization", "0.5,0.4/1,1", "--data", "digits"), "normalisation for 2 channels, but the images have 3"),
    ],
)
def test_a_file_without_a_card(options, message, fails, tmp_path):
    shutil.copy(CHECKPOINT, tmp_path)
    assert message in fails("evaluate", tmp_path / CHECKPOINT.name, *options)


def test_files_that_are_no_checkpoints(fails, tmp_path):
    assert "nowhere.pt" in fails("evaluate", tmp_path / "nowhere.pt")
    (tmp_path / "text.pt").write_text("hello")
    assert "text.pt" in fails("evaluate", tmp_path / "text.pt")


def test_another_file_s_trigger(fails, tmp_path):
    error = fails("evaluate", CHECKPOINT, "--artefact", CHECKPOINT.with_name("digits_wanet.trigger.npz"))
    assert "not this attack's artefact" in error


def test_a_head_s_figures_are_its_card_s(head, tmp_path):
    assert main(["evaluate", str(head), *SMALL, "--out", str(tmp_path / "f.json")]) == 0
    document = json.loads((tmp_path / "f.json").read_text())
    card = read_card(head, document["checkpoint"]["sha256"])
    assert card is not None
    assert [document["metrics"][name]["value"] for name in ("acc", "asr", "ra")] == [card.acc, card.asr, card.ra]
    assert [document["metrics"][name]["total"] for name in ("acc", "asr", "ra")] == [100, 90, 90]

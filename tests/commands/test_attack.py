"""Checkpoints that ``attack`` trains, judged by ``evaluate``, by torch and by a run that was interrupted."""

import hashlib
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch

from rnp_jax.attacks import BadNets, Goal, draw_plan, load_artefact
from rnp_jax.card import read_card
from rnp_jax.cli import main
from rnp_jax.data import load
from rnp_jax.pipeline.holding import hold_file
from rnp_jax.pipeline.run_log import EpochBars
from tests.networks import build
from tests.oracle.models import mlp
from tests.runs import ATTACK, CHECKPOINT, HEAD

EVALUATE = ("--test-images", "100", "--batch-size", "20")


def card_of(path):
    card = read_card(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert card is not None
    return card


@pytest.mark.slow
def test_three_files_are_written_and_torch_loads_the_weights(attacked):
    assert sorted(os.listdir(attacked.parent)) == ["victim.card.json", "victim.pt", "victim.trigger.npz"]
    value = torch.load(attacked, weights_only=True)
    build("resnet18", width=4, num_classes=10).load_state_dict(value["state_dict"], strict=True)
    card = card_of(attacked)
    assert (value["epoch"], value["clean_acc"], value["bad_acc"]) == (2, card.acc, card.asr)


@pytest.mark.slow
def test_the_card_tells_how_it_was_made(attacked):
    card = card_of(attacked)
    assert (card.file, card.data, card.train_images, card.seed) == ("victim.pt", "digits", 1297, 0)
    assert (card.architecture.name, card.architecture.width, card.architecture.image_shape) == (
        "resnet18", 4, (16, 16, 3),
    )  # fmt: skip
    assert card.training["epochs"] == 2
    assert card.augmentation == {"padding": 1, "flip": False}
    assert card.attack is not None
    assert (card.attack.name, card.attack.target, card.attack.mapping) == ("badnets", 3, "all_to_one")
    plan = draw_plan(load("digits").labels, Goal(num_classes=10, target=3), rate=0.1, seed=0)
    assert (card.attack.poisoned, card.attack.indices_sha256) == (130, plan.indices_sha256)
    trigger = load_artefact(attacked.with_suffix(".trigger.npz"), BadNets(), (16, 16, 3))
    for name, expected in BadNets().init((16, 16, 3)).items():
        np.testing.assert_array_equal(trigger[name], expected)


@pytest.mark.slow
def test_the_card_s_figures_are_those_of_an_evaluation(attacked, tmp_path):
    assert main(["evaluate", str(attacked), *EVALUATE, "--out", str(tmp_path / "figures.json")]) == 0
    metrics, card = json.loads((tmp_path / "figures.json").read_text())["metrics"], card_of(attacked)
    assert {name: metrics[name]["value"] for name in ("acc", "asr", "ra")} == {
        "acc": card.acc, "asr": card.asr, "ra": card.ra,
    }  # fmt: skip
    assert (metrics["acc"]["total"], metrics["asr"]["total"]) == (100, 90)


@pytest.mark.slow
def test_the_card_says_what_is_weak(attacked):
    card = card_of(attacked)
    assert card.attack is not None
    assert card.asr is not None
    assert (card.attack.cover, card.attack.appended, card.attack.expected_asr) == (0, False, 0.9)
    assert card.attack.weak == (card.asr < 0.9)
    low, high = card.intervals["asr"]
    assert low <= card.asr <= high
    assert sorted(card.intervals) == ["acc", "asr", "ra"]
    assert card.seconds is not None
    assert card.seconds > 0


@pytest.mark.slow
def test_a_clean_model(attacked, tmp_path):
    path = tmp_path / "clean.pt"
    assert main(["attack", "none", "--out", str(path), *ATTACK]) == 0
    card = card_of(path)
    assert (card.attack, card.asr, card.ra) == (None, None, None)
    assert sorted(os.listdir(tmp_path)) == ["clean.card.json", "clean.pt"]
    assert main(["evaluate", str(path), *EVALUATE, "--out", str(tmp_path / "figures.json")]) == 0
    document = json.loads((tmp_path / "figures.json").read_text())
    assert (document["attack"], document["metrics"]["asr"]) == (None, None)
    assert document["metrics"]["acc"]["value"] == card.acc
    assert path.read_bytes() != attacked.read_bytes()


SMALL = ("--data", "digits", "--normalization", "digits", "--model", "lenet", "--width", "1", "--test-images", "20")


@pytest.mark.slow
def test_the_card_tells_how_an_adaptive_attacker_trained(tmp_path):
    path = tmp_path / "victim.pt"
    given = ("--train.epochs", "1", "--train.batch-size", "256", "--batch-size", "20", "--adaptive.method", "embedding")
    assert main(["attack", "badnets", "--out", str(path), *SMALL, *given, "--adaptive.embedding.ratio", "0.25"]) == 0
    card = card_of(path)
    assert card.adaptive == {"method": "embedding", "ratio": 0.25, "learning_rate": 0.001, "momentum": 0.9}
    assert sorted(os.listdir(tmp_path)) == ["victim.card.json", "victim.pt", "victim.trigger.npz"]


def interrupt_after_one_epoch(monkeypatch, path) -> int:
    """Ctrl-C in the second epoch, the state of the first saved; returns the exit status."""
    shown = EpochBars.__call__

    def show(self, phase, epoch, most, figures):
        shown(self, phase, epoch, most, figures)
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rnp_jax.commands.saved_states.SAVE_EVERY", 0)
        patch.setattr(EpochBars, "__call__", show)
        return main(["attack", "badnets", "--out", str(path), *ATTACK, "--target", "3"])


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(attacked, tmp_path, monkeypatch, capsys, fails):
    path = tmp_path / "victim.pt"
    assert interrupt_after_one_epoch(monkeypatch, path) == 130
    error = capsys.readouterr().err
    told = f"the state after epoch 1 is in {tmp_path / 'victim.training'}; --resume continues from it"
    assert error.endswith(f"rnp-jax: interrupted: {told}\n")
    assert os.listdir(tmp_path) == ["victim.training"]
    assert os.listdir(tmp_path / "victim.training") == ["1"]
    error = fails("attack", "badnets", "--out", path, *ATTACK, "--target", "4", "--train.momentum", "0.5", "--resume")
    assert "victim.training/1 was saved by a run with different target, train; use the same options" in error
    assert main(["attack", "badnets", "--out", str(path), *ATTACK, "--target", "3", "--resume"]) == 0
    assert "continuing after epoch 1 of 2: 50% is done already" in capsys.readouterr().err
    assert path.read_bytes() == attacked.read_bytes()
    assert card_of(path) == card_of(attacked).model_copy(update={"seconds": card_of(path).seconds})
    assert sorted(os.listdir(tmp_path)) == ["victim.card.json", "victim.pt", "victim.trigger.npz"]


@pytest.mark.slow
def test_damaged_and_missing_states(tmp_path, monkeypatch, fails, capsys, attacked):
    path = tmp_path / "victim.pt"
    assert interrupt_after_one_epoch(monkeypatch, path) == 130
    shutil.rmtree(tmp_path / "victim.training" / "1" / "tree")
    assert "victim.training/1: is no folder written by this project" in fails(
        "attack", "badnets", "--out", path, *ATTACK, "--target", "3", "--resume"
    )
    shutil.rmtree(tmp_path / "victim.training")
    assert main(["attack", "badnets", "--out", str(path), *ATTACK, "--target", "3", "--resume"]) == 0
    assert "starting with the first epoch" in capsys.readouterr().err
    assert path.read_bytes() == attacked.read_bytes()


def test_a_head_is_a_torch_sequential_with_a_card_that_names_its_extractor(head):
    value = torch.load(head, weights_only=True)
    mlp([64, 16, 12, 10]).load_state_dict(value["state_dict"], strict=True)
    card = card_of(head)
    assert card.extractor is not None
    assert (card.extractor.path, card.extractor.name, card.extractor.dim) == (CHECKPOINT.name, CHECKPOINT.stem, 64)
    assert card.extractor.sha256 == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    assert (card.architecture.name, card.architecture.image_shape) == ("mlp", (1, 1, 64))
    assert (set(card.normalization.mean), set(card.normalization.std)) == ({0.0}, {1.0})
    assert card.augmentation == {}
    assert card.attack is not None
    assert card.attack.poisoned == 130
    assert (value["clean_acc"], value["bad_acc"]) == (card.acc, card.asr)
    assert card.acc > 0.5
    assert card.asr is not None
    assert card.asr > 0.9


def test_a_head_backdoored_by_wanet_has_a_plan(head, tmp_path):
    path = tmp_path / "wanet.pt"
    extractor = head.with_name(CHECKPOINT.name)
    assert main(["attack", "wanet", "--out", str(path), "--extractor", str(extractor), *HEAD]) == 0
    card = card_of(path)
    assert card.attack is not None
    assert (card.attack.poisoned, len(card.attack.indices_sha256 or "")) == (130, 64)
    assert card.extractor is not None
    assert (path.parent / card.extractor.path).samefile(extractor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--width", "8", "--augmentation.padding", "2"), "--width, --augmentation: not read with --extractor"),
        (("--head", "0"), "head of [0] hidden units on 64 features"),
        (("--extractor", "nowhere.pt"), "nowhere.pt: nothing is there; give a PyTorch checkpoint"),
    ],
)
def test_options_that_do_not_fit_a_head(options, message, fails, tmp_path):
    arguments = ("--data", "digits", "--extractor", CHECKPOINT, *options)
    assert message in fails("attack", "badnets", "--out", tmp_path / "head.pt", *arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("badnets", "--head", "8"), "--head: not read without --extractor"),
        (("badnet",), "attack 'badnet' is unknown; did you mean badnets?"),
        (("badnets", "--constants", "colour", "red"), "badnets has no constant colour; it has variant, size, margin"),
        (("none", "--constants", "size", "3"), "attack none has no constants"),
        (("wanet", "--poison.append"), "WaNet poisons in the victim's training step; remove --poison.append"),
        (("dfst", "--poison.append"), "Dfst poisons in the victim's training step; remove --poison.append"),
        (("badnets", "--target", "10"), "target is 10, expected an integer between 0 and 9"),
        (("badnets", "--poison.rate", "1.5"), "rate is 1.5, expected a number between 0 and 1"),
        (("badnets", "--train.batch-size", "2000"), "--train.batch-size 2000 exceeds the 1297 training images"),
        (("badnets", "--model", "mlp"), "--model mlp: "),
        (("badnets", "--seed", "-1"), "seed is -1, expected an integer between 0 and"),
        (("badnets", "--normalization", "digit"), "unknown normalisation 'digit'; did you mean digits?"),
        (("sig", "--poison.rate", "0.2"), "a clean-label attack on 259 images"),
        (("badnets", "--adaptive.sbl.rho", "0.2"), "settings of --adaptive.sbl: not read with --adaptive.method None"),
        (("awp", "--adaptive.method", "sbl"), "Awp trains its victim in its own way; remove --adaptive.method"),
        (("badnets", "--adaptive.grond.u", "-1"), "--adaptive.grond.u is -1.0, expected a number of at least"),
    ],
)
def test_options_that_do_not_fit(options, message, fails, tmp_path):
    name, *rest = options
    assert message in fails("attack", name, "--out", tmp_path / "victim.pt", *ATTACK, *rest)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("present", ["victim.pt", "victim.card.json"])
def test_files_that_exist_are_not_replaced(present, fails, tmp_path):
    (tmp_path / present).write_text("mine")
    assert f"{present} exists already" in fails("attack", "badnets", "--out", tmp_path / "victim.pt", *ATTACK)
    assert (tmp_path / present).read_text() == "mine"


def test_a_rate_that_nothing_reads_is_refused(tmp_path, fails):
    error = fails("attack", "awp", "--out", tmp_path / "a.pt", *ATTACK, "--poison.rate", "0.3")
    assert "--poison: not read by awp" in error
    assert os.listdir(tmp_path) == []


def test_a_wrong_name_is_told_before_data_are_looked_for(tmp_path, fails):
    error = fails("attack", "trojn", "--out", tmp_path / "a.pt", "--data", "nowhere")
    assert "'trojn' is unknown; did you mean trojan?" in error


def test_a_checkpoint_that_another_run_is_writing_is_left_to_it(tmp_path, fails):
    with hold_file(tmp_path / "victim.pt", "attack"):
        error = fails("attack", "badnets", "--out", tmp_path / "victim.pt", *ATTACK)
    assert re.match(rf"DataError: .*victim\.pt is being written by process {os.getpid()} on .* \(attack, since", error)
    assert os.listdir(tmp_path) == []

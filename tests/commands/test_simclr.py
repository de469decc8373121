"""Extractors that ``simclr`` trains, judged by ``evaluate``, by torch, by the library and by an interrupted run."""

import hashlib
import json
import os

import jax
import numpy as np
import pytest
import torch

from rnp_jax.attacks import Goal, draw_plan
from rnp_jax.card import read_card
from rnp_jax.checkpoints import load_model
from rnp_jax.cli import main
from rnp_jax.data import NORMALIZATIONS, load
from rnp_jax.extractors import open_extractor
from rnp_jax.pipeline.run_log import EpochBars
from rnp_jax.pipeline.training_set import open_attack
from rnp_jax.training.backdoor import PoisonConfig, poison_once
from rnp_jax.training.simclr import SimclrConfig, pretrain
from rnp_jax.training.views import Views
from tests.networks import build
from tests.runs import SIMCLR

pytestmark = pytest.mark.slow

FILES = ["extractor.card.json", "extractor.pt", "extractor.trigger.npz"]


def card_of(path):
    card = read_card(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert card is not None
    return card


def test_torch_loads_the_weights(extracted):
    assert sorted(os.listdir(extracted.parent)) == FILES
    value = torch.load(extracted, weights_only=True)
    build("resnet18", width=4, num_classes=10).load_state_dict(value["state_dict"], strict=True)
    assert (value["epoch"], value["clean_acc"]) == (2, card_of(extracted).acc)


def test_the_card_tells_how_it_was_made(extracted):
    card = card_of(extracted)
    assert (card.data, card.train_images, card.seed, card.extractor) == ("digits", 1297, 0, None)
    assert (card.training["simclr"]["epochs"], card.training["probe"]["epochs"]) == (2, 2)
    assert (card.augmentation["flip"], card.augmentation["scale"]) == (False, [0.2, 1.0])
    plan = draw_plan(load("digits").labels, Goal(num_classes=10, target=3), rate=0.1, seed=0)
    assert card.attack is not None
    assert (card.attack.name, card.attack.target) == ("badnets", 3)
    assert (card.attack.poisoned, card.attack.indices_sha256) == (130, plan.indices_sha256)


def test_the_card_s_figures_are_those_of_an_evaluation(extracted, tmp_path):
    out = tmp_path / "figures.json"
    assert main(["evaluate", str(extracted), "--test-images", "100", "--batch-size", "20", "--out", str(out)]) == 0
    metrics, card = json.loads(out.read_text())["metrics"], card_of(extracted)
    found = [metrics[name]["value"] for name in ("acc", "asr", "ra")]
    assert found == [card.acc, card.asr, card.ra]


def test_the_library_gives_the_same_extractor(extracted):
    network = load_model(extracted).network
    assert network.mean == NORMALIZATIONS["digits"].mean
    data = load("digits", image_size=16)
    made = poison_once(open_attack("badnets", {}), Goal(num_classes=10, target=3), data.batch, 0, PoisonConfig())
    init_key, train_key = jax.random.split(jax.random.key(0))
    config, views = SimclrConfig(epochs=2, batch_size=256), Views(flip=False)
    trained, _ = pretrain(network, network.init(init_key), made.data.images, train_key, config, views=views)
    stored = load_model(extracted).variables
    trunks = [{k: v for k, v in each["params"].items() if k != "linear"} for each in (stored, trained)]
    jax.tree.map(np.testing.assert_array_equal, *trunks)
    jax.tree.map(np.testing.assert_array_equal, stored["batch_stats"], trained["batch_stats"])


def test_it_opens_as_an_extractor_and_warns_of_its_training_set(extracted):
    extractor = open_extractor(extracted)
    assert extractor.dim == 32
    assert extractor.caution is not None
    assert "poisoned by badnets (rate 0.1)" in extractor.caution


def test_an_interrupted_run_goes_on_bit_for_bit(extracted, tmp_path, monkeypatch, capsys):
    path = tmp_path / "extractor.pt"
    arguments = ["simclr", "badnets", "--out", str(path), *SIMCLR, "--target", "3"]
    shown = EpochBars.__call__

    def show(self, phase, epoch, most, figures):
        shown(self, phase, epoch, most, figures)
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rnp_jax.commands.saved_states.SAVE_EVERY", 0)
        patch.setattr(EpochBars, "__call__", show)
        assert main(arguments) == 130
    assert f"{tmp_path / 'extractor.training'}; --resume continues from it" in capsys.readouterr().err
    assert os.listdir(tmp_path / "extractor.training") == ["1"]
    assert main([*arguments, "--resume"]) == 0
    assert "continuing after epoch 1 of 2: 50% is done already" in capsys.readouterr().err
    assert path.read_bytes() == extracted.read_bytes()
    assert card_of(path) == card_of(extracted)
    assert sorted(os.listdir(tmp_path)) == FILES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("badnet",), "attack 'badnet' is unknown; did you mean badnets?"),
        (("--constants", "size", "3"), "attack none has no constants"),
        (("--simclr.batch-size", "2000"), "--simclr.batch-size 2000 exceeds the 1297 training images"),
        (("--probe.batch-size", "2000"), "--probe.batch-size 2000 exceeds the 1297 training images"),
        (("--simclr.temperature", "0"), "temperature > 0"),
        (("--views.scale", "0", "1"), "0 < scale[0] <= scale[1] <= 1"),
        (("--model", "mlp"), "--model mlp: this command trains resnet18, "),
        (("--seed", "-1"), "seed is -1, expected an integer between 0 and"),
        (("--normalization", "digit"), "unknown normalisation 'digit'; did you mean digits?"),
        (("--data", "missing.npz"), "no data set, file or folder 'missing.npz'"),
    ],
)
def test_options_that_do_not_fit(options, message, fails, tmp_path):
    assert message in fails("simclr", "--out", tmp_path / "extractor.pt", *SIMCLR, *options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("present", FILES[:2])
def test_files_that_exist_are_not_replaced(present, fails, tmp_path):
    (tmp_path / present).write_text("mine")
    assert f"{present} exists already" in fails("simclr", "--out", tmp_path / "extractor.pt", *SIMCLR)
    assert (tmp_path / present).read_text() == "mine"

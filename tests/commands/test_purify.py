"""A network purified from a poisoned training set, judged by ``evaluate``, by torch and by a run without the truth."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from rnp_jax.commands.purify import HidOptions

from rnp_jax.card import read_card, write_card
from rnp_jax.checkpoints import load_model
from rnp_jax.cli import main, parse
from rnp_jax.data import load
from rnp_jax.defenses import HidConfig, HolderPruneConfig, ThresholdConfig
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.opening import draw_evenly
from rnp_jax.pipeline.training_set import remake
from rnp_jax.report.schema import read_result
from rnp_jax.torch_io import read_checkpoint, write_state_dict
from tests.commands.conftest import CHECKPOINT, HID

pytestmark = pytest.mark.slow

FILES = (
    *("cleaned.card.json", "cleaned.pt", "config.yaml", "extractor.card.json", "extractor.pt"),
    *("figures", "masks", "report.html", "result.json", "run.log"),
)
EVALUATE = ("--image-size", "8", "--test-images", "100", "--batch-size", "20")
STAGES = ["load checkpoint", "load images", "simclr", "cache", "head", "score", "choose", "select", "mixmatch"]


def card_of(path):
    card = read_card(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert card is not None
    return card


def evaluate(path, out, *options) -> dict:
    assert main(["evaluate", str(path), *EVALUATE, *options, "--out", str(out)]) == 0
    return json.loads(out.read_text())["metrics"]


def test_everything_is_written(purified):
    assert tuple(sorted(os.listdir(purified.folder))) == FILES
    log = (purified.folder / "run.log").read_text("utf-8")
    assert "simclr epoch 2/2" in log
    assert "round 2: 8 units pruned so far" in log
    assert purified.result.verdict.headline in (purified.folder / "report.html").read_text("utf-8")


def test_the_figures_are_those_of_an_independent_evaluation_wherever_the_folder_goes(purified, tmp_path):
    moved = shutil.copytree(purified.folder, tmp_path / "moved")
    assert evaluate(moved / "cleaned.pt", tmp_path / "a.json") == purified.result.after.model_dump(
        mode="json", exclude={"der"}
    )
    before = evaluate(purified.source, tmp_path / "b.json")
    assert before == purified.result.before.model_dump(mode="json", exclude={"der"})
    probe = evaluate(moved / "extractor.pt", tmp_path / "c.json")
    assert [probe[name]["value"] for name in ("acc", "asr", "ra")] == [
        getattr(card_of(moved / "extractor.pt"), name) for name in ("acc", "asr", "ra")
    ]


def torch_mlp(path, layers: int) -> torch.nn.Sequential:
    state = torch.load(path, weights_only=True)["state_dict"]
    parts = [torch.nn.Linear(*reversed(state[f"{2 * i}.weight"].shape)) for i in range(layers)]
    module = torch.nn.Sequential(*[part for linear in parts for part in (linear, torch.nn.ReLU())][:-1])
    module.load_state_dict(state, strict=True)
    return module


def test_torch_runs_extractor_and_head_and_agrees(purified):
    test = load("digits", split="test", image_size=8)
    chosen = draw_evenly(test.labels, 100)
    pixels = (torch.tensor(test.images[chosen]).float() / 255 - 0.3) / 0.3
    extractor, head = torch_mlp(purified.folder / "extractor.pt", 3), torch_mlp(purified.folder / "cleaned.pt", 3)
    with torch.no_grad():
        logits = head(extractor[:-1](pixels.permute(0, 3, 1, 2).flatten(1)))
    assert (logits.argmax(1).numpy() == test.labels[chosen]).sum() == purified.result.after.acc.count


def test_pruned_units_are_silent_in_the_file(purified):
    state = torch.load(purified.folder / "cleaned.pt", weights_only=True)["state_dict"]
    found = {(item.layer, item.index) for item in purified.result.pruned_filters}
    silent = {
        (layer, i)
        for layer in ("0", "2")
        for i in range(len(state[f"{layer}.bias"]))
        if not state[f"{layer}.weight"][i].any() and not state[f"{layer}.bias"][i]
    }
    assert found == silent
    assert len(found) == purified.result.choice.pruned == 8  # two a layer and round
    assert all(item.score > 0 for item in purified.result.pruned_filters)


def test_the_cards_name_the_training_set_and_the_extractor(purified):
    source, cleaned, extractor = (
        card_of(path) for path in (purified.source, purified.folder / "cleaned.pt", purified.folder / "extractor.pt")
    )
    assert cleaned.attack == extractor.attack == source.attack
    assert cleaned.extractor is not None
    assert (cleaned.extractor.path, cleaned.extractor.sha256) == ("extractor.pt", extractor.sha256)
    assert (cleaned.extractor.dim, cleaned.data, cleaned.train_images) == (16, "digits", 1297)
    assert cleaned.training["config"]["rounds"] == 2
    assert cleaned.acc == purified.result.after.acc.value


def test_the_document(purified):
    result = purified.result
    assert (result.method, result.kind, result.data.defense_images) == ("hid", "score", 0)
    assert (result.checkpoint.architecture, result.checkpoint.filters) == ("mlp", 44)
    assert [phase.name for phase in result.phases] == ["simclr", "head", "mixmatch, round 1", "mixmatch, round 2"]
    assert [stage.stage for stage in result.timing][: len(STAGES)] == STAGES
    assert result.features is None
    assert result.choice is not None
    assert result.choice.rule.endswith("in each of 2 rounds")
    assert "A new network was trained on the 1,297 untrusted images: 8 of its head's 44" in result.verdict.detail


def test_rounds_are_judged_by_the_truth(purified):
    rows = purified.result.covariates
    assert len(rows) == 4
    for number in (1, 2):
        clean = rows[f"Round {number}: share of clean images among those kept (for evaluation only)"]
        poison = rows[f"Round {number}: share of the poisoned images kept (for evaluation only)"]
        assert clean is not None
        assert poison is not None
        kept = sum(round(0.5 * n) for n in np.bincount(training_labels(purified), minlength=10))
        assert poison * 130 == pytest.approx((1 - clean) * kept)


def training_set(purified):
    return remake(card_of(purified.source), purified.source, load("digits", image_size=8))


def training_labels(purified) -> np.ndarray:
    return training_set(purified).data.labels


def test_the_same_set_given_without_its_truth_gives_the_same_network(purified, tmp_path):
    data, test = training_set(purified).data, load("digits", split="test", image_size=8)
    arrays = {"x_train": data.images, "y_train": data.labels, "x_test": test.images, "y_test": test.labels}
    np.savez(tmp_path / "untrusted.npz", **arrays)
    given = ("--hid.poisoned", str(tmp_path / "untrusted.npz"), "--out", str(tmp_path / "out"))
    assert main(["defend", str(purified.source), *HID, *given]) == 0
    for name in ("cleaned.pt", "extractor.pt"):
        assert (tmp_path / "out" / name).read_bytes() == (purified.folder / name).read_bytes()
    result = read_result(tmp_path / "out" / "result.json")
    assert result.after == purified.result.after
    assert result.covariates == {}


def test_the_written_options_give_the_same_run(purified):
    given = parse("defend", [str(purified.source), *HID, "--out", str(purified.folder)])[1]
    assert parse("defend", ["--config", str(purified.folder / "config.yaml")])[1] == given


def test_a_pretrained_extractor_of_other_classes(purified, tmp_path):
    """Of sixteen where the digits have ten: its last layer is not used, and is written for ten."""
    source = load_model(purified.folder / "extractor.pt")
    wide = dict(source.state_dict.tensors) | {
        "4.weight": np.ones((16, 16), np.float32),
        "4.bias": np.ones(16, np.float32),
    }
    write_state_dict(tmp_path / "wide.pt", wide)
    card = card_of(purified.folder / "extractor.pt")
    architecture = card.architecture.model_copy(update={"num_classes": 16})
    sha256 = read_checkpoint(tmp_path / "wide.pt").sha256
    changed = {"attack": None, "sha256": sha256, "architecture": architecture}
    write_card(tmp_path / "wide.card.json", card.model_copy(update=changed))
    for name in ("wide.pt", "own.pt"):
        path = tmp_path / name if name == "wide.pt" else purified.folder / "extractor.pt"
        given = ("--hid.extractor", str(path), "--out", str(tmp_path / path.stem))
        assert main(["defend", str(purified.source), *HID, *given]) == 0
    found, expected = (read_result(tmp_path / name / "result.json") for name in ("wide", "extractor"))
    assert found.after == expected.after
    assert found.phases[0].name == "head"
    assert not any("poisoned by badnets" in text for text in found.warnings)
    assert "extractor was trained on images poisoned by badnets (rate 0.1)" in expected.warnings[0]
    assert (tmp_path / "wide" / "cleaned.pt").read_bytes() == (tmp_path / "extractor" / "cleaned.pt").read_bytes()


def test_a_head_on_features_is_replaced_by_a_network_like_its_extractor(purified, tmp_path):
    victim = tmp_path / "head.pt"
    attack = ("attack", "badnets", "--out", str(victim), "--extractor", str(purified.folder / "extractor.pt"))
    data = ("--data", "digits", *EVALUATE, "--target", "3", "--seed", "5")
    assert main([*attack, *data, "--head", "12", "--train.epochs", "1", "--train.batch-size", "64"]) == 0
    out = tmp_path / "out"
    assert main(["defend", str(victim), *HID, "--image-size", "8", "--out", str(out)]) == 0
    result = read_result(out / "result.json")
    assert load_model(out / "extractor.pt").network == load_model(purified.folder / "extractor.pt").network
    assert result.before.acc is not None
    assert result.before.acc.value == card_of(victim).acc
    for name in ("cleaned", "extractor"):  # the trigger goes along, so that ASR can be measured again
        assert (out / f"{name}.trigger.npz").read_bytes() == (tmp_path / "head.trigger.npz").read_bytes()
    assert len(result.covariates) == 4  # the head's card tells its poisoned images too


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--defense.size", "40"), "--method hid leaves --defense.* and --sweep-images unread"),
        (("--sweep-images", "40"), "--method hid leaves --defense.* and --sweep-images unread"),
        (("--method", "clp"), "--method clp leaves --hid.* unread"),
        (("--rnp.recover.epochs", "3"), "--method hid leaves --rnp.* unread"),
        (("--hid.width", "4"), "--hid.width 4: mlp has no width"),
        (("--hid.width", "4", "--hid.extractor", "a.pt"), "--hid.extractor leaves --hid.width 4 unread"),
        (("--hid.extractor", "missing.pt"), "missing.pt"),
        (("--hid.extractor", str(CHECKPOINT.parent)), "hid trains it further: give a PyTorch checkpoint file"),
        (("--hid.extractor", str(CHECKPOINT)), "images are 8x8x3, but the model takes 32x32x3"),
        (("--hid.poisoned", "missing.npz"), "no data set, file or folder 'missing.npz'"),
        (("--hid.head",), "give one hidden layer or more"),
        (("--hid.head", "0"), "expected sizes of 1 or more"),
        (("--hid.config.head.batch-size", "2000"), "--hid.config.head.batch-size 2000 exceeds the 1297 training"),
        (("--hid.config.simclr.batch-size", "2000"), "--hid.config.simclr.batch-size 2000 exceeds the 1297"),
        (("--hid.config.keep", "1"), "keep 1.0, rounds 2: expected keep in (0, 1)"),
        (("--hid.config.prune.threshold.rule", "budget"), "takes a number"),
    ],
)
def test_errors_come_before_the_work_and_leave_nothing_behind(options, message, small_victim, fails, tmp_path):
    assert message in fails("defend", small_victim, *HID, "--out", tmp_path / "out", *options)
    assert os.listdir(tmp_path) == []


def test_a_rule_that_needs_clean_images():
    with pytest.raises(ConfigError, match="budget needs clean held-out images, and hid has none"):
        HidOptions(config=HidConfig(prune=HolderPruneConfig(threshold=ThresholdConfig("budget"))))


def test_checkpoints_whose_training_set_is_not_known(small_victim, fails, tmp_path):
    alone = shutil.copy(small_victim, tmp_path / "alone.pt")
    source = ("--normalization", "identity", "--image-shape", "8", "8", "3", "--data", "digits", "--image-size", "8")
    error = fails("defend", alone, *HID, *source, "--out", tmp_path / "out")
    assert "alone.pt has no card to make its training set again from" in error
    error = fails("defend", CHECKPOINT.parent / "digits_wanet.pt", *HID, "--out", tmp_path / "out")
    assert "give the training set to purify with --hid.poisoned" in error
    assert os.listdir(tmp_path) == ["alone.pt"]


def test_test_images_in_the_training_set(small_victim, fails, tmp_path):
    test = load("digits", split="test", image_size=8)
    arrays = {"x_train": test.images, "y_train": test.labels, "x_test": test.images, "y_test": test.labels}
    np.savez(tmp_path / "test.npz", **arrays)
    options = ("--hid.poisoned", tmp_path / "test.npz", "--hid.config.simclr.batch-size", "64")
    assert "100 test images are also in" in fails("defend", small_victim, *HID, *options, "--out", tmp_path / "out")


def test_nothing_that_is_read_is_replaced(purified, fails, tmp_path):
    folder = shutil.copytree(purified.folder, tmp_path / "out")
    (folder / "report.html").unlink()
    for given in (
        (folder / "cleaned.pt",),
        (folder / "extractor.pt",),
        (purified.source, "--hid.extractor", folder / "extractor.pt"),
    ):
        error = fails("defend", *given, *HID, "--out", folder)
        assert "would be replaced by a file of this run; choose another folder with --out" in error
    assert "holds a finished result already" in fails("defend", purified.source, *HID, "--out", purified.folder)

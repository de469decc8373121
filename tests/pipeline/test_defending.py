"""Whole runs: a method's, and those of networks that HID trains anew, judged by ``evaluate`` and by torch."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from rnp_jax.card import read_card, write_card
from rnp_jax.checkpoints import load_model
from rnp_jax.cli import main
from rnp_jax.commands.arguments import parse
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, read_yaml
from rnp_jax.data import load
from rnp_jax.defenses import METHODS, Defended
from rnp_jax.defenses.method import compute_anew
from rnp_jax.errors import ConfigError, DataError, Interrupted
from rnp_jax.pipeline import defending, keeping
from rnp_jax.pipeline.case import open_case
from rnp_jax.pipeline.defending import defend_case, defend_checkpoint, judge_outcome, write_outcome
from rnp_jax.pipeline.images import draw_evenly
from rnp_jax.pipeline.keeping import identify, keep_stages
from rnp_jax.pipeline.measuring import run_method
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.options import RunOptions
from rnp_jax.pipeline.packing import pack
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.training_set import remake
from rnp_jax.report.schema import read_result
from rnp_jax.torch_io import read_checkpoint, write_state_dict
from tests.runs import HID

FILES = (
    *("cleaned.card.json", "cleaned.pt", "config.yaml", "extractor.card.json", "extractor.pt"),
    *("figures", "masks", "report.html", "result.json", "run.log"),
)
EVALUATE = ("--image-size", "8", "--test-images", "100", "--batch-size", "20")
STAGES = [
    "load checkpoint",
    "load images",
    "measure",
    "simclr",
    "cache",
    "head",
    "score",
    "choose",
    "select",
    "mixmatch",
]


SMALL = RunOptions(
    images=DataOptions(image_size=8, test_images=100),
    defense=DefenseSetOptions(size=40, holdout=0.5),
    compute=ComputeOptions(batch_size=20),
    sweep_images=20,
)


def test_a_run_from_python_writes_and_returns_its_result(small_victim, tmp_path, capsys):
    request, out = Request.of(str(small_victim), METHODS["clp"], SMALL), tmp_path / "out"
    result = defend_checkpoint(request, str(out), RunLog(quiet=True))
    assert result == read_result(out / "result.json")
    assert sorted(os.listdir(out)) == [
        "cleaned.pt", "config.yaml", "figures", "masks", "report.html", "result.json", "run.log",
    ]  # fmt: skip
    assert capsys.readouterr().err == ""
    assert [stage.stage for stage in result.timing] == [
        "load checkpoint", "load images", "measure", "score", "choose", "write checkpoint", "sweeps",
    ]  # fmt: skip
    (curve,) = result.sweeps
    assert (curve.ranking, curve.points[0].acc.total) == ("clp", 20)
    with pytest.raises(DataError, match="already contains a finished result"):
        defend_checkpoint(request, str(out))


def test_the_checkpoint_as_it_is_has_a_report_too(small_victim, tmp_path):
    request = Request.of(str(small_victim), METHODS["none"], SMALL)
    result = defend_checkpoint(request, str(tmp_path / "out"), RunLog(quiet=True))
    assert result.before.model_dump(exclude={"der"}) == result.after.model_dump(exclude={"der"})
    assert (result.verdict.detail, result.sweeps, result.pruned_filters) == ("Nothing was changed.", (), ())
    before, after = (torch.load(path)["state_dict"] for path in (small_victim, tmp_path / "out" / "cleaned.pt"))
    assert all(torch.equal(before[name], after[name]) for name in {**before, **after})


@pytest.fixture
def keep_everything(monkeypatch):
    monkeypatch.setattr(keeping, "WORTH", 0.0)


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["unlearn", "recover", "outcome"])
def test_an_interrupted_method_goes_on_to_the_very_same_outcome(
    stage, small_victim, keep_everything, tmp_path, monkeypatch
):
    """Interrupted at the end of any stage of RNP, the weights are the same to the bit, and all that is told of them."""
    steps = ("--rnp.unlearn.max-epochs", "2", "--rnp.recover.epochs", "2", "--rnp.retries", "0", "--batch-size", "20")
    given = ("--image-size", "8", "--test-images", "60", "--defense.size", "40", "--defense.holdout", "0.5")
    options = parse("defend", [str(small_victim), "--method", "rnp", *steps, *given])[1]
    request, log = Request.of(str(small_victim), METHODS["rnp"], options), RunLog(quiet=True)
    case = open_case(open_model(str(small_victim), SourceOptions(), options.compute), request, log)

    def run(seen: list[str], last: str | None = None) -> Defended:
        def compute(name: str, call: partial) -> tuple[Any, float]:
            found = compute_anew(name, call)
            seen.append(name)
            return found

        def keep(name: str, call: partial) -> tuple[Any, float]:
            found = kept(name, call)
            return interrupt() if name == last else found

        monkeypatch.setattr(keeping, "compute_anew", compute)
        with keep_stages(tmp_path, identify(request, case), log) as kept:
            return run_method(case, request, log, keep)

    with pytest.raises(Interrupted, match=rf"[(, ]{stage}\); the same command goes on from there"):
        run([], stage)
    resumed, whole = [], []
    outcome, expected = (pack(replace(run(seen), timing={})) for seen in (resumed, whole))
    stages = ["unlearn", "recover", "outcome"]
    assert (whole, resumed) == (stages, stages[stages.index(stage) + 1 :])
    assert outcome.form == expected.form
    assert len(outcome.arrays) > 10
    for found, wanted in zip(outcome.arrays, expected.arrays, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_finished_run_that_was_interrupted_leaves_no_states(small_victim, keep_everything, tmp_path, monkeypatch):
    request, out = Request.of(str(small_victim), METHODS["clp"], SMALL), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(defending, "measure", interrupt)
        with pytest.raises(Interrupted, match=r"states keeps what is finished \(outcome\)"):
            defend_checkpoint(request, str(out), RunLog(quiet=True))
    assert (out / "states").is_dir()
    result = defend_checkpoint(request, str(out), RunLog(quiet=True))
    assert [each.stage for each in result.timing if each.stage in ("score", "choose")] == ["score", "choose"]
    assert "outcome: taken from the interrupted run" in (out / "run.log").read_text()
    assert not (out / "states").exists()
    (out / "states" / "any").mkdir(parents=True)  # as one that was killed at the very end leaves them
    with pytest.raises(DataError, match="already contains a finished result"):
        defend_checkpoint(request, str(out), RunLog(quiet=True))
    assert not (out / "states").exists()


def test_by_default_the_folder_is_named_after_the_checkpoint(small_victim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    defend_checkpoint(Request.of(str(small_victim), METHODS["clp"], SMALL), log=RunLog(quiet=True))
    assert (tmp_path / "runs" / "defend-small" / "report.html").is_file()


@pytest.mark.parametrize(
    ("name", "change", "kind"),
    [
        ("fp", {"defense": DefenseSetOptions(holdout=0)}, ConfigError),
        ("clp", {"defense": DefenseSetOptions(size=5000)}, DataError),
        ("clp", {"images": DataOptions(data="digit")}, DataError),
    ],
)
def test_what_cannot_be_run_leaves_nothing_behind(name, change, kind, small_victim, tmp_path):
    request = Request.of(str(small_victim), METHODS[name], RunOptions(**change))
    with pytest.raises(kind):
        defend_checkpoint(request, str(tmp_path / "out"), RunLog(quiet=True))
    assert os.listdir(tmp_path) == []


def test_the_parts_give_what_the_whole_gives(small_victim, tmp_path):
    request, log = Request.of(str(small_victim), METHODS["clp"], SMALL), RunLog(quiet=True)
    case = open_case(open_model(str(small_victim), SourceOptions(), SMALL.compute), request, log)
    outcome = defend_case(case, request, log)
    (tmp_path / "parts").mkdir()
    written = write_outcome(case, outcome, request, tmp_path / "parts" / "cleaned.pt", log)
    whole = defend_checkpoint(request, str(tmp_path / "whole"), RunLog(quiet=True))
    differing = {"created", "timing"}
    assert written.model_dump(exclude=differing) == whole.model_dump(exclude=differing)
    told = judge_outcome(case, outcome, request, log, ("data",))
    assert told.checkpoint.anomalies == ("not written to the new file: data",)
    assert told.after == whole.after
    known = defend_case(case, request, log, outcome.before)
    assert known.before is outcome.before
    assert known.after.metrics == outcome.after.metrics


def card_of(path):
    card = read_card(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert card is not None
    return card


def evaluate(path, out, *options) -> dict:
    assert main(["evaluate", str(path), *EVALUATE, *options, "--out", str(out)]) == 0
    return json.loads(out.read_text())["metrics"]


@pytest.mark.slow
def test_a_new_network_is_written_in_place_of_the_cleaned_one(trained_anew):
    assert tuple(sorted(os.listdir(trained_anew.folder))) == FILES
    log = (trained_anew.folder / "run.log").read_text("utf-8")
    assert "simclr epoch 2/2" in log
    assert re.search(r"pruned 8 filters: .*, in each of 2 rounds\n", log)
    assert re.search(r"round 2: \d+ images kept, \d+\.\d% of them truly clean\n", log)
    assert trained_anew.result.verdict.headline in (trained_anew.folder / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_the_figures_are_those_of_an_independent_evaluation_wherever_the_folder_goes(trained_anew, tmp_path):
    moved = shutil.copytree(trained_anew.folder, tmp_path / "moved")
    assert evaluate(moved / "cleaned.pt", tmp_path / "a.json") == trained_anew.result.after.model_dump(
        mode="json", exclude={"der"}
    )
    before = evaluate(trained_anew.source, tmp_path / "b.json")
    assert before == trained_anew.result.before.model_dump(mode="json", exclude={"der"})
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


@pytest.mark.slow
def test_torch_runs_extractor_and_head_and_agrees(trained_anew):
    test = load("digits", split="test", image_size=8)
    chosen = draw_evenly(test.labels, 100)
    pixels = (torch.tensor(test.images[chosen]).float() / 255 - 0.3) / 0.3
    extractor, head = (
        torch_mlp(trained_anew.folder / "extractor.pt", 3),
        torch_mlp(trained_anew.folder / "cleaned.pt", 3),
    )
    with torch.no_grad():
        logits = head(extractor[:-1](pixels.permute(0, 3, 1, 2).flatten(1)))
    assert (logits.argmax(1).numpy() == test.labels[chosen]).sum() == trained_anew.result.after.acc.count


@pytest.mark.slow
def test_pruned_units_are_silent_in_the_file(trained_anew):
    state = torch.load(trained_anew.folder / "cleaned.pt", weights_only=True)["state_dict"]
    found = {(item.layer, item.index) for item in trained_anew.result.pruned_filters}
    silent = {
        (layer, i)
        for layer in ("0", "2")
        for i in range(len(state[f"{layer}.bias"]))
        if not state[f"{layer}.weight"][i].any() and not state[f"{layer}.bias"][i]
    }
    assert found == silent
    assert len(found) == trained_anew.result.choice.pruned == 8  # two a layer and round
    assert all(item.score > 0 for item in trained_anew.result.pruned_filters)


@pytest.mark.slow
def test_the_cards_name_the_training_set_and_the_extractor(trained_anew):
    source, cleaned, extractor = (
        card_of(path)
        for path in (trained_anew.source, trained_anew.folder / "cleaned.pt", trained_anew.folder / "extractor.pt")
    )
    assert cleaned.attack == extractor.attack == source.attack
    assert cleaned.extractor is not None
    assert (cleaned.extractor.path, cleaned.extractor.sha256) == ("extractor.pt", extractor.sha256)
    assert (cleaned.extractor.dim, cleaned.data, cleaned.train_images) == (16, "digits", 1297)
    assert (cleaned.training["defense"], cleaned.training["rounds"]) == ("hid", 2)
    assert cleaned.acc == trained_anew.result.after.acc.value


@pytest.mark.slow
def test_the_document(trained_anew):
    result = trained_anew.result
    assert (result.method, result.kind, result.data.defense_images) == ("hid", "score", 0)
    assert (result.checkpoint.architecture, result.checkpoint.filters) == ("mlp", 44)
    assert [phase.name for phase in result.phases] == ["simclr", "head", "mixmatch, round 1", "mixmatch, round 2"]
    assert [stage.stage for stage in result.timing][: len(STAGES)] == STAGES
    assert result.features is None
    assert result.choice is not None
    assert result.choice.rule.endswith("in each of 2 rounds")
    detail = "A new network was trained on the 1,297 untrusted images. 8 of its 44 hidden units were pruned."
    assert result.verdict.detail.startswith(detail)


@pytest.mark.slow
def test_rounds_are_judged_by_the_truth(trained_anew):
    rows = trained_anew.result.covariates
    assert len(rows) == 5
    assert 0 <= rows["AUROC of the method's scores of images (for evaluation only)"] <= 1
    for number in (1, 2):
        clean = rows[f"Round {number}: share of clean images among those kept (for evaluation only)"]
        poison = rows[f"Round {number}: share of the poisoned images kept (for evaluation only)"]
        assert clean is not None
        assert poison is not None
        kept = sum(round(0.5 * n) for n in np.bincount(training_labels(trained_anew), minlength=10))
        assert poison * 130 == pytest.approx((1 - clean) * kept)


def training_set(trained_anew):
    return remake(card_of(trained_anew.source), trained_anew.source, load("digits", image_size=8))


def training_labels(trained_anew) -> np.ndarray:
    return training_set(trained_anew).data.labels


@pytest.mark.slow
def test_the_same_set_given_without_its_truth_gives_the_same_network(trained_anew, tmp_path):
    data, test = training_set(trained_anew).data, load("digits", split="test", image_size=8)
    arrays = {"x_train": data.images, "y_train": data.labels, "x_test": test.images, "y_test": test.labels}
    np.savez(tmp_path / "untrusted.npz", **arrays)
    given = ("--untrusted.data", str(tmp_path / "untrusted.npz"), "--out", str(tmp_path / "out"))
    assert main(["defend", str(trained_anew.source), *HID, *given]) == 0
    for name in ("cleaned.pt", "extractor.pt"):
        assert (tmp_path / "out" / name).read_bytes() == (trained_anew.folder / name).read_bytes()
    result = read_result(tmp_path / "out" / "result.json")
    assert result.after == trained_anew.result.after
    assert result.covariates == {}


@pytest.mark.slow
def test_the_written_options_give_the_same_run(trained_anew):
    given = parse("defend", [str(trained_anew.source), *HID])[1]
    assert parse("defend", ["--config", str(trained_anew.folder / "config.yaml")])[1] == given
    assert read_yaml(trained_anew.folder / "config.yaml") == trained_anew.result.config
    assert not {"defense", "sweep_images", "rnp"} & set(trained_anew.result.config)


@pytest.mark.slow
def test_a_pretrained_extractor_of_other_classes(trained_anew, tmp_path):
    """Of sixteen where the digits have ten: its last layer is not used, and is written for ten."""
    source = load_model(trained_anew.folder / "extractor.pt")
    wide = dict(source.state_dict.tensors) | {
        "4.weight": np.ones((16, 16), np.float32),
        "4.bias": np.ones(16, np.float32),
    }
    write_state_dict(tmp_path / "wide.pt", wide)
    card = card_of(trained_anew.folder / "extractor.pt")
    architecture = card.architecture.model_copy(update={"num_classes": 16})
    sha256 = read_checkpoint(tmp_path / "wide.pt").sha256
    changed = {"attack": None, "sha256": sha256, "architecture": architecture}
    write_card(tmp_path / "wide.card.json", card.model_copy(update=changed))
    for path in (tmp_path / "wide.pt", trained_anew.folder / "extractor.pt"):
        given = ("--untrusted.start", str(path), "--out", str(tmp_path / path.stem))
        assert main(["defend", str(trained_anew.source), *HID, *given]) == 0
    found, expected = (read_result(tmp_path / name / "result.json") for name in ("wide", "extractor"))
    assert found.after == expected.after
    assert found.phases[0].name == "head"
    assert not any("poisoned by badnets" in text for text in found.warnings)
    assert "extractor was trained on images poisoned by badnets (rate 0.1)" in expected.warnings[0]
    assert (tmp_path / "wide" / "cleaned.pt").read_bytes() == (tmp_path / "extractor" / "cleaned.pt").read_bytes()


@pytest.mark.slow
def test_a_head_on_features_is_replaced_by_a_network_like_its_extractor(trained_anew, tmp_path):
    victim = tmp_path / "head.pt"
    attack = ("attack", "badnets", "--out", str(victim), "--extractor", str(trained_anew.folder / "extractor.pt"))
    data = ("--data", "digits", *EVALUATE, "--target", "3", "--seed", "5")
    assert main([*attack, *data, "--head", "12", "--train.epochs", "1", "--train.batch-size", "64"]) == 0
    out = tmp_path / "out"
    assert main(["defend", str(victim), *HID, "--image-size", "8", "--out", str(out)]) == 0
    result = read_result(out / "result.json")
    assert load_model(out / "extractor.pt").network == load_model(trained_anew.folder / "extractor.pt").network
    assert result.before.acc is not None
    assert result.before.acc.value == card_of(victim).acc
    for name in ("cleaned", "extractor"):  # the trigger goes along, so that ASR can be measured again
        assert (out / f"{name}.trigger.npz").read_bytes() == (tmp_path / "head.trigger.npz").read_bytes()
    assert len(result.covariates) == 5  # the head's card tells its poisoned images too

"""A whole defense of a bundled checkpoint, judged from outside by ``evaluate`` and by torch."""

import hashlib
import json
import os
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rnp_jax import masks
from rnp_jax.checkpoints import load_model
from rnp_jax.cli import main
from rnp_jax.commands.arguments import parse
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions, read_yaml
from rnp_jax.data import NORMALIZATIONS, load
from rnp_jax.data.splits import Split
from rnp_jax.errors import RequirementError
from rnp_jax.evaluation.predict import predict
from rnp_jax.pipeline import holding
from rnp_jax.pipeline.images import draw_evenly, open_data
from rnp_jax.pipeline.judging import AT_CHANCE
from rnp_jax.pipeline.opening import open_model
from rnp_jax.report.schema import AttackInfo, Verdict, read_result
from rnp_jax.store import load_tree
from rnp_jax.torch_io import find_state_dict, read_checkpoint, write_state_dict
from tests.networks import build
from tests.runs import CHECKPOINT, DEFENSE, HID, ROOT, copy_checkpoint

RNP = ("--method", "rnp")
BEFORE_THE_REPORT = ("cleaned.pt", "config.yaml", "figures", "mask_values.txt", "masks", "result.json", "run.log")


def torch_state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def count_correct(path: Path, images: np.ndarray, labels: np.ndarray) -> int:
    """How many images torch's network with these weights, loaded strictly, classifies as labelled."""
    module = build("resnet18", width=8, num_classes=10).eval()
    module.load_state_dict(torch_state(path), strict=True)
    norm = NORMALIZATIONS["digits"]
    pixels = (images / 255 - np.array(norm.mean)) / np.array(norm.std)
    with torch.no_grad():
        predicted = module(torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)).argmax(1)
    return int((predicted.numpy() == labels).sum())


def test_everything_is_written(defended):
    assert sorted(os.listdir(defended.folder)) == sorted([*BEFORE_THE_REPORT, "report.html"])
    assert "unlearn epoch 3/3" in (defended.folder / "run.log").read_text("utf-8")
    assert defended.result.verdict.headline in (defended.folder / "report.html").read_text("utf-8")
    assert {path.suffix for path in (defended.folder / "figures").iterdir()} == {".png", ".svg"}


def test_the_source_is_untouched(defended):
    for file in CHECKPOINT.parent.glob(f"{CHECKPOINT.stem}.*"):
        assert (defended.source.parent / file.name).read_bytes() == file.read_bytes()
    assert defended.result.checkpoint.sha256 == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()


def test_the_figures_are_those_of_an_independent_evaluation(defended, tmp_path):
    cleaned = ("--normalization", "digits", "--data", "digits", "--attack", "badnets", "--batch-size", "20")
    out = tmp_path / "evaluated.json"
    for path, options, expected in [
        (defended.source, ("--batch-size", "20"), defended.result.before),
        (defended.folder / "cleaned.pt", cleaned, defended.result.after),
    ]:
        assert main(["evaluate", str(path), *options, "--test-images", "100", "--out", str(out)]) == 0
        assert json.loads(out.read_text())["metrics"] == expected.model_dump(mode="json", exclude={"der"})


def test_torch_loads_the_cleaned_file_and_agrees(defended):
    test = load("digits", split="test")
    rows = np.sort(np.concatenate([np.flatnonzero(test.labels == label)[:10] for label in range(10)]))
    found = count_correct(defended.folder / "cleaned.pt", test.images[rows], test.labels[rows])
    assert defended.result.after.acc.total == 100
    assert found == defended.result.after.acc.count


def test_only_pruned_filters_differ_in_the_cleaned_file(defended):
    before, after = torch_state(defended.source), torch_state(defended.folder / "cleaned.pt")
    assert list(before) == list(after)
    pruned = {(item.layer, item.index) for item in defended.result.pruned_filters}
    assert len(pruned) == defended.result.choice.pruned > 0
    for layer, i in pruned:
        before[f"{layer}.weight"][i] = 0
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_masks_are_read_back(defended):
    model = load_model(defended.source)
    like = masks.filters(model.variables["masks"])
    tree, metadata = load_tree(defended.folder / "masks")
    assert metadata == {"placement": "bn_scale", "method": "rnp"}
    text = masks.read_mask_values(defended.folder / "mask_values.txt", like)
    np.testing.assert_allclose(masks.flatten(text), masks.flatten(tree["recovered"]), rtol=0, atol=5.1e-5)
    places = masks.index(like)
    zeros = {places[i] for i in np.flatnonzero(masks.flatten(tree["pruned"]) == 0)}
    assert zeros == {(item.layer, item.index) for item in defended.result.pruned_filters}
    for item in defended.result.pruned_filters:
        assert tree["recovered"][item.layer][item.index] == np.float32(item.mask)


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_the_written_options_give_the_same_run_again_after_an_interruption_too(defended, tmp_path, monkeypatch, capsys):
    config = str(defended.folder / "config.yaml")
    assert read_yaml(config) == defended.result.config
    given = parse("defend", [str(defended.source), *DEFENSE])[1]
    assert parse("defend", ["--config", config])[1] == given
    arguments = ["defend", "--config", config, "--out", str(tmp_path / "again")]
    with monkeypatch.context() as patch:
        patch.setattr("rnp_jax.pipeline.defending.write_network", interrupt)
        assert main(arguments) == 130
    told = "no stage of 5 s or more was finished, so the same command begins again"
    assert capsys.readouterr().err.endswith(f"rnp-jax: interrupted: {told}\n")
    assert sorted(os.listdir(tmp_path / "again")) == ["config.yaml", "run.log"]
    assert main(arguments) == 0
    again = read_result(tmp_path / "again" / "result.json")
    assert again.config == defended.result.config
    differing = {"created", "timing"}
    assert again.model_dump(exclude=differing) == defended.result.model_dump(exclude=differing)
    for name in ("cleaned.pt", "mask_values.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (defended.folder / name).read_bytes()


SPLITS: tuple[Split, ...] = ("train", "test")


def write_images(folder: Path) -> Path:
    for split, count in zip(SPLITS, (4, 10), strict=True):
        data = load("digits", split=split)
        for label in range(10):
            target = folder / split / str(label)
            target.mkdir(parents=True)
            for i in np.flatnonzero(data.labels == label)[:count]:
                Image.fromarray(data.images[i]).save(target / f"{i}.png")
    return folder


def write_arrays(folder: Path) -> Path:
    arrays = {}
    for split in SPLITS:
        data = load("digits", split=split)
        arrays |= {f"x_{split}": data.images[:300], f"y_{split}": data.labels[:300]}
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


@pytest.mark.parametrize("write", [write_images, pytest.param(write_arrays, marks=pytest.mark.slow)])
def test_a_defender_s_own_images_and_a_trigger_by_name(write, tmp_path):
    data = write(tmp_path)
    trigger = ("--attack", "badnets", "--constants", "variant", "square", "--target", "2")
    out = tmp_path / "out"
    assert main(["defend", str(CHECKPOINT), *DEFENSE, "--data", str(data), *trigger, "--out", str(out)]) == 0
    result = read_result(out / "result.json")
    assert result.data.name == data.name
    assert (result.data.defense_images, result.data.holdout_images, result.data.test_images) == (40, 20, 100)
    assert result.attack == AttackInfo(
        name="badnets",
        target=2,
        mapping="all_to_one",
        triggered_images=90,
        constants={"variant": "square", "size": 3, "margin": None},
    )
    assert result.before.asr is not None
    assert result.before.acc is not None
    assert result.before.asr.value < 0.5  # the model knows another trigger
    assert result.before.acc.value > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--defense.holdout", "0"), "--defense.holdout 0 leaves no held-out images"),
        (
            (*RNP, "--rnp.prune.ranking", "release", "--rnp.prune.threshold", "1.5"),
            "--rnp.prune.threshold 1.5: expected .* and --rnp.prune.threshold in \\[0, 1\\]",
        ),
        ((*RNP, "--rnp.prune.threshold", "0.3"), "threshold 0.3 with ranking path"),
        ((*RNP, "--rnp.prune.number", "-1"), "number >= 0"),
        ((*RNP, "--rnp.prune.number", "100000"), "--rnp.prune.number 100000: resnet18 has 600 filters"),
        (("--defense.size", "1298"), "1298 images wanted for the defense set, but there are only 1297"),
        (("--test-images", "0"), "--test-images is 0, expected an integer of at least 1"),
        (("--batch-size", "0"), "--batch-size is 0, expected"),
        (("--seed", str(2**32)), "seed is 4294967296, expected"),
        (("--image-size", "28"), "images are 28x28x3, but the model takes 32x32x3"),
        (("--placement", "unit"), "--placement unit: resnet18 has no filters there"),
        (("--normalization", "digit"), "unknown normalisation 'digit'; did you mean digits"),
        (("--attack", "badnet"), "attack 'badnet' is unknown; did you mean badnets"),
        (("--attack", "badnets", "--constants", "variant", "round"), "constant variant"),
        (("--constants", "variant", "square"), "--attack card does not use .*--constants"),
        (("--data", "digit"), "no data set, file or folder 'digit'; did you mean digits"),
        (
            ("--method", "ft", "--ft.start", "rnp", "--defense.holdout", "0"),
            "--defense.holdout 0 leaves no held-out images",
        ),
        (("--method", "ft", "--ft.rnp.prune.number", "3"), "nothing starts from it: set start to rnp"),
        (
            ("--method", "nad", "--nad.teacher", "pruned", "--nad.rnp.prune.number", "100000"),
            "--nad.rnp.prune.number 100000: resnet18 has 600 filters",
        ),
    ],
)
def test_errors_come_before_the_work_and_leave_nothing_behind(options, message, fails, tmp_path):
    error = fails("defend", CHECKPOINT, *options, "--out", tmp_path / "out")
    assert re.search(message, error)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("option", ["--hid.head.batch-size", "--hid.simclr.batch-size"])
def test_batches_that_are_too_large_for_a_later_step_are_refused_before_the_first(
    option, small_victim, fails, tmp_path
):
    """Only the options and the log are there, so that the same folder can be used again."""
    error = fails("defend", small_victim, *HID, option, "2000", "--out", tmp_path / "out")
    assert error == f"ConfigError: {option} 2000 exceeds the 1297 training images: choose a smaller one\n"
    assert sorted(os.listdir(tmp_path / "out")) == ["config.yaml", "run.log"]
    assert "epoch" not in (tmp_path / "out" / "run.log").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--untrusted.width", "4"), "--untrusted.width 4: mlp has no width"),
        (
            ("--untrusted.width", "4", "--untrusted.start", "a.pt"),
            "--untrusted.width 4 cannot be combined with --untrusted.start",
        ),
        (("--untrusted.start", "missing.pt"), "missing.pt"),
        (("--untrusted.start", str(CHECKPOINT.parent)), "not a file to train further: give a PyTorch checkpoint"),
        (("--untrusted.start", str(CHECKPOINT)), "images are 8x8x3, but the model takes 32x32x3"),
        (("--untrusted.data", "missing.npz"), "no data set, file or folder 'missing.npz'"),
        (("--hid.units",), "give at least one hidden layer"),
        (("--hid.units", "0"), "expected sizes of 1 or more"),
        (("--hid.keep", "1"), "--hid.keep 1.0, rounds 2: expected --hid.keep in (0, 1)"),
        (("--hid.prune.threshold.rule", "budget"), "takes a number"),
        (("--data", "digit"), "no data set, file or folder 'digit'; did you mean digits"),
    ],
)
def test_errors_of_hid_come_before_the_work_and_leave_nothing_behind(options, message, small_victim, fails, tmp_path):
    assert message in fails("defend", small_victim, *HID, "--out", tmp_path / "out", *options)
    assert os.listdir(tmp_path) == []


def test_checkpoints_whose_training_set_is_not_known(small_victim, fails, tmp_path):
    alone = shutil.copy(small_victim, tmp_path / "alone.pt")
    source = ("--normalization", "identity", "--image-shape", "8", "8", "3", "--data", "digits", "--image-size", "8")
    error = fails("defend", alone, *HID, *source, "--out", tmp_path / "out")
    assert "alone.pt has no card to rebuild its training set from" in error
    error = fails("defend", CHECKPOINT.parent / "digits_wanet.pt", *HID, "--out", tmp_path / "out")
    assert "give the training set itself with --untrusted.data" in error
    assert os.listdir(tmp_path) == ["alone.pt"]


def test_more_classes_than_the_model_has(fails, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "wide.npz", images=images, labels=np.arange(60) % 12)
    error = fails("defend", CHECKPOINT, "--data", tmp_path / "wide.npz", "--out", tmp_path / "out")
    assert "10 at index" in error
    assert "outside 0 … 9 of the model's 10 classes" in error
    assert not (tmp_path / "out").exists()


def test_a_finished_folder_is_left_alone(defended, fails):
    before = sorted((path, path.stat().st_mtime_ns) for path in defended.folder.rglob("*"))
    error = fails("defend", defended.source, *DEFENSE, "--out", defended.folder)
    assert "already contains a finished result; choose another folder with --out" in error
    assert sorted((path, path.stat().st_mtime_ns) for path in defended.folder.rglob("*")) == before


def test_a_file_in_the_place_of_the_folder(fails, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "is not a folder" in fails("defend", CHECKPOINT, "--out", tmp_path / "out")
    assert "out" in fails("defend", CHECKPOINT, *DEFENSE, "--out", tmp_path / "out" / "deeper")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_cleaned_file_never_replaces_the_source(fails, tmp_path):
    source = copy_checkpoint(tmp_path).rename(tmp_path / "cleaned.pt")
    assert "cleaned.pt would be overwritten by this run" in fails("defend", source, "--out", tmp_path)
    assert source.read_bytes() == CHECKPOINT.read_bytes()


def test_masks_that_the_file_came_with_stay_in_every_figure(tmp_path):
    """A masked release's file: half of its first layer is masked away already, and nothing more is pruned."""
    tensors = dict(find_state_dict(read_checkpoint(CHECKPOINT)).tensors)
    kept = np.repeat(np.array([0, 1], np.float32), len(tensors["bn1.weight"]) // 2)
    masked = tmp_path / "masked.pt"
    write_state_dict(masked, tensors | {"bn1.neuron_mask": kept})
    unknown = ("--normalization", "digits", "--data", "digits", "--attack", "none", "--evidence", "never")
    options = (*DEFENSE, *unknown, "--rnp.prune.number", "0")
    assert main(["defend", str(masked), *options, "--out", str(tmp_path / "out")]) == 0
    result = read_result(tmp_path / "out" / "result.json")
    model = open_model(str(masked), SourceOptions(normalization="digits"), ComputeOptions())
    test = open_data(model, DataOptions(data="digits", test_images=100), "test")
    found = (predict(model.network, model.variables, test.batch, 20).labels[0] == test.labels).sum()
    assert result.before.acc is not None
    assert result.before.acc.count == found
    assert found < 95  # the mask is felt: without it every one of them is right
    assert result.after.acc == result.before.acc
    (unpruned,) = (point for point in result.sweeps[1].points if point.pruned == 0)
    part = test.subset(draw_evenly(test.labels, 20))
    assert unpruned.acc is not None
    expected = (predict(model.network, model.variables, part.batch, 20).labels[0] == part.labels).sum()
    assert unpruned.acc.count == expected


def test_bounds_on_activations_are_written_and_felt_by_the_next_command(tmp_path):
    """Large steps, so that the bounds cost accuracy, which ``evaluate`` must find again in the file."""
    source, out = copy_checkpoint(tmp_path), tmp_path / "out"
    options = ("--method", "unit", "--unit.steps", "3", "--unit.learning-rate", "0.3", "--unit.accuracy-budget", "1")
    smaller = ("--defense.size", "40", "--defense.holdout", "0.5", "--batch-size", "20", "--augmentation.no-flip")
    common = ("--test-images", "100", "--evidence", "never")
    assert main(["defend", str(source), *options, *smaller, *common, "--out", str(out)]) == 0
    result = read_result(out / "result.json")
    assert (result.kind, result.pruned_filters, result.phases[0].name) == ("bounds", (), "unit")
    assert "All activations got upper bounds, without knowledge of the trigger" in result.verdict.detail
    assert "none: weights stay as they are" in (out / "report.html").read_text("utf-8")
    assert sum(key.startswith("activation_bounds.") for key in torch_state(out / "cleaned.pt")) == 17
    assert result.after.acc.count < result.before.acc.count
    measured = tmp_path / "measured.json"
    known = ("--normalization", "digits", "--data", "digits", "--attack", "none", "--test-images", "100")
    assert main(["evaluate", str(out / "cleaned.pt"), *known, "--batch-size", "20", "--out", str(measured)]) == 0
    assert json.loads(measured.read_text("utf-8"))["metrics"]["acc"]["count"] == result.after.acc.count


def test_a_defense_that_prunes_nothing(tmp_path):
    """Its page and document speak of weights, and torch loads what it wrote."""
    source, out = copy_checkpoint(tmp_path), tmp_path / "out"
    options = ("--method", "ft", "--ft.finetune.epochs", "1", "--ft.finetune.batch-size", "20", "--test-images", "100")
    smaller = ("--defense.size", "40", "--defense.holdout", "0.5", "--batch-size", "20", "--augmentation.no-flip")
    assert main(["defend", str(source), *options, *smaller, "--out", str(out)]) == 0
    result = read_result(out / "result.json")
    assert sorted(os.listdir(out)) == ["cleaned.pt", "config.yaml", "figures", "report.html", "result.json", "run.log"]
    assert (result.method, result.kind, result.pruned_filters, result.sweeps, result.oracle) == (
        "ft", "weights", (), (), None,
    )  # fmt: skip
    assert result.choice.holdout_acc_before.total == result.choice.holdout_acc_after.total == 20
    assert [phase.name for phase in result.phases] == ["finetune"]
    assert "All weights were tuned" in result.verdict.detail
    page = (out / "report.html").read_text("utf-8")
    assert "none: weights were tuned" in page
    assert "Filters pruned</td>" not in page
    assert not re.search("filters? (was|were) pruned", page)
    test = load("digits", split="test")
    rows = np.sort(np.concatenate([np.flatnonzero(test.labels == label)[:10] for label in range(10)]))
    assert count_correct(out / "cleaned.pt", test.images[rows], test.labels[rows]) == result.after.acc.count


def test_a_run_of_another_method_by_the_preset_of_one(small_victim, tmp_path):
    """What CLP does not read of RNP's preset is neither needed nor written; what was written gives the run again."""
    preset = ("--config", str(ROOT / "configs" / "rnp_digits.yaml"))
    small = ("--image-size", "8", "--test-images", "20", "--batch-size", "20", "--sweep-images", "0")
    options = ("--method", "clp", *small)
    assert main(["defend", str(small_victim), *preset, *options, "--out", str(tmp_path / "one")]) == 0
    config = read_yaml(tmp_path / "one" / "config.yaml")
    assert config == read_result(tmp_path / "one" / "result.json").config
    assert set(config) == {
        *("checkpoint", "method", "source", "images", "defense", "trigger", "compute", "evidence", "sweep_images"),
        *("seed", "clp"),
    }  # fmt: skip
    assert (config["method"], config["defense"]["size"]) == ("clp", 400)
    again = ["defend", "--config", str(tmp_path / "one" / "config.yaml"), "--out", str(tmp_path / "two")]
    assert main(again) == 0
    assert (tmp_path / "two" / "config.yaml").read_bytes() == (tmp_path / "one" / "config.yaml").read_bytes()
    assert (tmp_path / "two" / "cleaned.pt").read_bytes() == (tmp_path / "one" / "cleaned.pt").read_bytes()


@pytest.mark.parametrize("require", ["nothing", "removed"])
def test_what_is_required_decides_how_the_command_ends_and_not_what_it_writes(small_victim, tmp_path, require):
    """CLP with no filter to prune leaves the trigger as it was."""
    out = tmp_path / "out"
    options = (
        "--method",
        "clp",
        "--clp.threshold.rule",
        "number",
        "--clp.threshold.number",
        "0",
        "--sweep-images",
        "0",
    )
    shared = ("--test-images", "100", "--batch-size", "20", "--out", str(out), "--require", require)
    run, given = parse("defend", [str(small_victim), *options, *shared])
    with nullcontext() if require == "nothing" else pytest.raises(RequirementError) as caught:
        run(given)
    result = read_result(out / "result.json")
    assert (result.verdict.supported, result.after.asr.count) == (False, result.before.asr.count)
    assert "require" not in read_yaml(out / "config.yaml")
    assert sorted(os.listdir(out)) == sorted(set(BEFORE_THE_REPORT) - {"mask_values.txt"} | {"report.html"})
    if caught is not None:
        (line,) = str(caught.value).splitlines()
        expected = "the result does not support that the backdoor is removed. This trigger is not removed: ASR "
        assert line.startswith(expected)


def test_a_removed_trigger_meets_the_requirement(monkeypatch):
    removed = SimpleNamespace(verdict=Verdict(headline="", detail="", level="ok", supported=True))
    monkeypatch.setattr("rnp_jax.commands.defend.defend_checkpoint", lambda *_: removed)
    run, given = parse("defend", ["a.pt", "--require", "removed"])
    assert run(given) is removed


def test_a_folder_that_another_run_writes_to_is_left_to_it(small_victim, tmp_path, fails, monkeypatch):
    """Before its work; and where the other run ends in the meantime, after it."""
    monkeypatch.setattr(holding, "_PATIENCE", 0.2)
    clp = ("defend", small_victim, "--method", "clp", "--test-images", "60", "--defense.size", "100", "--out", tmp_path)
    with holding.hold_folder(tmp_path, "detect"):
        error = fails(*clp)
        assert re.match(r"DataError: .* is being written by process \d+ on .* \(detect, since", error)
        assert os.listdir(tmp_path) == [holding.LOCK]
    monkeypatch.setattr("rnp_jax.pipeline.defending.open_case", lambda *_: (tmp_path / "report.html").touch())
    assert "already contains a finished result" in fails(*clp)
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_network_at_chance_is_defended_with_a_warning_and_nothing_is_called_removed(small_victim, tmp_path, capsys):
    """It is opened with a normalisation far from its own."""
    out, wrong = tmp_path / "out", ("--normalization", "5,5,5/0.01,0.01,0.01")
    given = ("--method", "clp", "--defense.size", "40", "--sweep-images", "20", "--batch-size", "20")
    assert main(["defend", str(small_victim), *given, *wrong, "--require", "removed", "--out", str(out)]) == 3
    result = read_result(out / "result.json")
    assert (result.verdict.headline, result.verdict.level, result.verdict.supported) == (AT_CHANCE, "bad", False)
    assert result.warnings[0] == result.verdict.detail
    assert "WARNING: ACC is" in capsys.readouterr().err
    for written in ("report.html", "run.log"):
        assert "better than guessing" in (out / written).read_text("utf-8")

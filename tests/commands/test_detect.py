"""A real checkpoint, looked at: what is written, what is said, and what cannot be asked for."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from rnp_jax.cli import main
from rnp_jax.commands.detect import DetectOptions
from rnp_jax.config import read_yaml, resolve
from rnp_jax.document import read_document
from rnp_jax.pipeline.judging import AT_CHANCE
from rnp_jax.report.detection import Detection
from rnp_jax.report.detection_page import FIGURES
from rnp_jax.torch_io import read_checkpoint

FAST = (
    *("--defense.size", "40", "--labels.images", "20", "--labels.draws", "1", "--labels.unlearn.max-epochs", "2"),
    *("--labels.unlearn.batch-size", "20", "--triggers.steps", "2", "--triggers.batches", "1"),
    *("--unlearn.max-epochs", "1", "--unlearn.batch-size", "20", "--batch-size", "20"),
    *("--signs.looks", "shift", "--recover", "original"),
)


@dataclass(frozen=True)
class Detected:
    source: Path
    folder: Path
    detection: Detection


@pytest.fixture(scope="module")
def detected(attacked, tmp_path_factory) -> Detected:
    folder = tmp_path_factory.mktemp("detect") / "out"
    scores = ("--sample-scores", "loss", "unlearned")
    assert main(["detect", str(attacked), *FAST, "--untrusted", "card", *scores, "--out", str(folder)]) == 0
    return Detected(attacked, folder, read_document(folder / "detection.json", Detection))


@pytest.mark.slow
def test_everything_is_written(detected):
    names = {each.name for each in detected.folder.iterdir()}
    assert names == {
        "config.yaml", "run.log", "report.html", "detection.json", "unlearned.pt", "triggers.npz", "sample_scores.csv",
        "figures",
    }  # fmt: skip
    drawn = {each.stem for each in (detected.folder / "figures").iterdir()}
    assert drawn == {"shares", "triggers_original", "norms_original", "suspicious", "sample_scores", "roc"}
    assert drawn <= set(FIGURES)
    assert resolve(DetectOptions, read_yaml(detected.folder / "config.yaml")).untrusted == "card"


@pytest.mark.slow
def test_without_a_calibration_of_such_models_nothing_is_decided(detected):
    detection = detected.detection
    assert detection.outcome in ("suspicious", "no evidence"), "a shift is at most a weak sign"
    assert {sign.look: sign.strength for sign in detection.signs} | {"shift": ""} == {
        "labels": "none", "triggers": "none", "shift": "",
    }  # fmt: skip
    labels, triggers = detection.statistics
    assert (labels.threshold, triggers.threshold) == (None, None)
    shares = [each.share for each in detection.shares]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert labels.score == pytest.approx(max(shares), abs=1e-6)
    assert shares[labels.label] == max(shares)
    norms = {each.label: each.norm for each in detection.triggers[0].labels}
    assert triggers.score == pytest.approx(np.clip(1 - norms[triggers.label] / np.median(list(norms.values())), 0, 1))


@pytest.mark.slow
def test_the_known_trigger_stands_beside_and_is_named_so(detected):
    (part,) = detected.detection.triggers
    assert part.model == "original"
    assert len(part.labels) == 10
    assert [each.label for each in part.labels if each.overlap is not None] == [3]  # the backdoor's
    assert all(each.success == pytest.approx(each.success_on_original) for each in part.labels)
    assert detected.detection.attack is not None
    page = (detected.folder / "report.html").read_text("utf-8")
    assert "not used for any choice" in page


@pytest.mark.slow
def test_samples_are_listed_by_score_and_judged_apart(detected):
    with (detected.folder / "sample_scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    loss, unlearned = detected.detection.samples
    assert (loss.score, unlearned.score) == ("loss", "unlearned")
    assert len(rows) == loss.samples
    values = np.array([float(row["loss"]) for row in rows])
    assert len(loss.suspicious) == round(0.05 * len(rows))
    assert values[list(loss.suspicious)].min() >= np.sort(values)[-len(loss.suspicious)] - 1e-4
    assert loss.truth is not None
    assert loss.truth.poisoned + loss.truth.clean == loss.samples


@pytest.mark.slow
def test_the_unlearned_model_is_the_source_s_layout(detected):
    before, after = (
        torch.load(path, weights_only=True) for path in (detected.source, detected.folder / "unlearned.pt")
    )
    assert list(before["state_dict"]) == list(after["state_dict"])
    assert not torch.equal(before["state_dict"]["conv1.weight"], after["state_dict"]["conv1.weight"])
    assert read_checkpoint(detected.source).sha256 == detected.detection.checkpoint.sha256


@pytest.mark.slow
def test_recovered_triggers_are_kept_as_arrays(detected):
    with np.load(detected.folder / "triggers.npz") as arrays:
        assert arrays["original_masks"].shape == (10, 16, 16)
        assert arrays["original_patterns"].shape == (10, 16, 16, 3)
        np.testing.assert_allclose(arrays["original_norms"], arrays["original_masks"].sum((1, 2)), rtol=1e-4)


@pytest.mark.slow
def test_a_finished_folder_is_not_written_again(detected, fails):
    assert "already contains a finished result" in fails("detect", detected.source, *FAST, "--out", detected.folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sample-scores", "magic"), "choose among unlearned, "),
        (("--defense.holdout", "0.5"), "detect does not use held-out images"),
        (("--calibration", "none.json"), "none.json: not a calibration"),
    ],
)
def test_what_cannot_be_asked_for(attacked, tmp_path, fails, arguments, message):
    assert message in fails("detect", attacked, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_is_refused(head, tmp_path, fails):
    assert "detect looks at whole networks" in fails("detect", head, "--out", tmp_path / "out")


@pytest.mark.slow
def test_the_document_has_no_not_a_number(detected):
    text = (detected.folder / "detection.json").read_text("utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["schema_version"] == 1


def test_a_network_at_chance_is_never_called_clean(small_victim, tmp_path, capsys):
    """It is opened with a normalisation far from its own."""
    out, quick = tmp_path / "out", ("--recover", "none", "--image-size", "8")
    wrong = ("--normalization", "5,5,5/0.01,0.01,0.01")
    assert main(["detect", str(small_victim), *FAST, *quick, *wrong, "--out", str(out)]) == 0
    found = read_document(out / "detection.json", Detection)
    assert (found.outcome, found.verdict.headline, found.verdict.level) == ("no evidence", AT_CHANCE, "bad")
    assert found.warnings[0] == found.verdict.detail
    assert "WARNING: ACC is" in capsys.readouterr().err
    for written in ("report.html", "run.log"):
        assert "better than guessing" in (out / written).read_text("utf-8")

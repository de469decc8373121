"""The threshold from checkpoints with cards: what is written, and what cannot be calibrated."""

import shutil
from functools import cache
from pathlib import Path

import jax
import pytest

from rnp_jax.card import CARD_SUFFIX, AttackCard, beside, write_card
from rnp_jax.checkpoints import save_variables
from rnp_jax.cli import main
from rnp_jax.commands.calibrate import CalibrateOptions
from rnp_jax.config import read_yaml, resolve, write_yaml
from rnp_jax.data import load
from rnp_jax.detection import LabelConfig, read_calibration, rule_on
from rnp_jax.detection.calibration import plain_settings
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline.cards import describe_model
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Variables
from tests.runs import CHECKPOINT

MLP = Network(Architecture("mlp", 10, 0, (("0", 32), ("2", 10)), (8, 8, 3)))
TARGET = 3
FAST = (
    *("--defense.size", "40", "--labels.images", "40", "--labels.draws", "1"),
    *("--labels.unlearn.max-epochs", "4", "--labels.unlearn.batch-size", "40"),
)


@cache
def train_clean(seed: int) -> Variables:
    digits, config = load("digits", image_size=8), TrainConfig(epochs=4, batch_size=64, learning_rate=0.05)
    return train(MLP, MLP.init(jax.random.key(seed)), digits.batch, jax.random.key(seed), config)[0]


def plant(path: Path, seed: int, attack: AttackCard | None) -> str:
    """A network trained on digits; a backdoored one says the target whatever it sees."""
    variables = train_clean(seed)
    if attack is not None:
        head = variables["params"]["2"]
        head = {**head, "bias": head["bias"].at[TARGET].set(30.0)}
        variables = {**variables, "params": {**variables["params"], "2": head}}
    save_variables(path, MLP, variables)
    metrics = Metrics(acc=Proportion.of(1, 10), asr=None if attack is None else Proportion.of(10, 10))
    card = describe_model(
        path, MLP, data="digits", train_images=1, extractor=None, training={}, augmentation={}, seed=seed,
        attack=attack, metrics=metrics,
    )  # fmt: skip
    write_card(beside(path, CARD_SUFFIX), card)
    return str(path)


def attack_card(**values) -> AttackCard:
    plain = {"target": TARGET, "mapping": "all_to_one", "rate": 0.1, "variant": "bb", "poisoned": 1}
    return AttackCard(name="badnets", constants={}, indices_sha256=None, **{**plain, **values})


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> list[str]:
    """Five clean, five backdoored, one whose backdoor hardly works."""
    folder = tmp_path_factory.mktemp("known")
    paths = [plant(folder / f"clean_{seed}.pt", seed, None) for seed in range(5)]
    paths += [plant(folder / f"badnets_{seed}.pt", seed, attack_card()) for seed in range(5)]
    return [*paths, plant(folder / "weak.pt", 5, attack_card(weak=True))]


@pytest.fixture(scope="module")
def calibrated(known, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "new" / "mine.json"
    assert main(["calibrate", *known, "--out", str(out), *FAST]) == 0
    return out


def test_planted_backdoors_are_told_apart(calibrated):
    found = read_calibration(calibrated)
    assert (found.architecture, found.num_classes, found.data, found.images) == ("mlp", 10, "digits", 40)
    assert found.held_out.auroc == 1
    assert found.held_out.false_alarms.count == 0
    assert (found.held_out.labels_right.count, found.held_out.labels_right.total) == (2, 2)
    assert {each.name: each.role for each in found.models if each.role == "weak"} == {"weak": "weak"}
    assert all(each.label == each.target == TARGET for each in found.models if each.attack)
    assert all(each.sha256 for each in found.models)
    assert [path.name for path in sorted(calibrated.parent.iterdir())] == ["mine.json", "mine.png", "mine.svg"]


def test_its_settings_are_those_of_a_detection_with_the_same_options(calibrated, tmp_path):
    found = read_calibration(calibrated)
    preset = tmp_path / "config.yaml"
    options = CalibrateOptions(("x.pt",))
    write_yaml(preset, options)
    assert resolve(CalibrateOptions, read_yaml(preset), str(preset)) == options
    ruling = rule_on("labels", found.threshold + 0.1, TARGET, found, MLP.architecture, found.settings)
    assert ruling.outcome == "backdoored"
    other = rule_on("labels", 1.0, TARGET, found, MLP.architecture, plain_settings(LabelConfig()))
    assert other.outcome == "undecided"
    assert "draws, images, unlearn.batch_size, unlearn.max_epochs" in other.sentence


def test_everything_that_is_wrong_is_said_before_anything_is_computed(fails, known, tmp_path):
    out = tmp_path / "calibration.json"
    bare = tmp_path / "bare.pt"
    shutil.copy(CHECKPOINT, bare)
    message = fails("calibrate", known[0], bare, CHECKPOINT, known[0], tmp_path / "none.pt", "--out", out, *FAST)
    assert "nothing was computed" in message
    for said in (
        "bare.pt: no card beside it",
        "but the first is mlp",
        "the same file as",
        "none.pt",
        "at least 4 of each",
    ):
        assert said in message
    assert not out.exists()

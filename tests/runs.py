"""Small runs of commands, made once and judged by many tests: fixtures that the root's conftest gives to all."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

from rnp_jax import masks
from rnp_jax.attacks import BadNets, Goal
from rnp_jax.card import CARD_SUFFIX, beside, write_card
from rnp_jax.checkpoints import load_model, save_variables
from rnp_jax.cli import main
from rnp_jax.data import load
from rnp_jax.evaluation.measure import measure_variants
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline.cards import describe_model
from rnp_jax.pipeline.training_set import describe_attack
from rnp_jax.report.schema import Result, read_result
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Variables

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "checkpoints" / "digits_badnets.pt"

DEFENSE = (
    *("--config", str(ROOT / "configs" / "smoke.yaml")),
    *("--defense.size", "40", "--defense.holdout", "0.5", "--batch-size", "20", "--sweep-images", "20"),
    *("--rnp.recover.learning-rate", "4", "--augmentation.no-flip"),
    *("--rnp.prune.ranking", "damage"),
)
"""Twenty images a batch wherever images are counted, so that each program is compiled for one shape."""

ATTACK = (
    *("--data", "digits", "--normalization", "digits", "--image-size", "16", "--width", "4"),
    *("--train.epochs", "2", "--train.batch-size", "64", "--augmentation.padding", "1", "--augmentation.no-flip"),
    *("--test-images", "100", "--batch-size", "20"),
)


@dataclass(frozen=True)
class Defended:
    """A finished ``defend``: the file it was given, the folder it wrote, what its result.json says."""

    source: Path
    folder: Path
    result: Result


@pytest.fixture
def fails(capsys) -> Callable[..., str]:
    """Runs a command that must end in one error and exit status 1; returns its text, which begins a line."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 1
        error = capsys.readouterr().err
        assert "Traceback" not in error
        _, *found = f"\n{error}".split("\nrnp-jax: ")
        assert len(found) == 1, error
        return found[0]

    return run


def copy_checkpoint(folder: Path) -> Path:
    """The bundled checkpoint with its card and trigger, in another folder."""
    for file in CHECKPOINT.parent.glob(f"{CHECKPOINT.stem}.*"):
        shutil.copy(file, folder)
    return folder / CHECKPOINT.name


@pytest.fixture(scope="session")
def defended(tmp_path_factory) -> Defended:
    """The bundled BadNets checkpoint, defended."""
    folder = tmp_path_factory.mktemp("defend")
    source = copy_checkpoint(folder)
    assert main(["defend", str(source), *DEFENSE, "--out", str(folder / "out")]) == 0
    return Defended(source, folder / "out", read_result(folder / "out" / "result.json"))


@pytest.fixture(scope="session")
def attacked(tmp_path_factory) -> Path:
    """A checkpoint that ``attack badnets`` trained for two epochs."""
    path = tmp_path_factory.mktemp("attack") / "victim.pt"
    assert main(["attack", "badnets", "--out", str(path), *ATTACK, "--target", "3"]) == 0
    return path


SMALL = ("--test-images", "100", "--batch-size", "20")

HEAD = (
    *("--data", "digits", "--head", "16", "12", "--train.epochs", "3", "--train.batch-size", "64"),
    *("--train.learning-rate", "0.05", *SMALL),
)


@pytest.fixture(scope="session")
def head(tmp_path_factory) -> Path:
    """A head that ``attack badnets`` trained on features of the bundled BadNets checkpoint, which lies beside it."""
    folder = tmp_path_factory.mktemp("head")
    path = folder / "head.pt"
    extractor = copy_checkpoint(folder)
    assert main(["attack", "badnets", "--out", str(path), "--extractor", str(extractor), *HEAD]) == 0
    return path


SIMCLR = (
    *("--data", "digits", "--normalization", "digits", "--image-size", "16", "--width", "4"),
    *("--simclr.epochs", "2", "--simclr.batch-size", "256", "--views.no-flip", "--probe.epochs", "2"),
    *("--test-images", "100", "--batch-size", "20"),
)


@pytest.fixture(scope="session")
def extracted(tmp_path_factory) -> Path:
    """An extractor that ``simclr badnets`` trained for two epochs."""
    path = tmp_path_factory.mktemp("simclr") / "extractor.pt"
    assert main(["simclr", "badnets", "--out", str(path), *SIMCLR, "--target", "3"]) == 0
    return path


HID = (
    *("--method", "hid", "--seed", "1", "--test-images", "100", "--batch-size", "20", "--augmentation.no-flip"),
    *("--hid.units", "24", "20", "--hid.rounds", "2", "--hid.views.no-flip", "--hid.views.grayscale", "0"),
    *("--hid.simclr.epochs", "2", "--hid.simclr.learning-rate", "0.05"),
    *("--hid.head.epochs", "3", "--hid.head.learning-rate", "0.005"),
    *("--hid.mixmatch.epochs", "2", "--hid.mixmatch.learning-rate", "0.002"),
    *("--hid.prune.threshold.rule", "number", "--hid.prune.threshold.number", "2"),
)


@pytest.fixture(scope="session")
def small_victim(tmp_path_factory) -> Path:
    """A backdoored perceptron on digits of 8 x 8 pixels, with its card."""
    path = tmp_path_factory.mktemp("small") / "small.pt"
    architecture = Architecture("mlp", 10, 0, (("0", 20), ("2", 16), ("4", 10)), (8, 8, 3))
    network = Network(architecture, (0.3,) * 3, (0.3,) * 3)
    data, test = load("digits", image_size=8), load("digits", split="test", image_size=8)
    attack, goal, poison = BadNets(variant="square"), Goal(num_classes=10, target=3), PoisonConfig(rate=0.1)
    config = TrainConfig(epochs=4, batch_size=64, learning_rate=0.05)
    trained = train_backdoored(network, attack, goal, data.batch, 5, config, poison)
    assert trained.plan is not None
    save_variables(path, network, trained.variables)
    (measured,) = measure_variants(network, trained.variables, [masks.filters(trained.variables["masks"])], test.batch)
    card = describe_model(
        path, network, data="digits", train_images=len(data), extractor=None, training={}, augmentation={}, seed=5,
        attack=describe_attack(attack, goal, poison, trained.plan, measured.metrics), metrics=measured.metrics,
    )  # fmt: skip
    write_card(beside(path, CARD_SUFFIX), card)
    return path


@pytest.fixture(scope="session")
def small_clean(small_victim) -> tuple[Network, Variables]:
    """A perceptron like the small victim that never saw its trigger."""
    network, data = load_model(small_victim).network, load("digits", image_size=8)
    config = TrainConfig(epochs=4, batch_size=64, learning_rate=0.05)
    return network, train(network, network.init(jax.random.key(7)), data.batch, jax.random.key(8), config)[0]


@pytest.fixture(scope="session")
def trained_anew(small_victim, tmp_path_factory) -> Defended:
    """A new network that HID trained in two rounds on the small victim's training set."""
    folder = tmp_path_factory.mktemp("anew") / "out"
    assert main(["defend", str(small_victim), *HID, "--out", str(folder)]) == 0
    return Defended(small_victim, folder, read_result(folder / "result.json"))

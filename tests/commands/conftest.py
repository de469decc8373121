"""One small defense and one small attack, run once and judged by many tests."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rnp_jax.cli import main
from rnp_jax.report.schema import Result, read_result

ROOT = Path(__file__).parents[2]
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

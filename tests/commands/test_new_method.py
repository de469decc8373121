"""A new method is one file and one line of the registry: then it stands in every command, report and table.

Each test copies the package, adds the file and the line, and runs the commands on the copy.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rnp_jax

PACKAGE = Path(rnp_jax.__file__).parent

PRUNING = '''
"""Prunes filters by their number: a method for a test."""

from dataclasses import dataclass

import numpy as np

from rnp_jax import masks
from rnp_jax.defenses.method import Chooses, Method, Task
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.scores import prune_by_score


@dataclass(frozen=True)
class ToyConfig:
    """Settings of the toy.

    Attributes:
      last: how many filters of each layer are pruned, the last ones first.
    """

    last: int = 2


def run_toy(task: Task, config: ToyConfig) -> Defended:
    """Prunes."""
    like = masks.filters(task.variables["masks"])
    scores = {name: np.arange(1.0, 1 + len(mask)) for name, mask in like.items()}
    return prune_by_score(task.network, task.variables, scores, dict.fromkeys(like, config.last), holdout=task.holdout)


toy = Method(
    name="toy",
    title="Toy",
    summary="prune the last filters of each layer",
    basis="The score of a filter is its number (a test).",
    run=run_toy,
    defaults=ToyConfig(),
    chooses=lambda _: Chooses(filters=True),
    colour="#123456",
)
'''

TRAINING = '''
"""Trains a new network on everything: a method for a test."""

from dataclasses import dataclass, field

import jax
import numpy as np

from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import NO_CANDIDATES, Choice, Defended
from rnp_jax.training.supervised import TrainConfig, train


@dataclass(frozen=True)
class ToyConfig:
    """Settings of the toy.

    Attributes:
      train: of the new network.
    """

    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=1, batch_size=64))


def run_toy(task: Task, config: ToyConfig) -> Defended:
    """Trains."""
    start_key, fit_key = jax.random.split(task.key)
    with task.stage("train"):
        variables, history = train(
            task.network, task.network.init(start_key), task.data, fit_key, config.train, progress=task.progress
        )
    task.note("train", history)
    kept = (np.arange(len(task.data.labels)),)
    choice = Choice(pruned=0, rule="Every image is trusted.")
    return Defended(variables, {}, "weights", NO_CANDIDATES, choice, network=task.network, kept=kept)


toy = Method(
    name="toy",
    title="Toy",
    summary="train a new network on the untrusted set",
    basis="Every weight is new (a test).",
    run=run_toy,
    defaults=ToyConfig(),
    needs="untrusted",
    changes="weights",
    colour="#123456",
)
'''

SHARED = ("--test-images", "60", "--batch-size", "20")
CLEAN = ("--defense.size", "40", "--defense.holdout", "0.5")


class Copy:
    """The package with a method more, and its command."""

    def __init__(self, folder: Path, source: str):
        shutil.copytree(PACKAGE, folder / "rnp_jax", ignore=shutil.ignore_patterns("__pycache__"))
        defenses = folder / "rnp_jax" / "defenses"
        (defenses / "toy.py").write_text(source)
        registry = defenses / "registry.py"
        line = "from rnp_jax.defenses.toy import toy\n_RECORDS = (\n    toy,\n"
        text = registry.read_text("utf-8")
        assert text.count("_RECORDS = (\n") == 1
        registry.write_text(text.replace("_RECORDS = (\n", line))
        self.folder = folder

    def run(self, *arguments: object) -> str:
        """What a command prints; it must end well."""
        code = "import sys; from rnp_jax.cli import main; sys.exit(main())"
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "RNP_JAX_CACHE_DIR": str(self.folder / "cache")}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


@pytest.mark.slow
def test_a_method_of_one_file_and_one_line_stands_everywhere(small_victim, tmp_path):
    copy = Copy(tmp_path, PRUNING)
    shown = copy.run("defend", "--method", "toy", "--help")
    assert "--toy.last INT" in shown
    assert "prune the last filters of each layer" in shown

    options = ("--method", "toy", "--toy.last", 3, *SHARED, *CLEAN)
    copy.run("defend", small_victim, *options, "--out", "one", "--sweep-images", 20)
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert (result["method"], result["config"]["toy"]) == ("toy", {"last": 3})
    assert result["choice"]["pruned"] == 6
    assert result["choice"]["ranking"] == "toy"
    page = (tmp_path / "one" / "report.html").read_text("utf-8")
    assert "Toy" in page
    assert "The score of a filter is its number (a test)." in page

    copy.run("compare", small_victim, "--method", "none", "toy", "clp", *SHARED, *CLEAN, "--out", "several")
    copy.run("sweep", small_victim, *options, "--out", "swept", "--write", "report")
    for folder, count in (("several", 3), ("swept", 1)):
        rows = [json.loads(line) for line in (tmp_path / folder / "rows.jsonl").read_text("utf-8").splitlines()]
        assert len(rows) == count
        (row,) = (row for row in rows if row["method"] == "toy")
        assert (row["status"], row["pruned"]) == ("ok", 6 if folder == "swept" else 4)
        assert "Toy" in (tmp_path / folder / "leaderboard.html").read_text("utf-8")
        assert "Toy" in (tmp_path / folder / "leaderboard.md").read_text("utf-8")


@pytest.mark.slow
def test_so_does_one_that_needs_an_untrusted_set(small_victim, tmp_path):
    copy = Copy(tmp_path, TRAINING)
    shown = copy.run("defend", "--method", "toy", "--help")
    assert "--toy.train.epochs INT" in shown
    assert "--untrusted.data" in shown
    assert "--defense.size" not in shown

    options = ("--method", "toy", *SHARED)
    copy.run("defend", small_victim, *options, "--out", "one")
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert (result["method"], result["data"]["defense_images"]) == ("toy", 0)
    assert "1,297 untrusted images" in result["verdict"]["detail"]
    assert {"Round 1: share of clean images among those kept (for evaluation only)"} < set(result["covariates"])
    card = json.loads((tmp_path / "one" / "cleaned.card.json").read_text())
    assert card["training"]["defense"] == "toy"
    figures = copy.run("evaluate", "one/cleaned.pt", *SHARED)
    assert f"{result['after']['acc']['value']:.2%}" in figures

    copy.run("compare", small_victim, "--method", "none", "toy", *SHARED, "--out", "several")
    copy.run("sweep", small_victim, *options, "--out", "swept")
    for folder in ("several", "swept"):
        rows = [json.loads(line) for line in (tmp_path / folder / "rows.jsonl").read_text("utf-8").splitlines()]
        (row,) = (row for row in rows if row["method"] == "toy")
        assert (row["status"], row["acc"]) == ("ok", result["after"]["acc"])
        assert "Toy" in (tmp_path / folder / "leaderboard.html").read_text("utf-8")

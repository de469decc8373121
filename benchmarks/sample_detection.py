"""How well each score tells the poisoned samples of a training set, for every checkpoint of a folder that has one.

    python -m benchmarks.sample_detection checkpoints [--match 'digits_*.pt'] [--slow-images 200] [--out table.md]

The training set is made again from the checkpoint's card, so that the truth is known; the scores do not see it.
Unlearning takes clean images as ``rnp-jax defend`` draws them, which STRIP also lays over the samples. STRIP and
Cognitive Distillation, a hundred passes an image and more, look at ``--slow-images`` of the samples, drawn without the
truth.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.compare import describe_machine
from rnp_jax.checkpoints import Model, load_model
from rnp_jax.config import DataOptions
from rnp_jax.data.sampling import sample_defense_set
from rnp_jax.defenses.unlearn import UnlearnConfig, unlearn
from rnp_jax.detection.labels import LabelConfig, detect_label
from rnp_jax.detection.samples import SAMPLE_SCORES, SampleConfig, SampleJudgement, judge_scores, score_samples
from rnp_jax.detection.suspicion import SuspicionRule, find_suspicious
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.pipeline.images import load_images
from rnp_jax.pipeline.training_set import remake
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.types import Batch, Variables

SLOW = ("strip", "cognitive_distillation")
VARIANTS = {
    "unlearned": ("unlearned", "gentle"),
    "unlearned_difference": ("unlearned_difference", "gentle"),
    "unlearned_on_untrusted": ("unlearned", "gentle, untrusted"),
    "difference_on_untrusted": ("unlearned_difference", "gentle, untrusted"),
    "release_unlearned": ("unlearned", "release"),
    "release_unlearned_difference": ("unlearned_difference", "release"),
    "release_unlearned_on_untrusted": ("unlearned", "release, untrusted"),
}
"""The score, and how what it looks at was unlearned: as detect_label does, or as the RNP release does."""

METHODS = (*VARIANTS, *(name for name in SAMPLE_SCORES if name not in VARIANTS))
HEAD = ("attack", "checkpoint", "score", "AUROC", "TPR at 1 % FPR", "poisoned in the top 5 %", "poisoned", "clean", "s")


@dataclass(frozen=True)
class Row:
    """One score on one checkpoint's training set."""

    attack: str
    file: str
    method: str
    judged: SampleJudgement
    top: float  # share of the truly poisoned among the 5 % with the highest scores
    seconds: float


def measure(path: Path, arguments: argparse.Namespace, known: set[tuple[str, str]]) -> Iterator[Row]:
    """A row for each score that is not ``known``, each as soon as it is there."""
    model = load_model(path)
    if model.card is None or model.card.attack is None:
        raise DataError(f"{path}: no attack, so no sample is poisoned")
    options = DataOptions(data=model.card.data, data_dir=arguments.data_dir)
    train = load_images(options, "train", model.network.architecture.image_shape[:2])
    made = remake(model.card, path, train)
    samples = draw(Samples(made.data, made.poisoned), arguments.limit)
    clean, _ = sample_defense_set(train, arguments.clean_images, seed=arguments.seed)
    untrusted = draw(samples, arguments.clean_images).data
    forgotten: dict[str, tuple[Variables, float]] = {}  # unlearned variables and seconds, by what was unlearned
    for method in arguments.methods:
        if (path.name, method) in known:
            continue
        name, source = VARIANTS.get(method, (method, ""))
        spent, unlearned = 0.0, None
        if source:
            if source not in forgotten:
                data = untrusted if source.endswith("untrusted") else clean
                forgotten[source] = timed(partial(forget, model, data, source.startswith("release")))
            unlearned, spent = forgotten[source]
        part = draw(samples, arguments.slow_images) if method in SLOW else samples
        run = partial(score_samples, name, model.network, model.variables, unlearned, part.data, clean=clean)
        scores, seconds = timed(partial(run, key=jax.random.key(arguments.seed), config=SampleConfig()))
        yield judge(path, model, method, scores, part.poisoned, seconds + spent)


class Samples(NamedTuple):
    """A training set, or some of it, with the truth."""

    data: Batch
    poisoned: np.ndarray


def draw(samples: Samples, count: int) -> Samples:
    """At most so many of the samples, by a draw that knows nothing of them (nor of the seed that poisoned them)."""
    chosen = np.sort(np.random.default_rng([count, 71]).permutation(len(samples.poisoned))[:count])
    return Samples(Batch(*(values[chosen] for values in samples.data)), samples.poisoned[chosen])


def forget(model: Model, data: Batch, release: bool) -> Variables:
    key = jax.random.key(0)
    if release:
        return unlearn(model.network, model.variables, data, key, UnlearnConfig(batch_size=100)).variables
    return detect_label(model.network, model.variables, data, key, LabelConfig()).unlearned


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started


def judge(path: Path, model: Model, method: str, scores: np.ndarray, poisoned: np.ndarray, seconds: float) -> Row:
    top = poisoned[find_suspicious(scores, SuspicionRule(share=0.05)).indices].mean()
    assert model.card is not None
    assert model.card.attack is not None
    name = model.card.attack.name + (" (weak)" if model.card.attack.weak else "")
    row = Row(name, path.name, method, judge_scores(scores, poisoned), float(top), seconds)
    sys.stderr.write(f"{path.name} {method}: AUROC {row.judged.auroc:.3f}, {seconds:.1f} s\n")
    return row


def make_table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        low, high = row.judged.interval
        area = f"{row.judged.auroc:.3f} ({low:.2f}-{high:.2f})"
        counts = (str(row.judged.poisoned), str(row.judged.clean))
        lines.append(
            [
                row.attack,
                row.file,
                row.method,
                area,
                f"{row.judged.tpr:.1%}",
                f"{row.top:.0%}",
                *counts,
                f"{row.seconds:.1f}",
            ]
        )
    return markdown_table(HEAD, lines)


def make_matrix(rows: list[Row], show: Callable[[Row], str]) -> str:
    """A line a checkpoint, a column a score."""
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = []
    for file in dict.fromkeys(row.file for row in rows):
        own = {row.method: row for row in rows if row.file == file}
        attack = next(iter(own.values())).attack
        lines.append([attack, file, *(show(own[method]) if method in own else "" for method in methods)])
    return markdown_table(("attack", "checkpoint", *methods), lines)


def read_rows(path: Path | None) -> list[Row]:
    """Rows of earlier runs."""
    if path is None or not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [Row(**{**row, "judged": SampleJudgement(**row["judged"])}) for row in rows]


def main() -> None:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sample_detection", description=summary)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--match", nargs="+", default=["*.pt"], help="which checkpoints of the folder")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--data-dir", help="where prepared data sets are")
    parser.add_argument("--clean-images", type=int, default=400)
    parser.add_argument("--slow-images", type=int, default=200, help="samples that the slow scores look at")
    parser.add_argument("--limit", type=int, default=5000, help="samples that all scores look at, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="JSON lines to add rows to; what is there is not measured again")
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file")
    arguments = parser.parse_args()
    rows = read_rows(arguments.rows)
    for path in dict.fromkeys(path for pattern in arguments.match for path in sorted(arguments.folder.glob(pattern))):
        try:
            for row in measure(path, arguments, {(row.file, row.method) for row in rows}):
                rows.append(row)
                if arguments.rows:
                    with arguments.rows.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(row)) + "\n")
        except (ConfigError, DataError) as error:
            sys.stderr.write(f"{path.name} left out: {error}\n")
    areas = make_matrix(rows, lambda row: f"{row.judged.auroc:.3f}")
    found = make_matrix(rows, lambda row: f"{row.judged.tpr:.0%}")
    text = (
        f"{describe_machine()}\n\nAUROC\n\n{areas}\n\nTPR at 1 % FPR\n\n{found}\n\nAll figures\n\n{make_table(rows)}\n"
    )
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(f"# Poisoned samples\n\n{text}", "utf-8")


if __name__ == "__main__":
    main()

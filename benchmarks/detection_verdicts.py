"""What the verdict of detection says of checkpoints whose truth is known: grades, rates with intervals, AUROC.

    python -m benchmarks.detection_verdicts --folder DIR … [--data-dir DIR] [--beds NAMES] [--more FILES] [--seed 0]
        [--out runs/verdicts] [--write table.md]

The beds are those of ``benchmarks.test_beds``; ``--more`` adds checkpoints with cards. 500 clean images of a seed, the
defaults of `detect`. Each verdict is kept in ``--out``, and a later call goes on with what is missing. The truth
enters the tables alone. A score that is held against a calibration in which the model took part is left out. Limits
were chosen on the developers' half: the CIFAR-10 checkpoints of this project, and every other one of its digits
checkpoints by name, the first included.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import rnp_jax
from benchmarks.compare import describe_machine
from benchmarks.test_beds import BEDS, Bed, find, load_parts, open_bed
from rnp_jax.atomic import write_atomic
from rnp_jax.detection.calibration import auroc, bootstrap_auroc
from rnp_jax.detection.verdict import Sign, grade_signs
from rnp_jax.evaluation.metrics import Proportion, known_share
from rnp_jax.inversion import NEXT
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.report.detection import Detection

GRADES = ("likely clean", "no evidence", "suspicious", "likely backdoored")
"""In ascending order."""


@dataclass(frozen=True)
class Judged:
    """The verdict on a checkpoint, and its truth.

    Attributes:
      name: of the checkpoint.
      attack: name of its attack; None for a clean one.
      target: label of its backdoor; None if there is no single one.
      grade: of the verdict.
      label: that the verdict suspects; None for none or for every class to the next one.
      headline: of `detect`.
      signs: strength by look.
      scores: share of the largest label while unlearning, and 1 less the smallest trigger's share of the median size.
      seconds: of the looks, compilation included.
    """

    name: str
    attack: str | None
    target: int | None
    grade: str
    label: int | None
    headline: str
    signs: dict[str, str]
    scores: dict[str, float]
    seconds: float | None = None

    @property
    def right(self) -> bool:
        """Whether the suspected label is the backdoor's."""
        return self.label == self.target and self.grade in GRADES[2:]


def judge(name: str, bed: Bed, path: Path, seed: int, data_dir: str | None) -> Judged:
    """The verdict with the defaults of `detect`."""
    opened = open_bed(bed, path, seed, load_parts(bed.data, data_dir))
    found = rnp_jax.detect(opened.model, opened.images, trigger=opened.options["trigger"], seed=seed)
    return describe(name, found)


def describe(name: str, found: Detection) -> Judged:
    """The rows' figures of a document."""
    attack = found.attack
    sizes = {each.label: each.norm for part in found.triggers for each in part.labels if each.reached}
    scores = {each.statistic: each.score for each in found.statistics if each.statistic == "labels"}
    median = np.median([each.norm for part in found.triggers for each in part.labels]) if found.triggers else 0
    if sizes and median > 0:
        scores["triggers"] = float(np.clip(1 - min(sizes.values()) / median, 0, 1))
    signs = [
        Sign(each.look, each.strength, (*each.labels, *([NEXT] * each.all_to_all)), "", each.sentence)
        for each in found.signs
        if not each.own
    ]
    verdict = grade_signs(signs, [each.name for each in found.shares])
    return Judged(
        name,
        None if attack is None else attack.name,
        None if attack is None or attack.mapping == "all_to_all" else attack.target,
        verdict.grade,
        verdict.label,
        found.verdict.headline,
        {each.look: each.strength for each in verdict.signs},
        scores,
        sum(stage.seconds for stage in found.timing),
    )


def is_developers(name: str, bundled: Sequence[str]) -> bool:
    """Whether limits may have been chosen on a checkpoint; ``bundled`` has the names of all digits checkpoints."""
    return name.startswith("cifar10_") or (name in bundled and sorted(bundled).index(name) % 2 == 0)


def list_verdicts(rows: Iterable[Judged]) -> str:
    """A line a checkpoint."""
    lines = [
        (
            each.name,
            tell_truth(each),
            each.grade,
            "" if each.attack is None else "yes" if each.right else "no",
            ", ".join(f"{look} {strength}" for look, strength in each.signs.items() if strength != "none"),
            "" if each.scores.get("labels") is None else f"{each.scores['labels']:.2f}",
            "" if each.scores.get("triggers") is None else f"{1 - each.scores['triggers']:.0%}",
        )
        for each in rows
    ]
    head = ("checkpoint", "truth", "verdict", "label right", "signs", "unlearning", "smallest / median trigger")
    return markdown_table(head, lines)


def tell_truth(row: Judged) -> str:
    """The attack and its label."""
    return "clean" if row.attack is None else f"{row.attack}, {'all to all' if row.target is None else row.target}"


def list_rates(halves: dict[str, list[Judged]]) -> str:
    """Sensitivity and false alarms of every grade."""
    lines = []
    for name, rows in halves.items():
        for grade in reversed(GRADES):
            shares = []
            for clean in (False, True):
                hits = np.asarray([each.grade == grade for each in rows if (each.attack is None) == clean], bool)
                shares.append(tell(known_share(hits)) if hits.size else "none there")
            lines.append((name, grade, *shares))
        found = [each for each in rows if each.attack is not None and each.grade in GRADES[2:]]
        hits = np.asarray([each.right for each in found], bool)
        lines.append((name, "label right, of those suspicious or worse", tell(known_share(hits)) if found else "", ""))
    return markdown_table(("half", "verdict", "of the backdoored ones", "of the clean ones"), lines)


def tell(share: Proportion) -> str:
    """A count and its interval."""
    return f"{share.count} of {share.total} ({share.low:.0%}–{share.high:.0%})"


FEWEST = 5
"""Checkpoints of a kind that have a score, for its AUROC to be told."""

METHODS: dict[str, Callable[[Judged], float | None]] = {
    "the verdict (four grades)": lambda each: float(GRADES.index(each.grade)),
    "unlearning alone (largest share)": lambda each: each.scores.get("labels"),
    "Neural Cleanse alone (smallest / median trigger)": lambda each: each.scores.get("triggers"),
}


def list_auroc(rows: Sequence[Judged], seed: int = 0) -> str:
    """AUROC of the verdict and of the published scores alone, by bootstrap over checkpoints."""
    lines = []
    for name, score in METHODS.items():
        values = [(each.attack is None, score(each)) for each in rows]
        low, high = (
            np.asarray([value for is_clean, value in values if value is not None and is_clean == clean])
            for clean in (True, False)
        )
        if min(len(low), len(high)) < FEWEST:
            continue
        first, last = bootstrap_auroc(low, high, seed)
        lines.append((name, f"{len(low)} + {len(high)}", f"{auroc(low, high):.2f} ({first:.2f}–{last:.2f})"))
    return markdown_table(("score", "clean + backdoored", "AUROC"), lines)


def report(rows: Sequence[Judged], bundled: Sequence[str]) -> str:
    """All tables."""
    halves = {
        "developers'": [each for each in rows if is_developers(each.name, bundled)],
        "reported": [each for each in rows if not is_developers(each.name, bundled)],
    }
    counts = Counter("clean" if each.attack is None else "backdoored" for each in rows)
    parts = [
        f"{describe_machine()}; {counts['backdoored']} backdoored and {counts['clean']} clean checkpoints",
        "## Rates\n\n" + list_rates({name: half for name, half in halves.items() if half}),
        "## AUROC\n\n" + list_auroc(rows),
        *(f"## Verdicts, {name} half\n\n{list_verdicts(half)}" for name, half in halves.items() if half),
    ]
    return "\n\n".join(parts)


def read(folder: Path) -> list[Judged]:
    """The verdicts that a folder keeps, by name."""
    return [Judged(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection_verdicts")
    parser.add_argument("--folder", type=Path, nargs="+", required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--beds", nargs="*", default=list(BEDS))
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="checkpoints with cards")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/verdicts"))
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    found = {name: (BEDS[name], find(given.folder, BEDS[name].file)) for name in given.beds}
    found |= {path.stem: (Bed(path.name, "judged"), path) for path in given.more}
    for name, (bed, path) in found.items():
        stored = given.out / f"{name}.json"
        if path is None:
            sys.stderr.write(f"{name}: no file {bed.file}\n")
        elif not stored.is_file():
            judged = judge(name, bed, path, given.seed, given.data_dir)
            write_atomic(stored, json.dumps(asdict(judged), indent=1).encode())
            sys.stderr.write(f"{name}: {judged.headline}\n")
    bundled = [path.stem for folder in given.folder for path in folder.glob("digits_*.pt")]
    text = report(read(given.out), bundled)
    sys.stdout.write(text + "\n")
    if given.write:
        write_atomic(given.write, f"# Verdicts of detection\n\n{text}\n".encode())


if __name__ == "__main__":
    main()

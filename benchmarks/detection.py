"""How well label detection tells backdoored models from clean ones: variants chosen on one half, measured on the other.

    python -m benchmarks.detection checkpoints/digits_*.pt more/*.pt --cache scores [--others 4] [--out table.md]

Every model needs a card, and all the same architecture and data. The cache keeps what each model's unlearning told, so
that a run goes on where it was stopped. The cards' truth enters the tables and the threshold; no score uses it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.compare import describe_machine
from rnp_jax.card import Card, read_card
from rnp_jax.commands.calibrate import CalibrateOptions, score, summarise
from rnp_jax.defenses import UnlearnConfig
from rnp_jax.detection.calibration import (
    Calibration,
    ScoredModel,
    auroc,
    calibrate,
    plain_settings,
    write_calibration,
)
from rnp_jax.detection.labels import LabelConfig, LabelFindings
from rnp_jax.models import Architecture
from rnp_jax.pipeline.labelled import Labelled
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.torch_io import read_checkpoint

RELEASE_STEPS = UnlearnConfig(max_epochs=40, batch_size=50, learning_rate=0.02, milestones=())

VARIANTS = {
    "relative": LabelConfig(),
    "frozen": LabelConfig(modes=("frozen",), draws=1),
    "release": LabelConfig(unlearn=RELEASE_STEPS, draws=1),
}
"""Relative steps and the release's, batch norm in training mode; relative ones with frozen statistics."""


@dataclass(frozen=True, eq=False)
class Told:
    """What one model's unlearning told."""

    model: ScoredModel
    shares: np.ndarray  # [E, K]
    accuracy: np.ndarray  # [E], of the steps


def area(told: Told) -> np.ndarray:
    return told.shares.mean(0)


def end(told: Told) -> np.ndarray:
    return told.shares[-1]


def at_stop(stop: float) -> Callable[[Told], np.ndarray]:
    def shares(told: Told) -> np.ndarray:
        reached = np.flatnonzero(told.accuracy <= stop)
        return told.shares[reached[0] if len(reached) else -1]

    return shares


def first_half(told: Told) -> np.ndarray:
    return told.shares[: len(told.shares) // 2].mean(0)


def gap(told: Told) -> np.ndarray:
    """Each label's area less the largest of the others'."""
    areas = told.shares.mean(0)
    top = np.sort(areas)
    return np.where(areas == top[-1], areas - top[-2], areas - top[-1])


def beyond_accuracy(told: Told) -> np.ndarray:
    """Each label's area less that of the accuracy: how early and how much."""
    return told.shares.mean(0) - told.accuracy.mean()


def order(told: Told) -> np.ndarray:
    """One less the mean entropy of the shares, for the label of the largest area."""
    entropy = -(told.shares * np.log(np.maximum(told.shares, 1e-12))).sum(1) / np.log(told.shares.shape[1])
    areas = told.shares.mean(0)
    return np.where(areas == areas.max(), 1 - entropy.mean(), 0.0)


STATISTICS: dict[str, Callable[[Told], np.ndarray]] = {
    "area under the share": area,
    "area, first half of the epochs": first_half,
    "share at the end": end,
    "share at accuracy 0.5": at_stop(0.5),
    "share at accuracy 0.2": at_stop(0.2),
    "area less the next label's": gap,
    "area less the accuracy's": beyond_accuracy,
    "1 - entropy": order,
}
"""Each gives a figure a label [K]; the score is the largest, the detected label its place."""


def tell(labelled: Labelled, variant: str, options: CalibrateOptions, cache: Path) -> Told:
    """What unlearning told, from the cache or now."""
    path = Path(labelled.path)
    stored, config = cache / variant / f"{path.stem}.json", VARIANTS[variant]
    if not stored.is_file():
        scored, mode = score(labelled, replace(options, labels=config)), config.modes[0]
        assert isinstance(scored.findings, LabelFindings), "the statistic is labels"
        plain = {
            "model": vars(scored.model),
            "shares": scored.findings.shares[mode].tolist(),
            "accuracy": scored.findings.history[mode]["accuracy"].tolist(),
        }
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(plain))
        sys.stderr.write(f"{variant} {path.stem}: {scored.model.score:.2f}, {scored.findings.timing[mode]:.0f} s\n")
    found = json.loads(stored.read_text())
    return Told(ScoredModel(**found["model"]), np.asarray(found["shares"]), np.asarray(found["accuracy"]))


def rescore(told: Iterable[Told], statistic: Callable[[Told], np.ndarray]) -> list[ScoredModel]:
    found = [(each, statistic(each)) for each in told]
    return [replace(each.model, score=float(row.max()), label=int(row.argmax())) for each, row in found]


def compare_statistics(told: Sequence[Told], calibrated: Callable[[list[ScoredModel]], Calibration]) -> str:
    """AUROC and label on the half that chose, and on the other."""
    lines = []
    for name, statistic in STATISTICS.items():
        found = calibrated(rescore(told, statistic))
        own = [each for each in found.models if each.role == "calibration"]
        held_out, (low, high) = found.held_out, found.held_out.auroc_interval
        right = held_out.labels_right
        lines.append(
            [
                name,
                f"{auroc(*by_kind(own)):.2f}",
                f"{held_out.auroc:.2f} ({low:.2f}-{high:.2f})",
                f"{held_out.detected.count}/{held_out.detected.total}",
                f"{held_out.false_alarms.count}/{held_out.false_alarms.total}",
                f"{right.count}/{right.total}",
            ]
        )
    head = ("statistic", "AUROC, first half", "AUROC, held out", "detected", "false alarms", "label right")
    return markdown_table(head, lines)


def by_kind(models: Iterable[ScoredModel]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of clean and of backdoored models."""
    models = list(models)
    clean, backdoored = ([each.score for each in models if bool(each.attack) == kind] for kind in (False, True))
    return np.asarray(clean), np.asarray(backdoored)


def compare_variants(told: dict[str, list[Told]]) -> str:
    """All variants on the models that every one of them was run on; none of these figures is held out."""
    names = set.intersection(*({each.model.name for each in rows} for rows in told.values()))
    lines = []
    for variant, rows in told.items():
        found = rescore([each for each in rows if each.model.name in names], area)
        low, high = by_kind(found)
        right = [each.label == each.target for each in found if each.target is not None]
        lines.append(
            [
                variant,
                f"{len(low)} + {len(high)}",
                f"{low.min():.2f}-{low.max():.2f}",
                f"{high.min():.2f}-{high.max():.2f}",
                f"{auroc(low, high):.2f}",
                f"{sum(right)}/{len(right)}",
            ]
        )
    head = ("unlearning", "clean + backdoored", "scores, clean", "scores, backdoored", "AUROC", "label right")
    return markdown_table(head, lines)


def list_models(calibration: Calibration) -> str:
    lines = []
    for each in sorted(calibration.models, key=lambda each: -each.score):
        target = "" if each.target is None else str(each.target)
        lines.append([each.name, each.attack or "clean", each.role, f"{each.score:.2f}", str(each.label), target])
    return markdown_table(("model", "truth", "half", "score", "label", "backdoor's"), lines)


def pick(paths: Sequence[Path], cards: dict[Path, Card], count: int) -> list[Path]:
    """So many clean and so many backdoored models, of different attacks."""
    clean = [path for path in paths if cards[path].attack is None]
    first = {cards[path].attack.name: path for path in reversed(paths) if cards[path].attack}  # pyright: ignore
    return clean[:count] + [first[name] for name in sorted(first)][:count]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps scores from run to run")
    parser.add_argument(
        "--others", type=int, default=4, help="models of each kind that the other variants are tried on"
    )
    parser.add_argument("--calibration", type=Path, help="also write the calibration to this file")
    parser.add_argument("--out", type=Path, help="also write the tables to this Markdown file")
    arguments = parser.parse_args()
    paths, options = sorted(arguments.checkpoints), CalibrateOptions(checkpoints=())
    cards = {path: card for path in paths if (card := read_card(path, read_checkpoint(path).sha256)) is not None}
    labelled = {path: Labelled(str(path), card) for path, card in cards.items()}
    told = {"relative": [tell(each, "relative", options, arguments.cache) for each in labelled.values()]}
    few = pick(list(cards), cards, arguments.others)
    for variant in [each for each in VARIANTS if few and each != "relative"]:
        told[variant] = [tell(labelled[path], variant, options, arguments.cache) for path in few]
    first = next(iter(cards.values()))
    kind = Architecture(first.architecture.name, first.architecture.num_classes, first.architecture.width)

    def calibrated(models: list[ScoredModel]) -> Calibration:
        size, settings = options.defense.size, plain_settings(VARIANTS["relative"])
        return calibrate(models, architecture=kind, data=first.data, images=size, settings=settings)

    chosen = calibrated(rescore(told["relative"], area))
    text = "\n\n".join(
        [
            describe_machine(),
            "## Verdicts\n\n" + "\n".join(f"    {line}" for line in summarise(chosen)),
            "## Statistics of the same unlearning\n\n" + compare_statistics(told["relative"], calibrated),
            *(["## Other unlearning\n\n" + compare_variants(told)] if few else []),
            "## Models\n\n" + list_models(chosen),
        ]
    )
    sys.stdout.write(text + "\n")
    if arguments.calibration:
        write_calibration(arguments.calibration, chosen)
    if arguments.out:
        arguments.out.write_text(f"# Label detection\n\n{text}\n", "utf-8")


if __name__ == "__main__":
    main()

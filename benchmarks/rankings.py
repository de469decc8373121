"""Which filters to prune: the rankings compared on checkpoints of different attacks and seeds, as a Markdown table.

    python -m benchmarks.rankings --data-dir DIR --out docs/rankings_table.md CHECKPOINT...

Every checkpoint is unlearned and recovered once a seed; each ranking then prunes as many filters as the accuracy budget
on the held-out clean images allows. ASR is never used to choose. Last, the release's own rule at two thresholds.
"""

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from rnp_jax import masks
from rnp_jax.checkpoints import Model
from rnp_jax.commands.arguments import parse
from rnp_jax.data import holdout_split, sample_defense_set
from rnp_jax.defenses import PruneConfig, recover, unlearn
from rnp_jax.defenses.prune import choose, measure_damage, rank
from rnp_jax.evaluation.measure import measure_variants
from rnp_jax.pipeline.images import open_data
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.trigger import open_trigger

RANKINGS = ("path", "damage", "release")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rankings", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--data-dir", help="where prepared TensorFlow Datasets sets are")
    parser.add_argument("--seeds", type=int, default=1, help="draws of the defense set for each checkpoint")
    parser.add_argument("--test-images", default="2000")
    parser.add_argument("--out", type=Path)
    return parser


def presets(checkpoint: str, arguments: argparse.Namespace) -> list[str]:
    """The command line of the defense on this checkpoint."""
    line = [checkpoint, "--method", "rnp", "--test-images", arguments.test_images]
    line += ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    if "digits" in checkpoint:
        return [*line, "--config", "configs/rnp_digits.yaml"]
    if not Path(checkpoint).with_suffix(".card.json").exists():  # one of the RNP release's layout, without a card
        line += ["--normalization", "cifar10_rnp", "--data", "cifar10", "--attack", "badnets"]
    return line


def compare(checkpoint: str, seed: int, arguments: argparse.Namespace) -> dict[str, tuple[int, float, float, float]]:
    """(pruned, ACC, ASR, RA) by rule, on one draw of the defense set."""
    _, options = parse("defend", presets(checkpoint, arguments))
    model: Model = open_model(checkpoint, options.source, options.compute)
    train, test = (open_data(model, options.images, split) for split in ("train", "test"))
    trigger = open_trigger(model, options.trigger, test)
    if trigger is None:
        raise SystemExit(f"{checkpoint}: its trigger is not known, so nothing can be compared")
    drawn, _ = sample_defense_set(train, options.defense.size, seed=seed)
    data, holdout = holdout_split(drawn, options.defense.holdout, seed)
    keys = jax.random.split(jax.random.key(seed))
    rnp = options.rnp
    unlearned = unlearn(model.network, model.variables, data, keys[0], rnp.unlearn, augment=options.augmentation)
    recovered = recover(model.network, unlearned.variables, data, keys[1], rnp.recover, augment=options.augmentation)
    damage = measure_damage(model.network, model.variables, recovered.filters, data)
    like = masks.filters(model.variables["masks"])
    counts, variants = {"none": 0}, [masks.keep(like, [])]

    def add(rule: str, ranking: str, config: PruneConfig) -> None:
        candidates = rank(ranking, recovered.filters, recovered.history["masks"], damage)  # pyright: ignore
        counts[rule] = choose(model.network, model.variables, candidates, holdout, config).pruned
        variants.append(masks.keep(like, candidates.order[: counts[rule]]))

    for ranking in RANKINGS:
        add(ranking, ranking, replace(rnp.prune, ranking=ranking, threshold=None, number=None))
    for threshold in (0.0, 0.3):
        add(f"release, t = {threshold:g}", "release", PruneConfig("release", threshold=threshold))
    measured = measure_variants(
        model.network, model.variables, variants, test.batch, trigger.test, trigger.goal.one_target
    )
    return {
        rule: (count, row.metrics.acc.value, row.metrics.asr.value, row.metrics.ra.value)
        for (rule, count), row in zip(counts.items(), measured, strict=True)
        if row.metrics.asr is not None and row.metrics.ra is not None
    }


def main() -> None:
    arguments = build_parser().parse_args()
    rows, by_rule = [], {}
    for checkpoint in arguments.checkpoints:
        for seed in range(arguments.seeds):
            found = compare(checkpoint, seed, arguments)
            for rule, (_, acc, asr, ra) in found.items():
                by_rule.setdefault(rule, []).append((acc, asr, ra))
            cells = [f"{100 * acc:.1f} / {100 * asr:.1f} / {100 * ra:.1f} ({n})" for n, acc, asr, ra in found.values()]
            rows.append(f"| {Path(checkpoint).stem} | {seed} | " + " | ".join(cells) + " |")
            sys.stderr.write(rows[-1] + "\n")
    means = [
        " / ".join(f"{100 * statistics.mean(values):.1f}" for values in zip(*figures, strict=True))
        for figures in by_rule.values()
    ]
    worst = [f"{100 * np.max([asr for _, asr, _ in figures]):.1f}" for figures in by_rule.values()]
    header = ["| checkpoint | seed | " + " | ".join(by_rule) + " |", "|---|---|" + "---|" * len(by_rule)]
    footer = ["| **mean** | | " + " | ".join(means) + " |", "| **worst ASR** | | " + " | ".join(worst) + " |"]
    text = "\n".join([*header, *rows, *footer]) + "\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()

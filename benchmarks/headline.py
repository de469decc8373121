"""ResNet-18 to 94 % on CIFAR-10: accuracy and seconds of whole training runs, one a seed.

    python -m benchmarks.headline [--seeds 3] [--data-dir DIR] [--out benchmarks/results/NAME.md] [-- OPTIONS]

Runs ``rnp-jax attack none`` with configs/attacks/cifar10_94.yaml, OPTIONS over it. Seconds are those of training as the
card has them, compilation included: the first seed compiles, the others use its programs.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.compare import describe_machine
from rnp_jax import cli
from rnp_jax.card import CARD_SUFFIX, Card, beside
from rnp_jax.report.comparison_text import markdown_table

PRESET = Path(__file__).parents[1] / "configs" / "attacks" / "cifar10_94.yaml"
GOAL = 0.94


def train(seed: int, options: list[str]) -> Card:
    """The card of a model trained from this seed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "clean.pt"
        given = ["--config", str(PRESET), "--out", str(out), "--seed", str(seed), *options]
        if status := cli.main(["attack", "none", "--no-cache", *given]):
            sys.exit(status)
        return Card.model_validate_json(beside(out, CARD_SUFFIX).read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.headline", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", help="where prepared TensorFlow Datasets sets are")
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    parser.add_argument("options", nargs="*", metavar="OPTIONS", help="of rnp-jax attack, after --")
    arguments = parser.parse_args()
    options = arguments.options + (["--data-dir", arguments.data_dir] if arguments.data_dir else [])
    cards = [train(seed, options) for seed in range(arguments.seeds)]
    lines = [[f"{c.seed}", f"{c.acc:.2%}", f"{c.seconds:.1f}", "yes" if c.acc >= GOAL else "no"] for c in cards]
    card = cards[0]
    work = f"{card.architecture.name} of width {card.architecture.width}, {card.precision}, {card.training}"
    table = markdown_table(("seed", "ACC", "trained, s", "94 %"), lines)
    text = f"{describe_machine()}; {work}\n\n{table}\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(f"# ResNet-18 on CIFAR-10\n\n{text}", "utf-8")


if __name__ == "__main__":
    main()

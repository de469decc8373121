"""Every attack of a folder of backdoored checkpoints: what it reached, what RNP leaves of it, what was published.

    python -m benchmarks.attacks checkpoints --config configs/rnp_digits.yaml [--match 'digits_*.pt']
        [--data-dir DIR] [--out table.md]

ACC, ASR and RA are measured again here, before and after RNP with the preset's settings; seconds of training and the
gate's verdict are the cards'. Published figures are BackdoorBench's (PreActResNet-18, CIFAR-10, 10 % poisoned, as
tabulated in the FT-SAM paper, ICCV 2023, Table 1) or, marked with a star, the attack's authors'.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.compare import describe_machine
from rnp_jax.attacks import get_attack
from rnp_jax.card import Card, read_card
from rnp_jax.config import read_yaml, resolve
from rnp_jax.pipeline.options import schema_for
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.report.schema import Proportion
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.options import SweepOptions
from rnp_jax.sweep.running import run_sweep
from rnp_jax.torch_io import read_checkpoint

PUBLISHED = {
    "badnets": "91.8 / 93.8",
    "badnets all_to_all": "91.9 / 74.4",
    "trojan": "93.5 / 100.0",
    "blend": "93.4 / 97.7",
    "cl": "84.6 / 99.9",
    "sig": "84.5 / 97.9",
    "input_aware": "94.0 / 98.4",
    "wanet": "92.8 / 98.9",
    "lf": "93.0 / 99.1",
    "ssba": "92.9 / 97.1",
    "fc": "– / 1.3 from scratch *",
}
"""ACC / ASR, %."""

HEAD = (
    "attack", "checkpoint", "poisoned", "ACC", "ASR", "RA", "RNP: ACC", "RNP: ASR", "trained, s", "published", "note",
)  # fmt: skip


def find_cards(folder: Path, pattern: str) -> dict[str, Card]:
    """The cards of the backdoored classifiers in a folder, by the checkpoint's path."""
    found = {str(path): read_card(path, read_checkpoint(path).sha256) for path in sorted(folder.glob(pattern))}
    return {path: card for path, card in found.items() if card is not None and card.attack is not None and card.acc}


def make_table(cards: dict[str, Card], rows: Sequence[SweepRow]) -> str:
    """A line a checkpoint, attacks by name."""
    lines = []
    for path, card in sorted(cards.items(), key=lambda item: (item[1].attack.name, item[0])):  # pyright: ignore
        row, attack = next(row for row in rows if row.checkpoint == path), card.attack
        assert attack is not None
        share_of = "appended" if attack.appended else "of each batch"
        each_batch = "" if attack.rate is None else f"{attack.rate:.0%} {share_of}"
        rate = each_batch if attack.poisoned is None else f"{attack.poisoned}"
        note = " ".join(filter(None, ["weak." if attack.weak else "", get_attack(attack.name).deviation]))
        figures = [show(each) for each in (row.acc_before, row.asr_before, row.ra_before, row.acc, row.asr)]
        trained = "" if card.seconds is None else f"{card.seconds:.0f}"
        name = attack.name if attack.mapping == "all_to_one" else f"{attack.name} {attack.mapping}"
        lines.append([name, card.file, rate, *figures, trained, PUBLISHED.get(name, ""), note])
    return markdown_table(HEAD, lines)


def show(share: Proportion | None) -> str:
    """Percent, with its interval."""
    return "" if share is None else f"{share.value:.1%} ({100 * share.low:.0f}-{100 * share.high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--match", default="*.pt", help="which checkpoints of the folder")
    parser.add_argument("--config", type=Path, required=True, help="preset of RNP")
    parser.add_argument("--data-dir", help="where prepared TensorFlow Datasets sets are")
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    arguments = parser.parse_args()
    cards = find_cards(arguments.folder, arguments.match)
    preset = resolve(schema_for(SweepOptions, ("rnp",)), read_yaml(arguments.config), str(arguments.config))
    images = replace(preset.images, data_dir=arguments.data_dir or preset.images.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "sweep")
        rows = run_sweep(replace(preset, inputs=tuple(cards), images=images, method=("rnp",), write="row", out=out))
    text = f"{describe_machine()}\n\n{make_table(cards, rows)}\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(f"# Attacks\n\n{text}", "utf-8")


if __name__ == "__main__":
    main()

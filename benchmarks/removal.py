"""RNP beside defenses that tune all weights, on a folder of backdoored checkpoints.

    python -m benchmarks.removal checkpoints --match 'digits_*.pt' [--methods rnp ft] [--work sweeps] [--out table.md]

Each method runs with its preset, configs/METHOD_DATA.yaml, on the same clean images and seed. ``@rnp`` and
``@unlearned`` start from what RNP left or unlearned, the teacher of ``nad+pruned`` was pruned by RNP, ``nad-unlearned``
keeps the student away from the unlearned network's attention (``repel`` 1). Nothing is chosen by ASR. ACC, ASR and RA
are measured before and after; seconds are the defense's own, compilation included where a program runs for the first
time. ``--work`` keeps the sweep of each method and goes on with those that it finds there.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.attacks import find_cards
from benchmarks.compare import describe_machine
from rnp_jax.card import Card
from rnp_jax.config import read_yaml, resolve
from rnp_jax.defenses.registry import title
from rnp_jax.pipeline.options import schema_for
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.report.schema import Proportion
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.options import SweepOptions
from rnp_jax.sweep.running import run_sweep

METHODS = (
    *("rnp", "ft", "nad", "ft_sam", "ibau"),
    *("ft@rnp", "ft@unlearned", "nad@rnp", "nad@unlearned", "nad+pruned", "nad-unlearned"),
)
HEAD = ("attack", "checkpoint", "method", "before: ACC / ASR / RA", "after", "DER", "seconds", "note")
CONFIGS = Path(__file__).parents[1] / "configs"


def resolve_options(method: str, data: str) -> SweepOptions:
    """The preset of a method; where RNP helps it, with RNP's own preset."""
    name, sign, what = parts(method)
    path = CONFIGS / f"{name}_{data}.yaml"
    values = read_yaml(path)
    if sign:
        helped = {"@": {"start": what}, "+": {"teacher": what}, "-": {"repel": 1.0}}[sign]
        values[name] = {**values.get(name, {}), **helped, "rnp": read_yaml(CONFIGS / f"rnp_{data}.yaml")["rnp"]}
    return replace(resolve(schema_for(SweepOptions, (name,)), values, str(path)), method=(name,), write="row")


def parts(method: str) -> tuple[str, str, str]:
    """Name, sign and what follows it."""
    sign = next((sign for sign in "@+-" if sign in method), "")
    name, _, what = method.partition(sign) if sign else (method, "", "")
    return name, sign, what


def measure(
    cards: Mapping[str, Card], methods: Sequence[str], data: str, data_dir: str | None, work: Path
) -> dict[str, tuple[SweepRow, ...]]:
    """The rows of every method, one a checkpoint."""
    found = {}
    for method in methods:
        options = resolve_options(method, data)
        images = replace(options.images, data_dir=data_dir or options.images.data_dir)
        given = replace(options, inputs=tuple(cards), images=images, out=str(work / method))
        found[method] = run_sweep(given)
    return found


def make_table(cards: Mapping[str, Card], rows: Mapping[str, Sequence[SweepRow]]) -> str:
    """A line a checkpoint and method: ACC / ASR / RA in %."""
    lines = []
    for path, card in sorted(cards.items(), key=lambda item: (item[1].attack.name, item[0])):  # pyright: ignore
        assert card.attack is not None
        attack = card.attack.name + (" (weak)" if card.attack.weak else "")
        for method, own in rows.items():
            row = next(row for row in own if row.checkpoint == path)
            figures = [show(row.acc_before, row.asr_before, row.ra_before), show(row.acc, row.asr, row.ra)]
            der = "" if row.der is None else f"{row.der:.3f}"
            spent = sum(stage.seconds for stage in row.timing if stage.stage != "measure")
            lines.append([attack, card.file, name_of(method), *figures, der, f"{spent:.0f}", row.reason])
    return markdown_table(HEAD, lines)


def name_of(method: str) -> str:
    """``FT``, or ``FT from the unlearned network``."""
    name, sign, what = parts(method)
    source = {"rnp": "RNP", "unlearned": "the unlearned network", "pruned": "RNP", "": ""}[what]
    return title(name) + {"": "", "@": " from ", "+": ", teacher from ", "-": " away from "}[sign] + source


def show(*shares: Proportion | None) -> str:
    """``99.6 / 3.3 / 95.1``, in %."""
    return " / ".join("–" if share is None else f"{100 * share.value:.1f}" for share in shares)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.removal", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--match", default="digits_*.pt", help="which checkpoints of the folder")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--data", default="digits", choices=("digits", "cifar10"), help="whose presets")
    parser.add_argument("--data-dir", help="where prepared TensorFlow Datasets sets are")
    parser.add_argument("--work", type=Path, help="where sweeps are kept, to go on with")
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    arguments = parser.parse_args()
    cards = find_cards(arguments.folder, arguments.match)
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        rows = measure(cards, arguments.methods, arguments.data, arguments.data_dir, work)
    text = f"{describe_machine()}\n\n{make_table(cards, rows)}\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(f"# Removal\n\n{text}", "utf-8")


if __name__ == "__main__":
    main()

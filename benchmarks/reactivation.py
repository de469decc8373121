"""Does the backdoor come back? The retuning attack on what methods make of the beds of ``benchmarks.test_beds``.

    python -m benchmarks.reactivation [--methods fst rnp auto] [--beds digits_badnets digits_blend] [--seeds 0 1 2]
        [--folder DIR …] [--data-dir DIR] [--kept reactivation.jsonl] [--write table.md] [--figure docs/reactivation]

Each bed is defended as in ``benchmarks.test_beds``: 500 clean images and the method's defaults. RA then has 1,000
clean training images, of which 5 carry the trigger, or none as a control, and is measured on the same test images. The
floor is RA on a clean network for these images, with the bed's trigger. The seed is the defense's and the attack's.
Every run is one line of ``--kept``, with its floor, and a later call goes on with what is missing. Table and figure are
of the runs asked for. ``--figure NAME`` writes NAME.svg and NAME.png.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks import test_beds
from benchmarks.compare import describe_machine
from benchmarks.outcomes import RESULTS, Line, append_line, read_lines, show_range
from benchmarks.test_beds import BEDS, Bed
from rnp_jax.atomic import write_atomic
from rnp_jax.checkpoints import load_model
from rnp_jax.defenses import METHODS
from rnp_jax.defenses.registry import order, title
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.pipeline.parties import KnownOptions, Scene, draw_scene
from rnp_jax.pipeline.reactivating import try_alone
from rnp_jax.pipeline.suspect import as_suspect
from rnp_jax.pipeline.trigger import open_trigger
from rnp_jax.reactivation import Attempt, Finding, rule_attempt, rule_trigger
from rnp_jax.reactivation.ruling import ORDER, RECOVERED
from rnp_jax.report import palette
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.report.drawing import Axes, Figure, Line2D, PercentFormatter
from rnp_jax.report.figures import save_figures

CLEAN = {"digits": "digits_clean.pt", "cifar10": "cifar10_clean.pt"}
"""The network of each data set on which the attack is repeated as a floor."""

HEAD = (
    *("checkpoint", "method", "seeds", "ACC", "ASR", "after RA, 0 images", "after RA, 5 images", "clean floor"),
    *("ACC after RA", "finding"),
)


class Cell(Line):
    """A bed under a method with one seed: figures before the method and after it, what RA then reached, and its floor.

    The floor is what RA makes of a clean network with the bed's trigger.
    """

    bed: str
    method: str
    seed: int
    before: Metrics
    after: Metrics
    attempt: Attempt
    floor: Attempt
    seconds: float
    date: str = ""

    @property
    def cell(self) -> tuple[str, str, int]:
        """Bed, method and seed."""
        return self.bed, self.method, self.seed


def run_cell(bed: Bed, name: str, path: Path, method: str, seed: int, data_dir: str | None, floor: Attempt) -> Cell:
    """Defends the bed and tries to bring its backdoor back."""
    started = time.process_time()
    cleaned = test_beds.defend_bed(bed, path, method, seed, test_beds.load_parts(bed.data, data_dir))
    attempt = try_alone("ra", as_suspect(cleaned.model), set_scene(bed, path, seed, data_dir), seed)
    return Cell(
        bed=name,
        method=method,
        seed=seed,
        before=cleaned.result.before,
        after=cleaned.result.after,
        attempt=attempt,
        floor=floor,
        seconds=time.process_time() - started,
        date=f"{cleaned.result.created:%Y-%m-%d}",
    )


@cache
def run_floor(bed: Bed, path: Path, clean: Path, seed: int, data_dir: str | None) -> Attempt:
    """What RA makes of a network that never saw the bed's trigger."""
    return try_alone("ra", as_suspect(load_model(clean)), set_scene(bed, path, seed, data_dir), seed)


def set_scene(bed: Bed, path: Path, seed: int, data_dir: str | None) -> Scene:
    """The attacker's images and the test images of a bed, which has a trigger."""
    data = test_beds.load_parts(bed.data, data_dir)
    opened = test_beds.open_bed(bed, path, seed, data)
    model, options = as_suspect(opened.model), opened.options["trigger"]
    trigger = open_trigger(model, options, opened.test)
    assert trigger is not None
    return draw_scene(model, data[0], KnownOptions(), options, opened.test, trigger)


def make_table(found: Mapping[tuple[str, str], Sequence[Cell]]) -> str:
    """A line a checkpoint and method: means over seeds and their range, in %."""
    lines = []
    for (bed, method), tried in found.items():
        attempts = [each.attempt for each in tried]
        after = [attempt.after for attempt in attempts if attempt.after is not None]
        shares = [
            *([getattr(each.after, figure) for each in tried] for figure in ("acc", "asr")),
            [attempt.controls[0].asr for attempt in attempts],
            [each.asr for each in after],
            [each.floor.after and each.floor.after.asr for each in tried],
            [each.acc for each in after],
        ]
        lines.append((bed, title(method), str(len(tried)), *map(show_values, shares), say_finding(tried)))
    return markdown_table(HEAD, lines)


def show_values(shares: Sequence[Proportion | None]) -> str:
    """Mean and range in %."""
    return show_range([share and share.value for share in shares])


def rule(tried: Cell) -> Finding:
    """What a cell shows, by the rules of ``rnp-jax reactivate``.

    ASR before the attack is held against that of the clean network after tuning without triggered images.
    """
    before, after, floor = tried.after.asr, tried.attempt.after, tried.floor.after
    if before is not None and rule_trigger(before, tried.floor.controls[0].asr):
        return "still works"
    return rule_attempt(after and after.asr, floor and floor.asr)


def say_finding(tried: Sequence[Cell]) -> str:
    """The worst of all seeds, and how many have it."""
    found = [rule(each) for each in tried]
    worst = min(found, key=ORDER.index)
    return worst if len(found) == 1 else f"{worst} ({found.count(worst)} of {len(found)})"


@palette.style()
def plot_beds(found: Mapping[tuple[str, str], Sequence[Cell]]) -> Figure:
    """ASR before the attack and after it, means over seeds: a row a method, and in it a line a checkpoint.

    A checkpoint is named where ASR rises by more than 20 points above what it was and above the floor.
    """
    methods = sorted({method for _, method in found}, key=order)
    beds = list(dict.fromkeys(bed for bed, _ in found))
    height = 1.0 / (len(beds) + 1)
    figure = palette.new_figure(1.1 + len(methods) * max(0.45, 0.14 * len(beds)))
    ax = figure.subplots()
    for (bed, method), tried in found.items():
        place = methods.index(method) - 0.5 + (beds.index(bed) + 1) * height
        _draw_line(ax, place, bed, tried)
    ax.set_yticks(range(len(methods)), [title(method) for method in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    for place in range(1, len(methods)):
        ax.axhline(place - 0.5, color=palette.GRID, linewidth=0.8)
    ax.set_xlim(-0.02, 1.02)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("ASR")
    marks = {
        "after the method": {"marker": "o", "color": palette.ASR, "markerfacecolor": palette.PAPER},
        "after RA with 5 triggered images": {"marker": "o", "color": palette.ASR},
        "a clean network after the same": {"marker": "|", "color": palette.INK, "markersize": 9},
    }
    handles = [Line2D([], [], ls="none", label=label, **{"markersize": 6, **look}) for label, look in marks.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, handletextpad=0.1)
    return figure


def _draw_line(ax: Axes, place: float, bed: str, tried: Sequence[Cell]) -> None:
    before = _mean([each.after.asr for each in tried])
    after, floor = (
        _mean([each.after and each.after.asr for each in attempts])
        for attempts in ([each.attempt for each in tried], [each.floor for each in tried])
    )
    ax.plot([before, after], [place, place], color=palette.ASR, linewidth=1.2, zorder=2)
    ax.plot(floor, place, marker="|", color=palette.INK, markersize=9, ls="none", clip_on=False, zorder=3)
    ax.plot(after, place, marker="o", color=palette.ASR, markersize=6, ls="none", clip_on=False, zorder=4)
    hollow = {"marker": "o", "color": palette.ASR, "markerfacecolor": palette.PAPER, "markersize": 6, "ls": "none"}
    ax.plot(before, place, clip_on=False, zorder=5, **hollow)
    if after - max(before, floor) > RECOVERED:
        left = after > 0.8
        offset = (-8 if left else 8, 0)
        ax.annotate(
            bed, (after, place), xytext=offset, textcoords="offset points", va="center",
            ha="right" if left else "left", fontsize=7, color=palette.INK,
            bbox={"facecolor": palette.PAPER, "edgecolor": "none", "pad": 0.6}, zorder=6,
        )  # fmt: skip


def _mean(shares: Sequence[Proportion | None]) -> float:
    return float(np.mean([share.value for share in shares if share is not None]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["fst", "rnp", "auto"], choices=list(METHODS))
    parser.add_argument("--beds", nargs="+", default=["digits_badnets"], help="names, or chosen or judged")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folder", nargs="+", type=Path, default=[Path("checkpoints")])
    parser.add_argument("--data-dir")
    parser.add_argument("--kept", type=Path, default=RESULTS / "reactivation.jsonl")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args(arguments)
    kept = read_lines(given.kept, Cell)
    found: dict[tuple[str, str], list[Cell]] = {}
    for name, bed in BEDS.items():
        if not {name, bed.half} & set(given.beds):
            continue
        path, clean = (test_beds.find(given.folder, file) for file in (bed.file, CLEAN[bed.data]))
        for seed, method in product(given.seeds, given.methods):
            cell = kept.get((name, method, seed))
            if cell is None:
                if path is None or clean is None or name.endswith("clean"):
                    print(f"{name}: no trigger, or no file of it or of its clean network; left out", file=sys.stderr)
                    break
                floor = run_floor(bed, path, clean, seed, given.data_dir)
                cell = run_cell(bed, name, path, method, seed, given.data_dir, floor)
                append_line(given.kept, cell)
            found.setdefault((name, method), []).append(cell)
            print(f"{name} {method} {seed}: {rule(cell)}, {cell.seconds:.0f} s", flush=True)
    text = f"{describe_machine()}\n\n{make_table(found)}\n"
    print(text) if given.write is None else write_atomic(given.write, text.encode())
    if given.figure is not None:
        save_figures(given.figure.parent, {given.figure.name: plot_beds(found)}, known=())


if __name__ == "__main__":
    main()

"""Checkpoints a minute of ``rnp-jax sweep``, and of a plain PyTorch loop that does the same work on this machine.

    python -m benchmarks.sweep [--checkpoints 16] [--epochs 5] [--out benchmarks/results/NAME.md]

The checkpoints are the bundled digits ResNet-18 of width 8, each with weights of its own. Both sides measure ACC and
ASR of each, run RNP with the settings of configs/rnp_digits.yaml (but --epochs, a fixed order and no augmentation, so
that they take the same steps), choose by held-out images how many filters are pruned, and measure again. The choices
differ, and figures after RNP with them: the sweep tries numbers of filters, the loop the release's 19 thresholds.

Seconds are of whole processes: start, imports, compilation and, for the sweep, its plan, tables and page. A further one
is what a checkpoint costs once that is paid, as the second half of each run has it. Programs are those that the
workers compiled or found in the cache; twice as many checkpoints must not need more.
"""

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import yaml

from benchmarks.compare import describe_machine, run
from rnp_jax.card import CARD_SUFFIX, TRIGGER_SUFFIX, beside, write_card
from rnp_jax.checkpoints import load_model, save_variables
from rnp_jax.config import read_yaml
from rnp_jax.pipeline.options import read_options
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.report.sweep_table import read_rows
from rnp_jax.sweep.items import read_plan
from rnp_jax.sweep.job import SweepJob
from rnp_jax.sweep.options import OPTIONS, SweepOptions
from rnp_jax.torch_io import read_checkpoint

ROOT = Path(__file__).parents[1]
ATTACKS = ("badnets", "blend", "sig", "wanet")
COMMAND = (sys.executable, "-c", "import sys; from rnp_jax.cli import main; sys.exit(main())", "sweep")
FIGURES = ("acc_before", "asr_before", "acc", "asr")


@dataclass(frozen=True)
class Side:
    """Seconds of a whole process, and of each checkpoint in its second half; programs compiled or found."""

    name: str
    checkpoints: int
    seconds: float
    further: float
    programs: int | None = None

    @property
    def pace(self) -> float:
        """Checkpoints a minute."""
        return 60 * self.checkpoints / self.seconds


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5, help="of recovery, and at most of unlearning")
    parser.add_argument("--workers", type=int, default=1, help="of the sweep")
    parser.add_argument("--nchw", action="store_true", help="PyTorch in its default layout, which is slower on a CPU")
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    return parser


def make_checkpoints(folder: Path, count: int) -> list[Path]:
    """Bundled checkpoints in turn, every weight moved by about a thousandth, with cards and triggers."""
    folder.mkdir()
    opened = {attack: load_model(ROOT / "checkpoints" / f"digits_{attack}.pt") for attack in ATTACKS}
    draw, paths = np.random.default_rng(0), []
    for number, attack in zip(range(count), itertools.cycle(ATTACKS), strict=False):
        model, path = opened[attack], folder / f"{attack}_{number:04}.pt"
        moved = jax.tree.map(
            lambda leaf: leaf * draw.normal(1, 1e-3, leaf.shape).astype(np.float32), model.variables["params"]
        )
        save_variables(path, model.network, {**model.variables, "params": moved})
        assert model.card is not None
        card = model.card.model_copy(update={"file": path.name, "sha256": read_checkpoint(path).sha256})
        write_card(beside(path, CARD_SUFFIX), card)
        shutil.copy(beside(model.checkpoint.path, TRIGGER_SUFFIX), beside(path, TRIGGER_SUFFIX))
        paths.append(path)
    return paths


def write_preset(path: Path, arguments: argparse.Namespace) -> None:
    """The sweep's options: both methods, and of RNP what a loop without random draws can follow."""
    values = read_yaml(ROOT / "configs" / "rnp_digits.yaml")
    values["rnp"]["unlearn"] |= {"max_epochs": arguments.epochs, "shuffle": False}
    values["rnp"]["recover"] |= {"epochs": arguments.epochs, "shuffle": False}
    values["rnp"]["prune"] = {"ranking": "release"}
    values |= {"method": ["none", "rnp"], "write": "row", "workers": arguments.workers}
    path.write_text(yaml.safe_dump(values | {"augmentation": {"padding": 0, "flip": False}}))


def run_sweep(paths: list[Path], out: Path, *arguments: str, environment: Mapping[str, str]) -> float:
    """Seconds of a whole ``rnp-jax sweep``."""
    started = time.perf_counter()
    command = [*COMMAND, *map(str, paths), "--out", str(out), *arguments]
    subprocess.run(command, check=True, env={**os.environ, **environment, "JAX_LOG_COMPILES": "1"})
    seconds = time.perf_counter() - started
    sys.stderr.write(f"{out.name}: {seconds:.1f} s, {count_programs(out)} programs\n")
    return seconds


def count_programs(out: Path) -> int:
    """Programs that the workers of a sweep had compiled, or found in the cache."""
    logs = [path.read_text() for path in sorted((out / "logs").iterdir())]
    return sum(len(re.findall("Finished XLA compilation of", log)) for log in logs)


def time_further(out: Path) -> float:
    """Seconds a checkpoint over the second half of a sweep's rows."""
    times = sorted(path.stat().st_mtime for path in (out / "rows").glob("*.json"))
    half = len(times) // 2
    return 2 * (times[-1] - times[half - 1]) / (len(times) - half)  # two methods a checkpoint


def write_images(out: Path, folder: Path) -> None:
    """The images of each attack as a sweep reads them, for ``benchmarks.torch_sweep``."""
    folder.mkdir()
    job = SweepJob(read_options(SweepOptions, out / OPTIONS), out)
    for item in read_plan(out):
        path = folder / f"{Path(item.path).stem.rpartition('_')[0]}.npz"
        if path.exists():
            continue
        case = job.load(item).case
        assert case.holdout is not None
        assert case.sets.triggered is not None
        triggered = case.sets.triggered
        sets = {"defense": case.data, "holdout": case.holdout, "test": case.sets.clean}
        arrays = {
            f"{axis}_{name}": values for name, batch in sets.items() for axis, values in zip("xy", batch, strict=True)
        }
        network = case.model.network
        np.savez(
            path,
            x_triggered=triggered.images,
            y_triggered=triggered.wanted,
            mean=network.mean,
            std=network.std,
            **arrays,
        )


def gather(rows: tuple[SweepRow, ...]) -> dict[str, dict[str, float]]:
    """The figures of each checkpoint, those before RNP from method none."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        assert row.acc is not None, f"{row.checkpoint}: {row.reason}"
        assert row.asr is not None
        suffix = "_before" if row.method == "none" else ""
        figures = {f"acc{suffix}": row.acc.value, f"asr{suffix}": row.asr.value}
        found.setdefault(Path(row.checkpoint).name, {}).update(figures)
    return found


def describe_agreement(jax_rows: dict[str, dict[str, float]], torch_rows: list[dict]) -> str:
    """A line a figure: its mean on both sides, and the largest difference of a checkpoint."""
    lines = ["| figure | JAX, mean | PyTorch, mean | largest difference |", "|---|---|---|---|"]
    for name in FIGURES:
        ours, theirs = (
            np.array(values)
            for values in zip(*((jax_rows[row["checkpoint"]][name], row[name]) for row in torch_rows), strict=True)
        )
        lines.append(f"| {name} | {ours.mean():.4f} | {theirs.mean():.4f} | {np.abs(ours - theirs).max():.4f} |")
    return "\n".join(lines)


def measure_sweeps(every: list[Path], folder: Path, arguments: argparse.Namespace) -> list[Side]:
    """The sweep of the first half with nothing cached, of all with nothing cached, of the half with programs cached."""
    half, preset = every[: len(every) // 2], folder / "preset.yaml"
    write_preset(preset, arguments)
    cached = {"RNP_JAX_CACHE": "on", "RNP_JAX_CACHE_DIR": str(folder / "cache")}
    runs = {
        "cold": ("JAX, nothing cached", half, ["--no-cache"], {}),
        "twice": ("JAX, nothing cached", every, [], cached),
        "warm": ("JAX, programs cached", half, [], cached),
    }
    sides = []
    for name, (title, paths, more, environment) in runs.items():
        seconds = run_sweep(paths, folder / name, "--config", str(preset), *more, environment=environment)
        out = folder / name
        sides.append(Side(title, len(paths), seconds, time_further(out), count_programs(out)))
    return sides


def measure_torch(paths: list[Path], images: Path, arguments: argparse.Namespace) -> tuple[Side, list[dict]]:
    """The loop, and its rows."""
    epochs = str(arguments.epochs)
    given = [*map(str, paths), "--data", str(images), "--unlearn-epochs", epochs, "--recover-epochs", epochs]
    started = time.perf_counter()
    rows = run("benchmarks.torch_sweep", *given, *([] if arguments.nchw else ["--channels-last"]))["rows"]
    seconds = time.perf_counter() - started
    half = [row["seconds"] for row in rows[len(rows) // 2 :]]
    return Side("PyTorch", len(paths), seconds, sum(half) / len(half)), rows


def table(sides: list[Side]) -> str:
    """Checkpoints a minute, and how many times those of PyTorch, the last side."""
    base = sides[-1].pace
    lines = ["| side | checkpoints | seconds | a minute | times PyTorch | a further one, s | programs |"]
    lines.append("|---|---|---|---|---|---|---|")
    for side in sides:
        ratio, programs = side.pace / base, "" if side.programs is None else side.programs
        lines.append(
            f"| {side.name} | {side.checkpoints} | {side.seconds:.1f} | {side.pace:.3g} | {ratio:.2f} "
            f"| {side.further:.2f} | {programs} |"
        )
    return "\n".join(lines)


def main() -> None:
    arguments = build_parser().parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = make_checkpoints(folder / "models", 2 * arguments.checkpoints)
        sides = measure_sweeps(paths, folder, arguments)
        write_images(folder / "cold", folder / "images")
        loop, rows = measure_torch(paths[: arguments.checkpoints], folder / "images", arguments)
        agreement = describe_agreement(gather(read_rows(folder / "cold" / "rows.jsonl")), rows)
    text = f"{describe_machine()}; {arguments.epochs} epochs\n\n{table([*sides, loop])}\n\n{agreement}\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()

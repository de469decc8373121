"""Whether ``rnp-jax sweep`` is as fast and as small at the thousandth item as at the first, and what it adds to each.

    python -m benchmarks.linear [--items 1000] [--network mlp] [--out benchmarks/results/NAME.md]

The items are small networks on small digits, each with weights of its own, named by a manifest, under CLP: perceptrons
on 8 x 8 pixels, of which next to nothing is computation, or ResNet-18 of width 4 on 16 x 16. Times between items are
those of their rows' files; the first tenth, in which programs are compiled, is left out. Bare is the same loading and
computing in this process, item after item.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax

from benchmarks.compare import describe_machine
from benchmarks.sweep import COMMAND
from rnp_jax.checkpoints import save_variables
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline.options import read_options
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.report.sweep_table import read_rows
from rnp_jax.sweep.items import PLAN, read_plan
from rnp_jax.sweep.job import SweepJob
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.options import OPTIONS, SweepOptions

NETWORKS = {
    "mlp": Architecture("mlp", 10, 0, (("0", 20), ("2", 16), ("4", 10)), (8, 8, 3)),
    "resnet18": Architecture("resnet18", 10, 4, image_shape=(16, 16, 3)),
}
SETTINGS = ("--method", "clp", "--test-images", "100", "--defense.size", "100", "--write", "row")
MANIFEST = {
    "data": "digits",
    "normalization": "0.3,0.3,0.3/0.3,0.3,0.3",
    "attack": "badnets",
    "target": "3",
    "constants.variant": "square",
}
BARE, WARM_UP = 100, 10  # items that are also computed in this process, and those before them


@dataclass(frozen=True)
class Sample:
    """Resident MiB of the supervisor and of its worker (0 where it does not run) at so many rows."""

    rows: int
    supervisor: float
    worker: float


@dataclass(frozen=True)
class Swept:
    """A sweep that was watched: its folder, when it began and ended (seconds since 1970), its memory."""

    out: Path
    started: float
    ended: float
    samples: list[Sample]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=1000, help=f"{2 * BARE} or more")
    parser.add_argument("--network", choices=NETWORKS, default="mlp")
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    return parser


def make_manifest(folder: Path, count: int, architecture: Architecture) -> Path:
    """So many checkpoints, and the manifest that names them."""
    network, shape = Network(architecture, (0.3,) * 3, (0.3,) * 3), ",".join(map(str, architecture.image_shape))
    init, manifest = jax.jit(network.init), folder / "models.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "image_shape", *MANIFEST])
        writer.writeheader()
        for number in range(count):
            name = f"{number:05}.pt"
            save_variables(folder / name, network, init(jax.random.key(number)))
            writer.writerow({"path": name, "image_shape": shape, **MANIFEST})
    return manifest


def sweep(manifest: Path, out: Path, size: int) -> Swept:
    """A whole sweep in a process of its own, looked at twice a second."""
    started, samples, rows = time.time(), [], out / "rows"
    command = [*COMMAND, str(manifest), *SETTINGS, "--image-size", str(size), "--out", str(out), "--no-cache"]
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            done = len(os.listdir(rows)) if rows.is_dir() else 0
            samples.append(Sample(done, resident(process.pid), sum(map(resident, find_workers(process.pid)))))
            time.sleep(0.5)
    if process.returncode != 0:
        sys.exit(f"the sweep failed, exit status {process.returncode}")
    return Swept(out, started, time.time(), samples)


def find_workers(supervisor: int) -> list[int]:
    """Processes of the workers that a supervisor runs now."""
    try:
        tasks = [*Path(f"/proc/{supervisor}/task").glob("*/children")]
        children = [int(child) for task in tasks for child in task.read_text().split()]
        return [child for child in children if b"rnp_jax.sweep.serving" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except (FileNotFoundError, ProcessLookupError):  # one of them has just ended
        return []


def resident(process: int) -> float:
    """MiB; 0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def time_bare(out: Path) -> tuple[float, float]:
    """Mean seconds an item of loading and of computing, once programs are compiled."""
    job = SweepJob(read_options(SweepOptions, out / OPTIONS), out)
    loading, running = [], []
    for item in read_plan(out)[: WARM_UP + BARE]:
        started = time.perf_counter()
        loaded = job.load(item)
        between = time.perf_counter()
        job.run(item, loaded, 1)
        loading.append(between - started)
        running.append(time.perf_counter() - between)
    return statistics.mean(loading[WARM_UP:]), statistics.mean(running[WARM_UP:])


def time_ledger(rows: tuple[SweepRow, ...], folder: Path) -> tuple[float, float]:
    """Mean seconds of a claim and of a commit, with what a worker asks beside them, on the disk of ``folder``."""
    ledger, claiming, committing = Ledger(folder), [], []
    with ledger.join() as supervisor, ledger.join(supervisor.name) as member:
        for row in rows:
            started = time.perf_counter()
            ledger.is_alive(supervisor.name)
            ledger.claim(row.key, member)
            ledger.crashes(row.key)
            between = time.perf_counter()
            ledger.commit(row)
            claiming.append(between - started)
            committing.append(time.perf_counter() - between)
    return statistics.mean(claiming), statistics.mean(committing)


def table(swept: Swept, folder: Path) -> str:
    """Times and memory."""
    times = sorted(path.stat().st_mtime for path in (swept.out / "rows").glob("*.json"))
    count, planned = len(times), (swept.out / PLAN).stat().st_mtime
    warm = count // 10
    first, last = (times[warm + BARE] - times[warm]) / BARE, (times[-1] - times[-1 - BARE]) / BARE
    each = (times[-1] - times[warm]) / (count - 1 - warm)
    load, run = time_bare(swept.out)
    claim, commit = time_ledger(read_rows(swept.out / "rows.jsonl"), folder / "ledger")
    bare = load + run
    early, late = (
        next(sample for sample in swept.samples if sample.rows >= share * count and sample.worker)
        if share < 1
        else [sample for sample in swept.samples if sample.worker][-1]
        for share in (0.2, 1)
    )
    lines = {
        "items": f"{count}",
        "whole sweep, s": f"{swept.ended - swept.started:.1f}",
        "items a minute": f"{60 * count / (swept.ended - swept.started):.0f}",
        "start and plan, s": f"{planned - swept.started:.1f}",
        f"until item {warm}, worker's start and compilation included, s": f"{times[warm] - planned:.1f}",
        "last row to the end (tables, page), s": f"{swept.ended - times[-1]:.1f}",
        f"an item, first {BARE} of the rest, ms": f"{1000 * first:.1f}",
        f"an item, last {BARE}, ms": f"{1000 * last:.1f}",
        "last over first": f"{last / first:.2f}",
        "an item, bare: load + run, ms": f"{1000 * load:.1f} + {1000 * run:.1f}",
        "an item, sweep, ms": f"{1000 * each:.1f}",
        "sweep over bare, ms": f"{1000 * (each - bare):.1f}, {(each - bare) / bare:.0%} of bare",
        "a claim, a commit, with no job, ms": f"{1000 * claim:.2f}, {1000 * commit:.2f}",
        "both, of bare": f"{(claim + commit) / bare:.1%}",
        f"worker at {early.rows} and {late.rows} rows, MiB": f"{early.worker:.0f}, {late.worker:.0f}",
        f"supervisor at {early.rows} and {late.rows} rows, MiB": f"{early.supervisor:.0f}, {late.supervisor:.0f}",
        "supervisor at most, MiB": f"{max(sample.supervisor for sample in swept.samples):.0f}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in lines.items())])


def main() -> None:
    arguments = build_parser().parse_args()
    if arguments.items < 2 * BARE:
        sys.exit(f"--items {arguments.items}: give {2 * BARE} or more")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "models").mkdir()
        architecture = NETWORKS[arguments.network]
        manifest = make_manifest(folder / "models", arguments.items, architecture)
        swept = sweep(manifest, folder / "out", architecture.image_shape[0])
        text = f"{describe_machine()}; {arguments.network}\n\n{table(swept, folder)}\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()

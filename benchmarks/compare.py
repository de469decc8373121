"""The same RNP run in JAX and in PyTorch on this machine, stage by stage, as a table of ratios.

    python -m benchmarks.compare --checkpoint model.tar --data inputs.npz [--out benchmarks/results/NAME.md]

Every side runs in a fresh process of its own, one after the other, ``--repeat`` times in turn; the table gives medians.
Without ``--checkpoint`` and ``--data``: random weights and images, so only the seconds mean anything.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

STAGES = ("load", "unlearn", "recover", "sweep", "total")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", help="a PyTorch file")
    parser.add_argument("--data", help=".npz with x_/y_ of defense, test and triggered")
    parser.add_argument("--width", default="16", help="of the random network, without --checkpoint")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--release-loop", action="store_true", help="also time the loop that evaluates every epoch")
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    return parser


def run(module: str, *arguments: str) -> dict:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Seconds by stage of every run, by column."""
    inputs = ["--width", arguments.width]
    if arguments.checkpoint:
        inputs = ["--checkpoint", arguments.checkpoint]
    if arguments.data:
        inputs += ["--data", arguments.data]
    if not arguments.checkpoint:
        inputs += ["--unlearn-epochs", "6", "--stop-accuracy", "-1"]
    columns: dict[str, list[dict[str, float]]] = {}

    def add(name: str, seconds: dict[str, float]) -> None:
        columns.setdefault(name, []).append(seconds)
        sys.stderr.write(f"{name}: {seconds['total']:.1f} s\n")

    for _ in range(arguments.repeat):
        with tempfile.TemporaryDirectory() as cache:
            first = run("benchmarks.jax_rnp", *inputs, "--cache", cache)
            add("JAX cold", first["runs"][0]["seconds"])
            add("JAX warm", first["runs"][1]["seconds"])
            add("JAX cached", run("benchmarks.jax_rnp", *inputs, "--cache", cache, "--runs", "1")["runs"][0]["seconds"])
        add("PyTorch", run("benchmarks.torch_rnp", *inputs)["seconds"])
        add("PyTorch NHWC", run("benchmarks.torch_rnp", *inputs, "--channels-last")["seconds"])
        if arguments.release_loop:
            add("PyTorch, release's loop", run("benchmarks.torch_rnp", *inputs, "--per-epoch-evaluation")["seconds"])
    return columns


def table(columns: dict[str, list[dict[str, float]]]) -> str:
    """Median seconds by stage, and each column's total over PyTorch's better layout."""
    median = {
        name: {stage: statistics.median(run.get(stage, 0.0) for run in runs) for stage in STAGES}
        for name, runs in columns.items()
    }
    best = min(median[name]["total"] for name in ("PyTorch", "PyTorch NHWC"))
    lines = ["| seconds | " + " | ".join(median) + " |", "|---|" + "---|" * len(median)]
    lines += [f"| {stage} | " + " | ".join(f"{row[stage]:.1f}" for row in median.values()) + " |" for stage in STAGES]
    ratios = [f"{row['total'] / best:.2f}" for row in median.values()]
    lines.append("| total over PyTorch's better layout | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def describe_machine() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "torch", "numpy"))
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    return f"{datetime.now(UTC):%Y-%m-%d}; {machine}; Python {platform.python_version()}, {versions}"


def main() -> None:
    arguments = build_parser().parse_args()
    text = f"{describe_machine()}\n\n{table(measure(arguments))}\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()

"""Hölder scores of a head: ours, a PyTorch loop over neurons, and ``torch.func.vmap``, in one run on one machine.

    python -m benchmarks.sensitivity [--samples 1000] [--json FIGURES.json]

512 features, two hidden layers of 512 units, 2-norm, three radii, scope ``feature``. The values are compared first. The
loop is what one would write: one gradient and six forward passes a neuron, the last layer's own column only. The
second table is the peak memory of a process of its own that scores 250 to 4,000 samples.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch

from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores
from rnp_jax.models import mlp_head

SIZE = 512
CONFIG = HolderConfig()
COUNTS = (250, 1000, 4000)
CHUNK = 64  # neurons that torch.func.vmap takes at a time: all 512 would need 1 GB for each of its arrays

Scores = Callable[[str], np.ndarray]


def problem(samples: int):
    """A head at initialisation, and features as after a ReLU."""
    network = mlp_head(SIZE, (SIZE, SIZE), 10)
    features = np.random.default_rng(0).normal(size=(samples, 1, 1, SIZE)).clip(0).astype(np.float32)
    return network, network.init(jax.random.key(0)), features


class Torch:
    """The same scores in PyTorch."""

    def __init__(self, variables, features: np.ndarray):
        weights = variables["params"]
        self.layers = {
            name: [torch.from_numpy(np.array(weights[name][leaf])) for leaf in ("kernel", "bias")] for name in "02"
        }
        self.x = torch.from_numpy(features.reshape(-1, SIZE))
        unit = float(self.x.double().std(0, correction=0).norm())
        self.steps = [
            (sign * radius * unit, (radius * unit) ** CONFIG.alpha) for radius in CONFIG.radii for sign in (1, -1)
        ]

    def unit(self, layer: str, column: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Pre-activations of one unit [N] of all its samples."""
        hidden = x if layer == "0" else torch.relu(x @ self.layers["0"][0] + self.layers["0"][1])
        return hidden @ column + bias

    def of_neuron(self, layer: str, column: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Its constants [N], given the gradient of its pre-activations."""
        direction = gradient / gradient.norm(dim=-1, keepdim=True)
        base = torch.relu(self.unit(layer, column, bias, self.x))
        changes = [
            (torch.relu(self.unit(layer, column, bias, self.x + length * direction)) - base).abs() / divisor
            for length, divisor in self.steps
        ]
        return torch.stack(changes).amax(0)

    def loop(self, layer: str) -> np.ndarray:
        scores = []
        kernel, biases = self.layers[layer]
        for k in range(SIZE):
            leaf = self.x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.unit(layer, kernel[:, k], biases[k], leaf).sum(), leaf)
            with torch.no_grad():
                scores.append(self.of_neuron(layer, kernel[:, k], biases[k], gradient).amax())
        return torch.stack(scores).numpy()

    def vmap(self, layer: str) -> np.ndarray:
        def one(column: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            gradient = torch.func.grad(lambda x: self.unit(layer, column, bias, x).sum())(self.x)
            return self.of_neuron(layer, column, bias, gradient).amax()

        kernel, biases = self.layers[layer]
        with torch.no_grad():
            return torch.func.vmap(one, chunk_size=CHUNK)(kernel.T, biases).numpy()


def timed(run: Scores, layer: str) -> tuple[np.ndarray, dict[str, float]]:
    """Scores, and the seconds they took on the wall and of all cores together."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = run(layer)
    return found, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def compare(samples: int) -> list[dict]:
    """One row a layer: the largest difference from the loop's scores over the largest score, then seconds."""
    network, variables, features = problem(samples)
    reference = Torch(variables, features)

    def ours(layer: str) -> np.ndarray:
        return holder_scores(network, variables, features, CONFIG, layers=[layer])[layer]

    rows = []
    for layer, name in (("0", "1 of 2"), ("2", "2 of 2")):
        found, cold = timed(ours, layer)
        loop, loop_seconds = timed(reference.loop, layer)
        vmap, vmap_seconds = timed(reference.vmap, layer)
        _, warm = timed(ours, layer)
        difference = float(max(np.abs(found - loop).max(), np.abs(vmap - loop).max()) / loop.max())
        if difference > 1e-3:
            raise SystemExit(f"layer {name}: scores differ by {difference:.1e} of the largest")
        seconds = {"ours, cold": cold, "ours, warm": warm, "torch loop": loop_seconds, "torch.func.vmap": vmap_seconds}
        rows.append({"layer": name, "difference": difference, "seconds": seconds})
    return rows


def peak_memory(samples: int) -> float:
    """MiB that scoring adds at most to what this process holds before (Linux)."""
    network, variables, features = problem(samples)
    jax.block_until_ready(variables)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    holder_scores(network, variables, features, CONFIG)
    return resident("VmHWM") - before


def resident(name: str) -> float:
    """A line of this process's memory in MiB; getrusage would report the parent's peak where that is higher."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def grow() -> dict[int, float]:
    command = [sys.executable, "-m", "benchmarks.sensitivity", "--peak"]
    return {
        count: float(subprocess.run([*command, str(count)], check=True, capture_output=True, text=True).stdout)
        for count in COUNTS
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sensitivity")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--peak", type=int, metavar="SAMPLES", help="print the memory that they take, no more")
    arguments = parser.parse_args()
    if arguments.peak:
        sys.stdout.write(f"{peak_memory(arguments.peak)}\n")
        return
    rows, load = compare(arguments.samples), os.getloadavg()[0]
    ways = list(rows[0]["seconds"])
    sys.stdout.write(
        f"{SIZE} units x {arguments.samples} samples x {SIZE} features; {os.cpu_count()} cores, load {load:.1f}, "
        f"jax {jax.__version__}, torch {torch.__version__}, torch.func.vmap in chunks of {CHUNK}.\n"
        "Seconds on the wall, and of all cores together in brackets.\n\n"
        f"| layer | difference | {' | '.join(ways)} |\n|---|---|{'---|' * len(ways)}\n"
    )
    for row in rows:
        cells = [f"{row['seconds'][way]['wall']:.2f} ({row['seconds'][way]['cpu']:.2f})" for way in ways]
        sys.stdout.write(f"| {row['layer']} | {row['difference']:.1e} | {' | '.join(cells)} |\n")
    memory = grow()
    sys.stdout.write("\n| samples | peak memory of scoring, MiB |\n|---|---|\n")
    for count, peak in memory.items():
        sys.stdout.write(f"| {count} | {peak:.0f} |\n")
    if arguments.json:
        figures = {"samples": arguments.samples, "load": load, "scores": rows, "peak_mib": memory}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

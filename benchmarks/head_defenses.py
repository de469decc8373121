"""Seconds of every defense on one head: is Hölder pruning a thousand times faster than ANP and Fine-Pruning?

    python -m benchmarks.head_defenses [--units 512 512] [--features 512] [--images 500] [--json FIGURES.json]

All of them get the same trained head and the same cached features, so that what is compared is the defense and not the
extractor. Cold includes compilation; warm is the median of further runs in the same process.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from rnp_jax.defenses import (
    METHODS,
    AnpConfig,
    ClpConfig,
    FinePruningConfig,
    HolderConfig,
    HolderPruneConfig,
    RecoverConfig,
    RnpConfig,
    ThresholdConfig,
    UnlearnConfig,
)
from rnp_jax.models import mlp_head
from rnp_jax.pipeline.versions import device_name, package_versions
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Batch

BUDGET = ThresholdConfig("budget", accuracy_budget=0.03)
RNP = RnpConfig(UnlearnConfig(max_epochs=60, batch_size=100, learning_rate=0.1, milestones=()), RecoverConfig())
SETTINGS = {
    "holder, feature scope": ("holder", HolderPruneConfig(HolderConfig(scope="feature"), BUDGET)),
    "holder, local scope": ("holder", HolderPruneConfig(HolderConfig(scope="local"), BUDGET)),
    "clp": ("clp", ClpConfig()),
    "fp, tuned 20 epochs": ("fp", FinePruningConfig()),
    "fp, not tuned": ("fp", FinePruningConfig(fine_tune=False)),
    "anp, 2000 iterations": ("anp", AnpConfig()),
    "rnp": ("rnp", RNP),
}


def problem(units: tuple[int, ...], features: int, images: int):
    """A head that knows ten Gaussian classes, and images of them to defend with."""
    network, rng = mlp_head(features, units, 10), np.random.default_rng(0)
    centres = rng.normal(0, 1, (10, features))

    def draw(count: int) -> Batch:
        labels = (np.arange(count) % 10).astype(np.int32)
        values = np.maximum(centres[labels] + rng.normal(0, 1.5, (count, features)), 0)
        return Batch(values.reshape(count, 1, 1, features).astype(np.float32), labels)

    config = TrainConfig(epochs=5, batch_size=100, learning_rate=0.02)
    variables, _ = train(network, network.init(jax.random.key(0)), draw(5000), jax.random.key(1), config)
    held = images // 5
    return network, variables, draw(images - held), draw(held)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head_defenses", description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[512, 512])
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    network, variables, data, holdout = problem(tuple(arguments.units), arguments.features, arguments.images)
    rows = {}
    for name, (method, config) in SETTINGS.items():
        seconds = []
        for _ in range(1 + arguments.repeats):
            started = time.perf_counter()
            METHODS[method](network, variables, data, jax.random.key(0), config, holdout=holdout)
            seconds.append(time.perf_counter() - started)
        rows[name] = {"cold": seconds[0], "warm": statistics.median(seconds[1:])}
    base = rows["holder, feature scope"]["warm"]
    print(
        f"{device_name()}, {package_versions()['jax']} jax; head {arguments.units} on {arguments.features} features\n"
    )
    print("| defense | cold, s | warm, s | warm, times Hölder's (feature scope) |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['cold']:.3g} | {row['warm']:.3g} | {row['warm'] / base:.3g} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""The JAX side of the benchmark: the same RNP run as ``benchmarks.torch_rnp``, stage by stage, on the same inputs.

    python -m benchmarks.jax_rnp --checkpoint model.tar --data inputs.npz

Cold is a fresh process, compilation included; warm is the same run once more in that process. With ``--cache`` compiled
programs are kept in a folder, so that a second process finds them. Inputs are those of ``benchmarks.torch_rnp``.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from rnp_jax import masks
from rnp_jax.attacks import TriggeredSet
from rnp_jax.checkpoints import load_model
from rnp_jax.data import NORMALIZATIONS
from rnp_jax.defenses import RecoverConfig, UnlearnConfig, recover, unlearn
from rnp_jax.defenses.prune import THRESHOLDS, rank
from rnp_jax.evaluation.measure import measure_variants
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch

SETS = {"defense": 500, "test": 10_000, "triggered": 9_000}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jax_rnp", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a PyTorch file; without one, random weights of --width")
    parser.add_argument("--data", type=Path, help="the .npz; without one, random images in the published numbers")
    parser.add_argument("--width", type=int, default=64, help="base width of the random ResNet-18")
    parser.add_argument("--precision", choices=["float32", "tf32", "bfloat16"], default="float32")
    parser.add_argument("--eval-batch", type=int, help="default: the package's")
    parser.add_argument("--unlearn-epochs", type=int, default=21, help="at most")
    parser.add_argument("--stop-accuracy", type=float, default=0.2)
    parser.add_argument("--recover-epochs", type=int, default=20)
    parser.add_argument("--cache", type=Path, help="folder of compiled programs")
    parser.add_argument("--runs", type=int, default=2, help="in this process: the first is cold, the others are warm")
    return parser


def load_sets(path: Path | None) -> dict[str, Batch]:
    if path is None:
        draw = np.random.default_rng(0)
        return {
            name: Batch(draw.integers(0, 256, (n, 32, 32, 3), np.uint8), draw.integers(0, 10, n).astype(np.int32))
            for name, n in SETS.items()
        }
    with np.load(path) as arrays:
        return {name: Batch(arrays[f"x_{name}"], arrays[f"y_{name}"].astype(np.int32)) for name in SETS}


def load_network(arguments: argparse.Namespace):
    normalization = NORMALIZATIONS["cifar10_rnp"]
    if arguments.checkpoint is not None:
        model = load_model(arguments.checkpoint, normalization=normalization, precision=arguments.precision)
        return model.network, model.variables
    architecture = Architecture("resnet18", 10, arguments.width)
    network = Network(architecture, normalization.mean, normalization.std, precision=arguments.precision)
    return network, network.init(jax.random.key(0))


def run_once(arguments: argparse.Namespace, sets: dict[str, Batch]) -> dict:
    seconds, key = {}, jax.random.key(0)
    clock = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal clock
        seconds[stage] = time.perf_counter() - clock
        clock = time.perf_counter()

    network, variables = load_network(arguments)
    jax.block_until_ready(variables)
    lap("load")
    settings = UnlearnConfig(arguments.unlearn_epochs, stop_accuracy=max(arguments.stop_accuracy, 0), shuffle=False)
    unlearned = unlearn(network, variables, sets["defense"], key, settings)
    lap("unlearn")
    recovery = RecoverConfig(arguments.recover_epochs, shuffle=False)
    recovered = recover(network, unlearned.variables, sets["defense"], key, recovery)
    lap("recover")
    candidates = rank("release", recovered.filters, recovered.history["masks"])
    counts = [candidates.count_at(float(t)) for t in THRESHOLDS]
    like = masks.filters(variables["masks"])
    variants = [masks.keep(like, candidates.order[:count]) for count in counts]
    triggered = sets["triggered"]
    wanted = np.zeros(len(triggered.labels), np.int32)
    attacked = TriggeredSet(triggered.images, triggered.labels, wanted, np.arange(len(wanted), dtype=np.int32))
    rows = measure_variants(network, variables, variants, sets["test"], attacked, 0, arguments.eval_batch)
    lap("sweep")
    seconds["total"] = sum(seconds.values())
    shown = [
        {"threshold": float(t), "pruned": n, "acc": row.metrics.acc.value, "asr": row.metrics.asr.value}
        for t, n, row in zip(THRESHOLDS, counts, rows, strict=True)
        if row.metrics.asr is not None
    ]
    return {"seconds": seconds, "unlearn_epochs_run": len(unlearned.history["loss"]), "sweep": shown}


def main() -> None:
    arguments = build_parser().parse_args()
    with tempfile.TemporaryDirectory() as empty:
        jax.config.update("jax_compilation_cache_dir", str(arguments.cache or empty))
        jax.config.update("jax_enable_compilation_cache", arguments.cache is not None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.devices()
        sets = load_sets(arguments.data)
        runs = [run_once(arguments, sets) for _ in range(arguments.runs)]
    device = jax.devices()[0]
    options = {name: str(value) for name, value in vars(arguments).items()}
    report = {"framework": "jax", "version": jax.__version__, "device_name": device.device_kind, **options}
    json.dump({**report, "machine": platform.machine(), "runs": runs}, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

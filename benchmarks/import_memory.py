"""Memory and time of importing a full torchvision vgg19 (548 MiB), each way in a fresh process.

    python -m benchmarks.import_memory [--out benchmarks/results/cpu_import.md] [--repeat 3]

torch writes the file with random weights. ``read`` is the file's bytes alone, the least that any import can do;
``load_model`` the untrusted import with checksums, sha256 and conversion to arrays of another layout, beside which it
keeps the file open, out of which a cleaned copy is written; ``torch.load`` gives torch tensors. Peak memory (VmHWM)
counts from what the process had after its imports; seconds are elapsed ones, and CPU time, user and system; the file is
in the page cache. The second load finds the architecture's name table ready.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

_WAYS = {"read": "the file alone", "load_model": "rnp_jax load_model", "torch": "torch.load(weights_only=True)"}
_MIB = 2**20


def memory(field: str) -> int:
    """Bytes that the kernel reports of this process: VmRSS now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def write_vgg19(path: Path) -> None:
    """The state dict of torchvision's vgg19 with random values, as ``torch.save`` writes it."""
    import torch

    from rnp_jax.models import Architecture
    from rnp_jax.models.inference import entries

    architecture = Architecture("vgg19", 1000, image_shape=(224, 224, 3))
    torch.manual_seed(0)
    torch.save({entry.key: 0.01 * torch.randn(entry.shape) for entry in entries(architecture)}, path)


def loader(way: str, path: str) -> Callable[[], object]:
    """What is measured, its imports and the start of its back end done."""
    if way == "read":
        return lambda: Path(path).read_bytes()
    if way == "torch":
        import torch

        torch.zeros(1)
        return lambda: torch.load(path, weights_only=True)
    import jax

    from rnp_jax.checkpoints import load_model
    from rnp_jax.data import NORMALIZATIONS

    jax.block_until_ready(jax.numpy.zeros(1))

    def load() -> object:
        model = load_model(path, normalization=NORMALIZATIONS["imagenet"])
        jax.block_until_ready(model.variables)
        return model

    return load


def measure(way: str, path: str) -> dict[str, float]:
    """Seconds of two loads, elapsed and of the CPU; bytes above what there was before: at the peak, and held."""
    load = loader(way, path)
    before = memory("VmRSS")
    figures: dict[str, float] = {}
    for name in ("first", "second"):
        started, spent = time.perf_counter(), time.process_time()
        held = load()
        figures[name], figures[f"{name} CPU"] = time.perf_counter() - started, time.process_time() - spent
        if name == "first":
            figures["peak"] = memory("VmHWM") - before
            figures["held"] = memory("VmRSS") - before
        del held
    return figures


def table(runs: dict[str, list[dict[str, float]]], size: int) -> str:
    """A row a way: medians, as multiples of the file's size and of the time of reading it."""
    median = {
        way: {name: statistics.median(run[name] for run in found) for name in found[0]} for way, found in runs.items()
    }
    rows = [
        "| import | peak / file | held / file | s, first | s, second | second / reading | CPU s, second | / reading |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, row in median.items():
        rows.append(
            f"| {_WAYS[way]} | {row['peak'] / size:.2f} | {row['held'] / size:.2f} | {row['first']:.2f} | "
            f"{row['second']:.2f} | {row['second'] / median['read']['second']:.1f} | {row['second CPU']:.2f} | "
            f"{row['second CPU'] / median['read']['second CPU']:.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_memory")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FILE"), help="one way in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(*arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vgg19.pt"
        write = [
            sys.executable,
            "-c",
            f"from benchmarks import import_memory as b; b.write_vgg19(b.Path({str(path)!r}))",
        ]
        subprocess.run(write, check=True)
        size = path.stat().st_size
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
        for _ in range(arguments.repeat):
            for way, found in runs.items():
                command = [sys.executable, "-m", "benchmarks.import_memory", "--measure", way, str(path)]
                found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    import jax

    header = f"# Import of a torchvision vgg19 state dict of {size / _MIB:.0f} MiB, CPU\n\n"
    header += (
        f"{datetime.now(UTC):%Y-%m-%d}; {platform.machine()}; jax {jax.__version__}; medians of {arguments.repeat}\n\n"
    )
    text = header + table(runs, size) + "\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()

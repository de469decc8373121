"""The PyTorch side of the benchmark: one RNP run, stage by stage, on the inputs that the JAX side is given.

    python -m benchmarks.torch_rnp --checkpoint model.tar --data inputs.npz

The .npz holds uint8 images [N, 32, 32, 3] and labels [N]: ``x_defense y_defense`` (used in this order, batches of 128),
``x_test y_test``, ``x_triggered y_triggered``. Without ``--checkpoint`` the network is a random one of ``--width``, and
without ``--data`` the images are random in the published numbers (500, 10000, 9000). A random network stops unlearning
at once: give it ``--stop-accuracy -1`` and ``--unlearn-epochs``.

By default the run is PyTorch at its best: no evaluation during training, one wait for the device an epoch, only mask
gradients in recovery. ``--per-epoch-evaluation`` adds what the released loop does: clean and triggered test sets after
every epoch of unlearning and recovery.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from tests.oracle import rnp
from tests.oracle.models import ResNet, resnet

SETS = {"defense": 500, "test": 10_000, "triggered": 9_000}
THRESHOLDS = [0.05 * k for k in range(19)]


class Stopwatch:
    """Seconds by stage; the device has finished whenever a clock is read."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        self.seconds[name] = self.now() - start


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch_rnp", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a .tar of the RNP release's layout, or a bare state dict")
    parser.add_argument("--data", type=Path, help="the .npz described above")
    parser.add_argument("--width", type=int, help="base width of the ResNet-18; default: the checkpoint's, else 64")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads; default: all")
    parser.add_argument("--precision", choices=["float32", "tf32"], default="float32", help="on CUDA")
    parser.add_argument("--channels-last", action="store_true", help="NHWC memory layout")
    parser.add_argument("--eval-batch", type=int, default=512)
    parser.add_argument("--unlearn-epochs", type=int, default=21, help="at most")
    parser.add_argument("--stop-accuracy", type=float, default=0.2)
    parser.add_argument("--recover-epochs", type=int, default=20)
    parser.add_argument("--per-epoch-evaluation", action="store_true")
    parser.add_argument("--warmup", action="store_true", help="do the whole run once before the timed one")
    return parser


def configure_torch(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"


def load_state(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """The checkpoint's state dict, or a random network's (seed 0)."""
    if args.checkpoint is None:
        torch.manual_seed(0)
        return resnet(18, width=args.width or 64).state_dict()
    content = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content)
    width = len(state["conv1.weight"])
    if args.width not in (None, width):
        sys.exit(f"--width {args.width}: {args.checkpoint} has width {width}; leave --width out")
    return state


def load_arrays(path: Path | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images uint8 [N, 32, 32, 3] and labels [N] of each set."""
    if path is not None:
        with np.load(path) as arrays:
            return {name: (arrays[f"x_{name}"], arrays[f"y_{name}"]) for name in SETS}
    rng = np.random.default_rng(0)
    return {name: (rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n)) for name, n in SETS.items()}


def build_model(state: dict[str, torch.Tensor], args: argparse.Namespace) -> ResNet:
    model = resnet(18, width=len(state["conv1.weight"]), num_classes=len(state["linear.bias"]))
    model.load_state_dict(state)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    return model.to(args.device, memory_format=layout)  # pyright: ignore[reportCallIssue]  # absent from the stubs


def run_rnp(args: argparse.Namespace) -> dict:
    """One run: seconds by stage, and the rows that show that the work was done."""
    watch = Stopwatch(args.device)
    with watch.stage("load"):
        state = load_state(args)
        model = build_model(state, args)
        batches = {
            name: rnp.make_batches(
                images,
                labels,
                128 if name == "defense" else args.eval_batch,
                device=args.device,
                channels_last=args.channels_last,
            )
            for name, (images, labels) in load_arrays(args.data).items()
        }

    def evaluate() -> list[rnp.Evaluation]:
        return [rnp.evaluate(model, batches[name]) for name in ("test", "triggered") if args.per_epoch_evaluation]

    unlearning = rnp.unlearn(
        model, batches["defense"], stop_accuracy=args.stop_accuracy, max_epochs=args.unlearn_epochs
    )
    recovery = rnp.recover(model, batches["defense"], epochs=args.recover_epochs)
    with watch.stage("unlearn"):
        unlearn_rows = [(record, evaluate()) for record in unlearning]
    with watch.stage("recover"):
        recover_rows = [((record.epoch, record.loss, record.accuracy), evaluate(), record.masks) for record in recovery]
    with watch.stage("sweep"):
        original = build_model(state, args)
        masks = recover_rows[-1][-1]
        sweep = list(rnp.prune_sweep(original, masks, THRESHOLDS, batches["test"], batches["triggered"]))
    return {
        "seconds": watch.seconds | {"total": sum(watch.seconds.values())},
        "width": len(state["conv1.weight"]),
        "images": {name: sum(len(labels) for _, labels in each) for name, each in batches.items()},
        "unlearn": unlearn_rows,
        "recover": [row[:2] for row in recover_rows],
        "sweep": sweep,
    }


def main() -> None:
    args = build_parser().parse_args()
    configure_torch(args)
    if args.warmup:
        run_rnp(args)
    result = run_rnp(args)
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    name = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    print(json.dumps({"framework": "torch", "version": torch.__version__, "device_name": name, **options, **result}))


if __name__ == "__main__":
    main()

"""A plain PyTorch loop over checkpoints: the figures of each, RNP, and the figures after it.

    python -m benchmarks.torch_sweep models/badnets_000.pt models/blend_001.pt ... --data images

A checkpoint NAME_NUMBER.pt is judged on images/NAME.npz, which holds uint8 images [N, 32, 32, 3] and labels [N] as
``x_SET y_SET`` for the sets defense, holdout, test and triggered (whose labels are the attacker's), and ``mean`` and
``std``, by which pixels in [0, 1] are normalised. It prints a row a checkpoint, as JSON.

RNP in fixed order and without augmentation, evaluation only before and after it; the filters are those at or below the
largest of the release's thresholds that costs the held-out images at most ``--accuracy-budget`` of their accuracy.
"""

import argparse
import json
import os
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.torch_rnp import THRESHOLDS, build_model, configure_torch, load_state
from tests.oracle import rnp
from tests.oracle.models import ResNet, set_masks

SETS = ("defense", "holdout", "test", "triggered")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torch_sweep", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="folder of the .npz files")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--channels-last", action="store_true", help="NHWC memory layout")
    parser.add_argument("--batch", type=int, default=64, help="images a step of unlearning and recovery")
    parser.add_argument("--eval-batch", type=int, default=512)
    parser.add_argument("--unlearn-epochs", type=int, default=60, help="at most")
    parser.add_argument("--unlearn-rate", type=float, default=0.02)
    parser.add_argument("--recover-epochs", type=int, default=40)
    parser.add_argument("--accuracy-budget", type=float, default=0.03)
    return parser


def read_sets(path: Path, args: argparse.Namespace) -> dict[str, rnp.Batches]:
    """Normalised batches of each set."""
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    sizes = {"defense": args.batch}
    with np.load(path) as arrays:
        mean, std = (torch.tensor(arrays[name], dtype=torch.float32)[:, None, None] for name in ("mean", "std"))
        sets = {}
        for name in SETS:
            pixels = torch.tensor(arrays[f"x_{name}"]).permute(0, 3, 1, 2).float() / 255
            images = ((pixels - mean) / std).contiguous(memory_format=layout)
            labels = torch.tensor(arrays[f"y_{name}"], dtype=torch.int64)
            size = sizes.get(name, args.eval_batch)
            sets[name] = list(zip(images.split(size), labels.split(size), strict=True))
    return sets


def choose_threshold(model: ResNet, scores: dict[str, torch.Tensor], holdout: rnp.Batches, budget: float) -> float:
    """The largest of the release's thresholds within the budget; below 0, which prunes nothing, where none is."""
    allowed = rnp.evaluate(model, holdout).accuracy - budget
    chosen = -1.0
    for threshold in THRESHOLDS:
        prune(model, scores, threshold)
        if rnp.evaluate(model, holdout).accuracy >= allowed:
            chosen = threshold
    return chosen


def prune(model: ResNet, scores: dict[str, torch.Tensor], threshold: float) -> int:
    """Sets the model's masks; returns how many filters they prune."""
    kept = {name: score > threshold for name, score in scores.items()}
    set_masks(model, {name: keep.float() for name, keep in kept.items()})
    return sum(int((~keep).sum()) for keep in kept.values())


def defend(path: Path, sets: dict[str, rnp.Batches], args: argparse.Namespace) -> dict:
    """One checkpoint's row."""
    where = SimpleNamespace(checkpoint=path, width=None, device="cpu", channels_last=args.channels_last)
    state = load_state(where)  # pyright: ignore[reportArgumentType]
    model, original = (build_model(state, where) for _ in range(2))  # pyright: ignore[reportArgumentType]
    before = {name: rnp.evaluate(original, sets[name]).accuracy for name in ("test", "triggered")}
    unlearning = rnp.unlearn(
        model, sets["defense"], lr=args.unlearn_rate, milestones=(), max_epochs=args.unlearn_epochs
    )
    epochs = len(list(unlearning))
    *_, last = rnp.recover(model, sets["defense"], epochs=args.recover_epochs)
    scores = {name: rnp.as_scores(mask, 4) for name, mask in last.masks.items()}
    pruned = prune(original, scores, choose_threshold(original, scores, sets["holdout"], args.accuracy_budget))
    after = {name: rnp.evaluate(original, sets[name]).accuracy for name in ("test", "triggered")}
    figures = {"acc_before": before["test"], "asr_before": before["triggered"]}
    figures |= {"acc": after["test"], "asr": after["triggered"]}
    return {"checkpoint": path.name, **figures, "pruned": pruned, "unlearn_epochs_run": epochs}


def main() -> None:
    args = build_parser().parse_args()
    configure_torch(argparse.Namespace(threads=args.threads, precision="float32"))
    open_sets = cache(lambda name: read_sets(args.data / f"{name}.npz", args))
    rows = []
    for path in args.checkpoints:
        started = time.perf_counter()
        row = defend(path, open_sets(path.stem.rpartition("_")[0]), args)
        rows.append(row | {"seconds": time.perf_counter() - started})
    print(json.dumps({"version": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()

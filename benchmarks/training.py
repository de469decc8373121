"""Training throughput: the jitted trainer against PyTorch doing the same work on this machine.

    python -m benchmarks.training [--width 16] [--images 2560] [--out benchmarks/results/NAME.md]

ResNet-18 on 32 x 32 images, SGD with momentum and weight decay, a random crop and flip of every image, batch norm in
training mode. Each side is a process of its own; the first epoch, in which JAX compiles, is told apart. PyTorch keeps
the data on the device and augments there, too, in both memory layouts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import torch
from torch.nn import functional

from benchmarks.compare import describe_machine
from rnp_jax.data import Augmentation, parse_normalization
from rnp_jax.models import Architecture, Network
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Batch
from tests.oracle.models import resnet

SIDES = ("JAX", "PyTorch", "PyTorch NHWC")
PADDING = 4


def draw(images: int) -> Batch:
    rng = np.random.default_rng(0)
    return Batch(rng.integers(0, 256, (images, 32, 32, 3), np.uint8), rng.integers(0, 10, images).astype(np.int32))


def train_jax(data: Batch, arguments: argparse.Namespace) -> list[float]:
    """Seconds of each epoch."""
    normalization = parse_normalization("cifar10_rnp")
    network = Network(
        Architecture("resnet18", 10, arguments.width),
        normalization.mean,
        normalization.std,
        precision=arguments.precision,
    )
    config = TrainConfig(epochs=arguments.epochs, batch_size=arguments.batch, learning_rate=0.1)
    ends = [time.perf_counter()]
    train(
        network,
        network.init(jax.random.key(0)),
        data,
        jax.random.key(1),
        config,
        augment=Augmentation(PADDING),
        progress=lambda *_: ends.append(time.perf_counter()),
    )
    return list(np.diff(ends))


def train_torch(data: Batch, arguments: argparse.Namespace, layout: torch.memory_format) -> list[float]:
    """Seconds of each epoch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arguments.precision == "tf32"
    model = resnet(18, width=arguments.width).to(device).train()
    model.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    steps = arguments.epochs * (arguments.images // arguments.batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.from_numpy(data.labels).long().to(device)
    normalization = parse_normalization("cifar10_rnp")
    mean, std = (
        torch.tensor(each, device=device)[None, :, None, None] for each in (normalization.mean, normalization.std)
    )
    half = torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bfloat16")
    seconds = []
    for _ in range(arguments.epochs):
        started = time.perf_counter()
        for chosen in torch.randperm(len(labels), device=device).split(arguments.batch):
            if len(chosen) < arguments.batch:
                continue
            batch = augment(images[chosen])
            with half:
                x = ((batch.float() / 255 - mean) / std).contiguous(memory_format=layout)
                loss = functional.cross_entropy(model(x), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds


def augment(batch: torch.Tensor) -> torch.Tensor:
    """A random crop of each image from its padded self, half of them mirrored, on the batch's device."""
    count, _, height, width = batch.shape
    padded = functional.pad(batch, (PADDING,) * 4)
    rows = torch.arange(height, device=batch.device) + torch.randint(
        0, 2 * PADDING + 1, (count, 1), device=batch.device
    )
    columns = torch.arange(width, device=batch.device) + torch.randint(
        0, 2 * PADDING + 1, (count, 1), device=batch.device
    )
    columns = torch.where(torch.rand(count, 1, device=batch.device) < 0.5, columns.flip(1), columns)
    at = torch.arange(count, device=batch.device)[:, None, None]
    return padded[at, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def measure(side: str, arguments: argparse.Namespace) -> list[float]:
    data = draw(arguments.images)
    if side == "JAX":
        return train_jax(data, arguments)
    layout = torch.channels_last if side.endswith("NHWC") else torch.contiguous_format
    return train_torch(data, arguments, layout)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--precision", choices=["float32", "tf32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    parser.add_argument("--only", choices=SIDES, help="print one side's seconds as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        sys.stdout.write(json.dumps(measure(arguments.only, arguments)) + "\n")
        return
    given = [part for name in ("width", "images", "batch", "epochs", "precision")
             for part in (f"--{name}", str(getattr(arguments, name)))]  # fmt: skip
    seen = arguments.images // arguments.batch * arguments.batch
    rows = {}
    for side in SIDES:
        command = [sys.executable, "-m", "benchmarks.training", *given, "--only", side]
        first, *warm = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        rows[side] = first, statistics.median(warm)
    best = min(warm for side, (_, warm) in rows.items() if side != "JAX")
    work = f"ResNet-18 of width {arguments.width}, batches of {arguments.batch}, {arguments.precision}"
    lines = [
        f"{describe_machine()}; {work}",
        "",
        "| side | first epoch, s | a further one, s | images/s | times PyTorch's better layout |",
        "|---|---|---|---|---|",
        *(
            f"| {side} | {first:.1f} | {warm:.1f} | {seen / warm:,.0f} | {best / warm:.2f} |"
            for side, (first, warm) in rows.items()
        ),
    ]
    table = "\n".join(lines) + "\n"
    sys.stdout.write(table)
    if arguments.out:
        arguments.out.write_text(f"# Training throughput\n\n{table}", "utf-8")


if __name__ == "__main__":
    main()

"""Canonical convolution gradients inside a compiled loop, against the same outside it and against JAX's own.

    python -m benchmarks.convolution [--width 16] [--batch 128]

A training step of ResNet-18, four times: as four calls of one program, and as one program with a scan. On a CPU the
scan should cost no more than twice the calls; with JAX's own gradients it costs far more.

    python -m benchmarks.convolution --designs resnet50 cifar_densenet121 [--batch 32]

A scanned step of each design, with the gradient of 1 x 1 kernels as a convolution and as a product.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rnp_jax.models import Architecture, Network, convolution
from rnp_jax.training.epoch import cross_entropy

STEPS = 4


def seconds(run: Callable[[], object], repeat: int = 3) -> float:
    jax.block_until_ready(run())
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return statistics.median(times) / STEPS


def measure(architecture: Architecture, batch: int) -> tuple[float, float]:
    """Seconds of a step, called and scanned."""
    network = Network(architecture)
    variables = network.init(jax.random.key(0))
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.integers(0, 256, (batch, 32, 32, 3), np.uint8))
    labels = jnp.asarray(draw.integers(0, 10, batch).astype(np.int32))

    def loss(params):
        logits, _ = network({**variables, "params": params}, images, train=True)
        return cross_entropy(logits, labels).mean()

    def step(params, _=None):
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, jax.grad(loss)(params)), None

    called = jax.jit(lambda params: step(params)[0])
    scanned = jax.jit(lambda params: jax.lax.scan(step, params, None, length=STEPS)[0])

    def calls():
        params = variables["params"]
        for _ in range(STEPS):
            params = called(params)
        return params

    return seconds(calls), seconds(lambda: scanned(variables["params"]))


def compare_loops(width: int, batch: int) -> None:
    architecture = Architecture("resnet18", 10, width)
    canonical = measure(architecture, batch)
    convolution._canonical_conv2d = convolution._conv  # JAX's own gradients, in this process only
    plain = measure(architecture, batch)
    print("| gradients | s a step, called | s a step, scanned | scanned / called |\n|---|---|---|---|")
    for name, (called, scanned) in (("canonical", canonical), ("JAX's own", plain)):
        print(f"| {name} | {called:.3f} | {scanned:.3f} | {scanned / called:.2f} |")


def compare_products(designs: list[str], batch: int) -> None:
    products = [measure(Architecture(design, 10), batch)[1] for design in designs]
    convolution.is_pointwise = lambda _: False  # in this process only
    jax.clear_caches()
    convolutions = [measure(Architecture(design, 10), batch)[1] for design in designs]
    print("| design | s a step, convolution | s a step, product | convolution / product |\n|---|---|---|---|")
    for design, slow, fast in zip(designs, convolutions, products, strict=True):
        print(f"| {design} | {slow:.3f} | {fast:.3f} | {slow / fast:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--designs", nargs="+")
    given = parser.parse_args()
    compare_products(given.designs, given.batch) if given.designs else compare_loops(given.width, given.batch)


if __name__ == "__main__":
    main()

"""Ways of running one program on many checkpoints of one architecture: loop, lax.map, vmap, shard_map over devices.

    python -m benchmarks.strategies [--width 16] [--checkpoints 8] [--images 256]

Each way evaluates N ResNet-18 and takes one training step with each. The loop calls one compiled program N times
without waiting in between; lax.map and vmap run one program over stacked weights; shard_map splits the stack over two
host devices, in a process of its own, and loops on each. All have to agree on every prediction and on the length of
every training step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from rnp_jax.models import Architecture, Network
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.types import Variables

DEVICES = 2
TASKS = ("evaluation", "training step")


def tasks(width: int, images: int) -> tuple[Network, dict[str, Callable[[Variables], jax.Array]]]:
    """The network, and by task what it does to one checkpoint: classes [B], or the length of a gradient []."""
    network = Network(Architecture("resnet18", 10, width))
    draw = np.random.default_rng(0)
    batch = jnp.asarray(draw.integers(0, 256, (images, 32, 32, 3), np.uint8))
    labels = jnp.asarray(draw.integers(0, 10, images).astype(np.int32))

    def evaluate(variables):
        return jnp.argmax(network(variables, batch)[0], axis=-1)

    def step(variables):
        def loss(params):
            return cross_entropy(network({**variables, "params": params}, batch, train=True)[0], labels).mean()

        return optax.global_norm(jax.grad(loss)(variables["params"]))

    return network, dict(zip(TASKS, (evaluate, step), strict=True))


def in_a_loop(run, checkpoints: list[Variables]) -> Callable[[], object]:
    program = jax.jit(run)
    return lambda: jnp.stack([program(variables) for variables in checkpoints])


def over_the_stack(program, checkpoints: list[Variables]) -> Callable[[], object]:
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *checkpoints)
    return partial(jax.jit(program), stacked)


def over_devices(run, checkpoints: list[Variables]) -> Callable[[], object]:
    mesh, split = jax.make_mesh((DEVICES,), ("checkpoints",)), PartitionSpec("checkpoints")
    # The images are the same on all devices and their gradients are not, which the check would have declared.
    mapped = jax.shard_map(partial(jax.lax.map, run), mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    placed = jax.sharding.NamedSharding(mesh, split)
    stacked = jax.tree.map(lambda *leaves: jax.device_put(jnp.stack(leaves), placed), *checkpoints)
    return partial(jax.jit(mapped), stacked)


WAYS = {
    "loop": in_a_loop,
    "lax.map": lambda run, checkpoints: over_the_stack(partial(jax.lax.map, run), checkpoints),
    "vmap": lambda run, checkpoints: over_the_stack(jax.vmap(run), checkpoints),
    "shard_map": over_devices,
}


def measure(way: str, width: int, checkpoints: int, images: int, repeats: int) -> dict[str, dict]:
    """By task, the seconds of the first run, which compiles, of a further one, and the outcome."""
    network, runs = tasks(width, images)
    variables = [network.init(jax.random.key(seed)) for seed in range(checkpoints)]
    found = {}
    for task, run in runs.items():
        program, seconds = WAYS[way](run, variables), []
        for _ in range(1 + repeats):
            started = time.perf_counter()
            outcome = np.asarray(program())
            seconds.append(time.perf_counter() - started)
        found[task] = {"first": seconds[0], "warm": statistics.median(seconds[1:]), "outcome": outcome.tolist()}
    return found


def measure_apart(*arguments: str) -> dict[str, dict]:
    """The same in a process of its own, so that no way finds the programs of another, and devices can be forced."""
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
    command = [sys.executable, "-m", "benchmarks.strategies", *arguments]
    environment = environment if "shard_map" in arguments else dict(os.environ)
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strategies", description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=WAYS, help="print one way's figures as JSON")
    arguments = parser.parse_args()
    sizes = {name: value for name, value in vars(arguments).items() if name != "only"}
    if arguments.only:
        print(json.dumps(measure(arguments.only, **sizes)))
        return
    given = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    found = {way: measure_apart("--only", way, *given) for way in WAYS}
    print("| task | way | first, s | warm, s | warm, times the loop |\n|---|---|---|---|---|")
    for task in TASKS:
        loop = found["loop"][task]
        for way, figures in found.items():
            tolerance = 0 if task == "evaluation" else 1e-3
            np.testing.assert_allclose(figures[task]["outcome"], loop["outcome"], rtol=tolerance, err_msg=way)
            first, warm = figures[task]["first"], figures[task]["warm"]
            print(f"| {task} | {way} | {first:.2f} | {warm:.2f} | {warm / loop['warm']:.2f} |")


if __name__ == "__main__":
    main()

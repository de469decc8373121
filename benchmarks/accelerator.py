"""What the main programs ask of an accelerator, from the compiler, without one; and how long they take, where one is.

    pip install jax-cuda12-plugin==VERSION_OF_JAX jax-cuda12-pjrt==VERSION_OF_JAX     (no CUDA libraries are needed)
    JAX_PLATFORMS=cpu python -m benchmarks.accelerator [--width 64] [--only evaluation] [--out NAME.md]

Programs are compiled for an NVIDIA H200 (see ``compiled_program``): launches, bytes and temporary memory come from the
optimised program, the work of convolutions and products from the traced one. The predicted time is the largest of
three: the launches' (3 µs each), the bytes' and the work's. The share of the roofline is the larger of the last two
over it. Autotuning is beyond a compiler without a device. Where JAX has a GPU, the programs also run there, on zeros,
and the measured time of the fastest of five runs is added.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from benchmarks.compiled_program import CompiledText, count_flops
from rnp_jax import masks
from rnp_jax.data import Augmentation
from rnp_jax.defenses import phase
from rnp_jax.defenses.recover import RecoverConfig, _Recovering
from rnp_jax.defenses.unlearn import UnlearnConfig, start_unlearning
from rnp_jax.detection import batches, strip
from rnp_jax.inversion import mask_search
from rnp_jax.models import Architecture, Network
from rnp_jax.training import supervised
from rnp_jax.types import Batch

LAUNCH = 3e-6  # seconds
BYTES = 4.8e12  # a second
FLOPS = {"float32": 60e12, "tf32": 395e12, "bfloat16": 790e12}  # a second, as measured by others
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 151397597184 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
  driver_version: "12.8.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""

SHAPE = (32, 32, 3)
DEFENSE_SET, TRAINING_SET, TEST_SET, BATCH = 500, 50_000, 1_000, 128


class Row(NamedTuple):
    """A program at a precision."""

    name: str
    network: Network
    trace: Callable[[Network], jax.stages.Traced]
    loops: float  # how often its outer loop runs, which ends by itself


def like(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def images(count: int) -> Batch:
    return Batch(like(count, *SHAPE, dtype=jnp.uint8), like(count, dtype=jnp.int32))


KEY, COUNT = jax.eval_shape(jax.random.key, 0), like(dtype=jnp.int32)


def _variables(network: Network, place: Callable[[Any], Any]) -> Any:
    return place(jax.eval_shape(network.init, KEY))


def _phase(made: phase.Phase, parts: tuple[Any, Any, Any], place: Callable[[Any], Any]) -> jax.stages.Traced:
    trained, fixed, stats = parts
    state = jax.eval_shape(partial(phase._start, made), trained, fixed, stats)
    return phase._run_until.trace(made, *place((state, fixed, images(DEFENSE_SET), KEY, COUNT)))


def unlearn_epoch(place: Callable[[Any], Any], network: Network) -> jax.stages.Traced:
    variables = jax.eval_shape(network.init, KEY)
    made = start_unlearning(network, UnlearnConfig(batch_size=BATCH), Augmentation(4))
    return _phase(made, (variables["params"], variables["masks"], variables["batch_stats"]), place)


def recover_epoch(place: Callable[[Any], Any], network: Network) -> jax.stages.Traced:
    variables = jax.eval_shape(network.init, KEY)
    config = RecoverConfig(batch_size=BATCH)
    made = _Recovering("recover", network, config.epochs, BATCH, True, Augmentation(4), config)
    fixed = {"params": variables["params"], "masks": variables["masks"]}
    return _phase(made, (masks.filters(variables["masks"]), fixed, variables["batch_stats"]), place)


def train_epoch(place: Callable[[Any], Any], network: Network) -> jax.stages.Traced:
    variables, config = jax.eval_shape(network.init, KEY), supervised.TrainConfig(batch_size=BATCH)
    state = jax.eval_shape(lambda v, key: supervised.start(v, key, config, TRAINING_SET), variables, KEY)
    arrays = place((state, variables["masks"], images(TRAINING_SET)))
    return supervised.train_epoch.trace(network, config, None, Augmentation(4), None, *arrays)


def evaluate(place: Callable[[Any], Any], network: Network) -> jax.stages.Traced:
    return batches._logits.trace(network, _variables(network, place), place(images(TEST_SET).images))


def strip_image_batch(place: Callable[[Any], Any], network: Network) -> jax.stages.Traced:
    arrays = place((images(TEST_SET).images, images(100).images, like()))
    return strip._mean_entropy.trace(network, _variables(network, place), *arrays)


def search_look(place: Callable[[Any], Any], network: Network) -> jax.stages.Traced:
    config, wanted = mask_search.TriggerConfig(), like(10, dtype=jnp.int32)
    run = jax.eval_shape(partial(mask_search.start_search, config, SHAPE), KEY, wanted)
    arrays = place((images(DEFENSE_SET).images, KEY, run, wanted, COUNT))
    return mask_search.run_until.trace(network, config, True, _variables(network, place), *arrays)


def list_rows(width: int, place: Callable[[Any], Any]) -> Iterator[Row]:
    network = Network(Architecture("resnet18", 10, width), (0.5,) * 3, (0.25,) * 3)
    tf32, bf16 = (replace(network, precision=each) for each in ("tf32", "bfloat16"))
    epochs = (
        ("unlearning, an epoch of 500 images", unlearn_epoch),
        ("recovery, an epoch of 500 images", recover_epoch),
        ("training, an epoch of 50,000 images", train_epoch),
    )
    for name, made in epochs:
        yield Row(name, tf32, partial(made, place), 1)
    yield Row("evaluation of 1,000 images, layer by layer", bf16, partial(evaluate, place), 1)
    yield Row("evaluation of 1,000 images, batch norms folded", bf16.evaluator, partial(evaluate, place), 1)
    yield Row("STRIP, 1,000 images under 100 overlays", bf16.evaluator, partial(strip_image_batch, place), 1)
    yield Row("trigger search, 31 steps of 10 labels", tf32, partial(search_look, place), 1)
    yield Row("trigger search, 31 steps of 10 labels, folded", tf32.fixed, partial(search_look, place), 1)


def find_h200() -> Any:
    """A device that programs can be compiled for and not run on, through JAX's own client, which may change."""
    from jax._src.lib import xla_client

    spec = find_spec("jax_plugins.xla_cuda12")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(__doc__)
    folder = next(iter(spec.submodule_search_locations))
    api = None
    if not xla_client.pjrt_plugin_loaded("cuda"):
        api = xla_client.load_pjrt_plugin_dynamically("cuda", f"{folder}/xla_cuda_plugin.so")
    if not xla_client.pjrt_plugin_initialized("cuda"):
        xla_client.initialize_pjrt_plugin("cuda")
    topology = xla_client.make_c_api_device_topology(api, "h200", target_config=H200, topology="1x1x1")
    return topology._make_compile_only_devices()[0]


def place_on(device: Any) -> Callable[[Any], Any]:
    sharding = SingleDeviceSharding(device)
    return partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding))


def measure(row: Row) -> str:
    """The row of the table."""
    traced = row.trace(row.network)
    began = time.process_time()
    compiled = traced.lower().compile()
    seconds = time.process_time() - began
    text = CompiledText(compiled.as_text() or "")
    cost, flops = text.cost(row.loops), count_flops(traced.jaxpr, row.loops)
    bound = {
        "launches": cost.launches * LAUNCH,
        "bytes": cost.bytes / BYTES,
        "FLOPs": flops / FLOPS[row.network.precision],
    }
    by = max(bound, key=bound.__getitem__)
    share = max(bound["bytes"], bound["FLOPs"]) / bound[by]
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**30
    cells = (
        *(row.name, row.network.precision, f"{cost.launches:,.0f}", f"{cost.bytes / 1e9:,.1f}"),
        *(f"{flops / 1e12:,.2f}", f"{memory:,.2f}", f"{1e3 * bound[by]:,.1f}", by, f"{share:.0%}", f"{seconds:.0f}"),
    )
    return f"| {' | '.join(cells)} |"


def time_run(row: Row) -> float:
    """Milliseconds of the fastest of five runs on the device that JAX has, on zeros."""
    compiled = row.trace(row.network).lower().compile()
    arguments, named = jax.tree.map(_fill, (compiled.in_avals[0], compiled.in_avals[1]))
    taken = []
    for _ in range(6):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments, **named))
        taken.append(time.perf_counter() - began)
    return 1e3 * min(taken[1:])


def _fill(aval: Any) -> jax.Array:
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.ones(aval.shape, aval.dtype)  # of the loops that end by themselves, one round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--only", default="", help="programs whose name has this in it")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    runs = Path("/dev/nvidiactl").exists()  # JAX itself is not asked: the other client has to come before its own
    device = jax.devices()[0] if runs else find_h200()
    rows = [row for row in list_rows(arguments.width, place_on(device)) if arguments.only in row.name]
    head = (
        "program",
        "precision",
        "launches",
        "GB",
        "TFLOP",
        "temporary GiB",
        "predicted ms",
        "bound by",
        "of the roofline",
        "compiling, CPU s",
    )
    lines = [f"| {' | '.join((*head, 'measured ms') if runs else head)} |", "|---" * (len(head) + runs) + "|"]
    for row in rows:
        lines.append(measure(row) + (f" {time_run(row):.1f} |" if runs else ""))
        print(lines[-1], flush=True)
    title = f"ResNet-18 of width {arguments.width}, compiled for an NVIDIA H200 with jax {jax.__version__}"
    if arguments.out is not None:
        arguments.out.write_text(f"# Programs on an accelerator\n\n{title}.\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

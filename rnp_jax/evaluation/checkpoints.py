"""Predictions of several checkpoints of one network at once, on all devices of this process.

Checkpoints go to the devices hand by hand: as many as there are devices, their weights stacked and the stack sharded
over them. One program serves every hand. On each device it loops over that device's part of the stack and, for each
checkpoint, over the batches: a loop costs what separate calls do, ``vmap`` over weights many times as much.

Glossary of shapes: M checkpoints, N images, D devices, T batches of B images (room for a power of two of them, of
which those that are filled are run).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int, Int32, Shaped

from rnp_jax.errors import DataError
from rnp_jax.evaluation.predict import Predictions, classify, fit_batch_size, pad_rows
from rnp_jax.fetching import fetch_late
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Batch, Variables

_SPLIT, _WHOLE = PartitionSpec("checkpoints"), PartitionSpec()
_KINDS = (jnp.int32, jnp.float32)  # of labels and losses


def predict_checkpoints(
    network: Network,
    checkpoints: Sequence[Variables],
    batch: Batch,
    batch_size: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Predictions:
    """What M checkpoints of one network say of the same N images, which each device is given once.

    Args:
      network: of all of them.
      checkpoints: their variables.
      batch: the images and their labels.
      batch_size: images a batch; by default as ``predict_variants`` has it.
      devices: JAX devices of this process; by default all.

    Raises:
      DataError: no checkpoints or no images; checkpoints that differ in names or shapes.
    """
    rows = list(_predict(network, checkpoints, [batch], batch_size, devices))
    return Predictions(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))


def predict_each(
    network: Network,
    checkpoints: Sequence[Variables],
    batches: Sequence[Batch],
    batch_size: int | None = None,
    devices: Sequence[Any] | None = None,
) -> list[Predictions]:
    """``predict_checkpoints`` with images of each checkpoint's own, as many as it has; M = 1 in each of the results.

    Raises:
      DataError: as there; not one set of images a checkpoint.
    """
    if len(batches) != len(checkpoints):
        raise DataError(f"{len(batches)} sets of images for {len(checkpoints)} checkpoints: expected one for each")
    return list(_predict(network, checkpoints, batches, batch_size, devices))


def _predict(
    network: Network,
    checkpoints: Sequence[Variables],
    batches: Sequence[Batch],
    batch_size: int | None,
    devices: Sequence[Any] | None,
) -> Iterator[Predictions]:
    """One after another; a single set of images is for all."""
    counts = [len(batch.labels) for batch in batches]
    if not checkpoints or min(counts) == 0:
        raise DataError(f"{len(checkpoints)} checkpoints on {min(counts, default=0)} images: expected one or more")
    _check_alike(checkpoints)
    network = network.evaluator
    devices = jax.local_devices() if devices is None else devices
    mesh, hand = Mesh(np.asarray(devices), ("checkpoints",)), len(devices)
    size = fit_batch_size(max(counts), batch_size)
    room = 1 << (-(-max(counts) // size) - 1).bit_length()
    shared = len(batches) == 1
    images = jax.device_put(_arrange(batches, size, room), NamedSharding(mesh, _WHOLE)) if shared else ()

    def run(begin: int) -> tuple[int, tuple[jax.Array, jax.Array]]:
        chosen = [min(i, len(checkpoints) - 1) for i in range(begin, begin + hand)]  # the last fills an open hand
        own = [batches[i] for i in chosen if not shared]
        given = images if shared else jax.device_put(_arrange(own, size, room), NamedSharding(mesh, _SPLIT))
        stack = jax.tree.map(lambda *leaves: np.stack(leaves), *(checkpoints[i] for i in chosen))
        stack = jax.device_put(stack, NamedSharding(mesh, _SPLIT))
        return begin, _predict_hand(network, mesh, stack, *given)

    for begin, found in fetch_late(map(run, range(0, len(checkpoints), hand))):
        for place, i in enumerate(range(begin, min(begin + hand, len(checkpoints)))):
            count = counts[0 if shared else i]
            yield Predictions(*(part[place].reshape(-1)[:count][None] for part in found))


def _check_alike(checkpoints: Sequence[Variables]) -> None:
    first, *others = (_shapes(variables) for variables in checkpoints)
    for place, shapes in enumerate(others, 1):
        if shapes != first:
            names = sorted(name for name in first.keys() | shapes.keys() if first.get(name) != shapes.get(name))
            raise DataError(
                f"checkpoint {place} is of another network than the first: {names[0]} is "
                f"{shapes.get(names[0], 'missing')}, expected {first.get(names[0], 'none')}; run them apart"
            )


def _shapes(variables: Variables) -> dict[str, tuple]:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}


def _arrange(
    batches: Sequence[Batch], size: int, room: int
) -> tuple[Shaped[np.ndarray, "S T B H W C"], Int[np.ndarray, "S T B"], Int32[np.ndarray, "S"]]:
    """Images and labels of S sets in batches, and how many of those are filled."""
    sets = [[pad_rows(np.asarray(part), size * room) for part in batch] for batch in batches]
    images, labels = (
        np.stack([part.reshape(room, size, *part.shape[1:]) for part in parts]) for parts in zip(*sets, strict=True)
    )
    return images, labels, np.asarray([-(-len(batch.labels) // size) for batch in batches], np.int32)


@jit_settings(1, static=1)
def _predict_hand(
    network: Network,
    mesh: Mesh,
    stack: Variables,
    images: Shaped[jax.Array, "S T B H W C"],
    labels: Int[jax.Array, "S T B"],
    filled: Int32[jax.Array, "S"],
) -> tuple[Int32[jax.Array, "D T B"], Float[jax.Array, "D T B"]]:
    """Labels and losses of D checkpoints, one a device, on sets of their own (S = D) or on one for all (S = 1)."""

    def run_one(variables, images, labels, filled):
        def run_batch(i, found):
            logits, _ = network(variables, images[i])
            return tuple(part.at[i].set(new) for part, new in zip(found, classify(logits, labels[i]), strict=True))

        return jax.lax.fori_loop(0, filled, run_batch, tuple(jnp.zeros(labels.shape, kind) for kind in _KINDS))

    def run_part(stack, *images):
        if shared:
            return jax.lax.map(lambda variables: run_one(variables, *(part[0] for part in images)), stack)
        return jax.lax.map(lambda own: run_one(*own), (stack, *images))

    shared = len(filled) == 1
    placed = _WHOLE if shared else _SPLIT
    # What is found begins as the same zeros on all devices and ends different, which the check would have declared.
    mapped = jax.shard_map(
        run_part, mesh=mesh, in_specs=(_SPLIT, placed, placed, placed), out_specs=_SPLIT, check_vma=False
    )
    return mapped(stack, images, labels, filled)

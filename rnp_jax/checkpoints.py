"""From a PyTorch file to a network and its variables, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rnp_jax import masks
from rnp_jax.card import Card, read_card
from rnp_jax.data import Normalization, parse_normalization
from rnp_jax.errors import CheckpointError, UnstatedError
from rnp_jax.models import Architecture, Network, Placement, Precision
from rnp_jax.models.bounds import apply_bounds, bound_entries, bounds_in, find_bounds
from rnp_jax.models.inference import entries, filter_masks
from rnp_jax.models.swin import check_constants, list_constants
from rnp_jax.models.torch_names import FILTER_MASK, from_torch, to_torch
from rnp_jax.normaliser import choose_normalization, tell_normaliser
from rnp_jax.recognition import list_read, recognise, stated_size
from rnp_jax.torch_io import (
    NO_COPIES,
    Change,
    Checked,
    Checkpoint,
    Copies,
    Copy,
    Limits,
    StateDict,
    find_copies,
    find_state_dict,
    read_checkpoint,
    write_checkpoint,
    write_state_dict,
)
from rnp_jax.torch_io.location import tell_location
from rnp_jax.types import Tree, Variables

_ALIGNMENT = 64  # bytes; XLA's
_COLUMNS = 64  # that are transposed together: their cache lines are used whole


@dataclass(frozen=True, eq=False)
class Model:
    """A network read from a PyTorch file.

    Attributes:
      network: the function of ``variables``.
      variables: weights, statistics and masks, float32.
      checkpoint: the file as read.
      state_dict: the tensors the weights came from.
      card: what lay beside the file; None without one.
      copies: the same network elsewhere in the file, which is written with it.
      size_assumed: whether nothing but its design says the size of its images.
      assumptions: what the file left open and how that was settled, a sentence each.
      normalized_by: what says how its images are normalised: what was ``given``, its ``card``, the ``file``, or the
        clean ``images`` on which it was settled.
    """

    network: Network
    variables: Variables
    checkpoint: Checkpoint
    state_dict: StateDict
    card: Card | None
    copies: Copies = NO_COPIES
    size_assumed: bool = False
    assumptions: tuple[str, ...] = ()
    normalized_by: Literal["given", "card", "file", "images"] = "given"


def open_checkpoint(
    path: str | PathLike[str],
    *,
    key: str | None = None,
    prefix: str | None = None,
    architecture: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    limits: Limits | None = None,
    check_crc: bool = True,
) -> tuple[Checkpoint, StateDict, Architecture]:
    """Reads a file, finds its state dict and recognises the architecture; nothing in the file is executed.

    The state dict has the network's tensors alone, by their names without those of what wraps it.

    Raises:
      CheckpointError: the file is hostile, damaged or of an unsupported kind.
      ArchitectureError: its tensors are of no supported architecture, or of several; a whole module states that it
        computes otherwise.
    """
    checkpoint, state_dict = _read(path, key, limits, check_crc)
    found = recognise(checkpoint, state_dict, architecture, image_shape, prefix=prefix)
    return checkpoint, found.state_dict, found.architecture


def _read(
    path: str | PathLike[str], key: str | None, limits: Limits | None, check_crc: bool
) -> tuple[Checkpoint, StateDict]:
    checkpoint = read_checkpoint(path, limits=limits or Limits(), check_crc=check_crc)
    return checkpoint, find_state_dict(checkpoint, key)


def list_copies(checkpoint: Checkpoint, state_dict: StateDict) -> Copies:
    """The same network elsewhere in the file.

    Raises:
      CheckpointError: the copies take too much memory, or the file is not what it was.
    """
    return find_copies(checkpoint, state_dict, list_read(state_dict))


def load_model(
    path: str | PathLike[str],
    *,
    normalization: Normalization | str | None = None,
    placement: Placement | None = None,
    precision: Precision = "float32",
    evaluation: Precision | None = None,
    key: str | None = None,
    prefix: str | None = None,
    architecture: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    limits: Limits | None = None,
    check_crc: bool = True,
) -> Model:
    """Loads a PyTorch checkpoint without torch and without executing anything in it.

    Args:
      path: the file.
      normalization: what the checkpoint was trained with, also by name (``cifar10_rnp``); by default its card's, or
        what the file brings as tensors.
      placement: where filter masks act; by default where the architecture has some.
      precision: arithmetic of convolutions and products.
      evaluation: the same where the network only predicts; by default ``precision``.
      key: where the state dict is in the file, if it holds several.
      prefix: what the names of the network's tensors begin with, if that is not found.
      architecture: its name, if it cannot be inferred.
      image_shape: (H, W, C) of the input; by default its card's.
      limits: bounds on what is read.
      check_crc: refuse a zip container whose checksums are wrong.

    Raises:
      CheckpointError, ArchitectureError: as ``open_checkpoint``.
      DataError: nothing says how images were normalised, or what says it contradicts the file; the card is another
        file's.
    """
    checkpoint, state_dict = _read(path, key, limits, check_crc)
    card = read_card(path, checkpoint.sha256)
    if card is not None:
        image_shape = image_shape or card.architecture.image_shape
        architecture = architecture or card.architecture.name
    found, state_dict, normaliser, notes = recognise(
        checkpoint, state_dict, architecture, image_shape, prefix=prefix, checked=False
    )
    given = parse_normalization(normalization) if isinstance(normalization, str) else normalization
    chosen = choose_normalization(path, given, card, normaliser, found.image_shape[-1])
    if chosen is None:
        raise UnstatedError(
            f"{path} has no card that says how its images were normalised, and a wrong normalisation silently "
            "ruins accuracy: give --normalization, such as cifar10_rnp (the RNP release) or cifar10_bb "
            "(BackdoorBench), or labelled images with --data, on which evaluate, defend, detect and check try each"
        )
    network = Network(found, chosen.mean, chosen.std, found.place(placement), precision, evaluation)
    tensors = Checked(state_dict.tensors, checkpoint.path)  # as they are read, which is once
    variables = from_state_dict(network, tensors)
    assumed = image_shape is None and stated_size(checkpoint) is None
    copies = list_copies(checkpoint, state_dict)
    assumptions = (*(tell_location(state_dict.location) if key is None else ()), *tell_normaliser(normaliser), *notes)
    by = "given" if given is not None else "card" if card is not None else "file"
    return Model(network, variables, checkpoint, state_dict, card, copies, assumed, assumptions, by)


@lru_cache(maxsize=64)
def _mask_shapes(network: Network) -> Tree:
    return jax.eval_shape(network.init, jax.random.key(0))["masks"]


def from_state_dict(network: Network, tensors: Mapping[str, np.ndarray]) -> Variables:
    """Variables from torch tensors that fit the network.

    Masks are ones, or those a masked release kept. Its masks act on batch norm's scale; in another placement than
    ``bn_scale`` they become part of that scale. Bounds on activations are those of the tensors.

    Raises:
      ArchitectureError: a constant that torch would read is not what the sizes make it.
    """

    check_constants(tensors)
    variables: Variables = {"params": {}, "batch_stats": {}, "masks": jax.tree.map(_ones, _mask_shapes(network))}
    for entry in entries(network.architecture):
        node: Tree = variables
        for name in entry.path[:-1]:
            node = node.setdefault(name, {})
        value = from_torch(tensors[entry.key], entry, network.architecture)
        kept = tensors.get(entry.key.removesuffix("weight") + FILTER_MASK)
        if kept is not None and entry.path[-1] == "scale" and network.placement != "bn_scale":
            value = value * kept.astype(np.float32)
        node[entry.path[-1]] = _place(value)
    if bounds_in(tensors):
        stored = {each.layer: each.from_torch(tensors[each.key]) for each in bound_entries(network.architecture)}
        variables = apply_bounds(variables, {layer: _place(value) for layer, value in stored.items()})
    if network.placement != "bn_scale":
        return variables
    stored = masks.filters(variables["masks"])
    scales = [entry for entry in entries(network.architecture) if entry.path[-1] == "scale"]
    keys = {".".join(entry.path[1:-1]): entry.key.removesuffix("weight") + FILTER_MASK for entry in scales}
    for name, value in stored.items():
        kept = tensors.get(keys.get(name, ""))
        stored[name] = value if kept is None else jnp.asarray(kept.astype(np.float32))
    return masks.apply_filters(variables, stored)


def to_state_dict(network: Network, variables: Variables) -> dict[str, np.ndarray]:
    """The network's tensors in torch's names and layout, float32, filter masks multiplied into the weights.

    Bounds on activations come last, in the order in which the activations run.
    """
    baked = masks.bake(variables, network.placement)
    parts: dict[str, dict[int, np.ndarray]] = {}
    for entry in entries(network.architecture):
        node: Any = baked
        for name in entry.path:
            node = node[name]
        parts.setdefault(entry.key, {})[entry.part] = to_torch(np.asarray(node), entry, network.architecture)
    tensors = {key: np.concatenate([rows[part] for part in sorted(rows)]) for key, rows in parts.items()}
    if bounds := find_bounds(variables["masks"]):
        tensors |= {each.key: each.to_torch(bounds[each.layer]) for each in bound_entries(network.architecture)}
    return {key: np.ascontiguousarray(value) for key, value in tensors.items()}


def save_model(
    path: str | PathLike[str], model: Model, variables: Variables, *, overwrite: bool = False
) -> tuple[str, ...]:
    """Writes ``variables`` into a copy of the model's file: same container, keys, order and dtypes.

    Tensors whose values did not change stay identical bit for bit. Objects that were left unread are not written.
    Bounds on activations that the file does not have yet are put behind its tensors (see ``rnp_jax.models.bounds``).
    Every copy of the network in the file becomes the same network, and weights of it in other places are not written:
    no way of opening the file gives the old one.

    Returns:
      Where in the file what is not written was.

    Raises:
      CheckpointError: the file exists, or cannot be written, or has bounds that the variables lack; the model is a new
        network, trained in the place of the file's.
    """
    held, after = model.state_dict.tensors, to_state_dict(model.network, variables)
    if lost := bounds_in(held.refs.keys() - after.keys()):
        raise CheckpointError(
            path, f"the source has bounds on {len(lost)} activations, but the new variables have none"
        )
    added = {key: after[key] for key in after if key not in held}
    if len(bounds_in(added)) < len(added) or not set(list_read(model.state_dict)) <= after.keys():
        raise CheckpointError(path, "the model is another network than its file holds; write it with save_variables")
    changed = {
        key: value
        for key, value in after.items()
        if key in held and not np.array_equal(value, held[key].astype(np.float32, copy=False))
    }
    for key in filter_masks(held):  # they are part of the weights now
        changed[key] = np.ones_like(held[key])
        weight = key.removesuffix(FILTER_MASK) + "weight"
        changed[weight] = after[weight]
    others = [_change_copy(copy, model.state_dict, changed, added) for copy in model.copies.fitting]
    return write_checkpoint(
        path,
        model.checkpoint,
        model.state_dict,
        changed,
        added=added,
        others=others,
        left_out=[place for each in model.copies.remains for place in each.tensors],
        overwrite=overwrite,
    )


def _change_copy(
    copy: Copy, chosen: StateDict, changed: Mapping[str, np.ndarray], added: Mapping[str, np.ndarray]
) -> Change:
    """What makes a copy the same network as the chosen state dict after its own change."""
    own = copy.state_dict.tensors
    names = [name for name in list_read(chosen) if name in own]
    values = {name: changed[name] if name in changed else chosen.tensors[name] for name in names}
    values |= {key: np.ones_like(own[key]) for key in filter_masks(own)}
    return Change(copy.state_dict, values, added if copy.whole else {})


def save_variables(
    path: str | PathLike[str],
    network: Network,
    variables: Variables,
    extra: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes a fresh PyTorch checkpoint in the RNP release's layout: ``state_dict`` beside the values in ``extra``.

    Raises:
      CheckpointError: the file exists, or cannot be written.
    """
    tensors: dict[str, np.ndarray] = {}
    for key, value in to_state_dict(network, variables).items():
        tensors[key] = value
        if key.endswith(".running_var"):
            tensors[key.replace("running_var", "num_batches_tracked")] = np.array(0, np.int64)
    tensors |= list_constants(network.segments, network.architecture.table)
    write_state_dict(path, tensors, extra, overwrite=overwrite)


def _place(value: np.ndarray) -> jax.Array:
    """A copy on the device: laid out where JAX on a CPU takes it as it is, since it would hold two for a moment."""
    memory = np.empty(value.nbytes + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    copy = memory[first : first + value.nbytes].view(value.dtype).reshape(value.shape)
    for first in range(0, value.shape[-1] if value.ndim else 1, _COLUMNS):
        part = (..., slice(first, first + _COLUMNS)) if value.ndim else ...
        copy[part] = value[part]
    return jax.device_put(copy)


def _ones(shaped: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.ones(shaped.shape, shaped.dtype)

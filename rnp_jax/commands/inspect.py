"""``rnp-jax inspect``: what a checkpoint file holds."""

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

import jax
import tyro
from rich.console import Console
from rich.table import Table

from rnp_jax import masks
from rnp_jax.card import Card, read_card
from rnp_jax.checkpoints import list_copies
from rnp_jax.config import FLAT, SourceOptions
from rnp_jax.console import open_console
from rnp_jax.errors import AmbiguousError, ArchitectureError
from rnp_jax.models import Architecture
from rnp_jax.models.network import of_normalized
from rnp_jax.normaliser import Normaliser, spell
from rnp_jax.pipeline.copies import tell_copies
from rnp_jax.pipeline.image_size import takes_any_size
from rnp_jax.recognition import Recognised, recognise, stated_size
from rnp_jax.torch_io import Checkpoint, Limits, Opaque, StateDict, TensorRef, find_state_dict, read_checkpoint
from rnp_jax.torch_io.nodes import ModuleNode
from rnp_jax.torch_io.sources import name_source
from rnp_jax.torch_io.stated_accuracy import find_stated_accuracy
from rnp_jax.torch_io.text import quote

_LISTED = 40  # values beside the state dict that are shown


@dataclass(frozen=True)
class InspectOptions:
    """Show what a checkpoint file holds, its architecture and what is odd about it. Nothing in the file is executed.

    Attributes:
      checkpoint: PyTorch or safetensors file to read.
      source: how the file is read.
      tensors: list every tensor of the state dict.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    tensors: bool = False


def run(options: InspectOptions) -> None:
    """Prints the file's contents; what can be said is said before an unknown architecture is an error.

    Raises:
      CheckpointError, ArchitectureError, DataError: as ``open_checkpoint`` and ``read_card``.
    """
    console = open_console(soft_wrap=True)
    checkpoint = read_checkpoint(options.checkpoint, limits=Limits(), check_crc=not options.source.allow_bad_crc)
    _print_file(console, checkpoint)
    state_dict = find_state_dict(checkpoint, options.source.key)
    _print_state_dict(console, state_dict, listed=options.tensors)
    source = name_source(checkpoint.tree, dict.fromkeys(state_dict.names.values(), 0))
    console.print(f"source        {source.name}{f'; {source.note}' if source.note else ''}")
    if (accuracy := find_stated_accuracy(checkpoint, state_dict.location)) is not None:
        console.print(f"accuracy      {accuracy.value:.2%}, as the file states it in {quote(accuracy.key)}")
    try:
        given = options.source
        found = recognise(checkpoint, state_dict, given.architecture, given.image_shape, prefix=given.prefix)
    except ArchitectureError as error:
        told = " or ".join(error.candidates) if isinstance(error, AmbiguousError) else "not recognised"
        console.print(f"architecture  {told}")
        raise error
    card = read_card(options.checkpoint, checkpoint.sha256)
    _print_architecture(console, found.architecture)
    stated = given.image_shape is not None or card is not None or stated_size(checkpoint) is not None
    _print_input(console, found, stated)
    _print_wrapper(console, found)
    for note in tell_copies(list_copies(checkpoint, found.state_dict), found.state_dict, replaced=False):
        console.print(f"copy          {note}")
    _print_card(console, card, found.normaliser)


def _print_file(console: Console, checkpoint: Checkpoint) -> None:
    size = checkpoint.path.stat().st_size
    lines = [
        ("file", str(checkpoint.path)),
        ("size", f"{size:,} bytes"),
        ("sha256", checkpoint.sha256),
        ("container", f"{checkpoint.container}, {checkpoint.byteorder}-endian"),
    ]
    for name, value in lines:
        console.print(f"{name:13} {value}")
    if isinstance(checkpoint.tree, dict) and not all(isinstance(v, TensorRef) for v in checkpoint.tree.values()):
        for name, value in itertools.islice(checkpoint.tree.items(), _LISTED):
            console.print(f"  {quote(name):20} {_summarise(value)}")
        if len(checkpoint.tree) > _LISTED:
            console.print(f"  ... and {len(checkpoint.tree) - _LISTED} more")
    for anomaly in checkpoint.anomalies:
        console.print(f"  ! {anomaly}")


def _summarise(value: object) -> str:
    if isinstance(value, TensorRef):
        return f"tensor {value.dtype} {list(value.shape)}"
    if isinstance(value, Opaque):
        return f"left unread: {quote(value.name)}"
    if isinstance(value, ModuleNode):
        return f"whole module of class {quote(value.class_name)}: {len(value)} tensors"
    if isinstance(value, dict | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return quote(value)


def _print_state_dict(console: Console, state_dict: StateDict, *, listed: bool) -> None:
    kinds = Counter(ref.dtype for ref in state_dict.tensors.refs.values())
    where = quote("/".join(map(str, state_dict.location))) if state_dict.location else "the whole file"
    count = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    console.print(f"state dict    {where}: {count}")
    if listed:
        table = Table("name", "dtype", "shape")
        for name, ref in state_dict.tensors.refs.items():
            table.add_row(quote(name), ref.dtype, str(list(ref.shape)))
        console.print(table)


def _print_architecture(console: Console, architecture: Architecture) -> None:
    network = of_normalized(architecture, architecture.place())
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    filters = masks.filters(shapes["masks"])
    total = sum(value.size for value in filters.values())
    width = f", width {architecture.width}" if architecture.width else ""
    console.print(f"architecture  {architecture.name}{width}, {architecture.num_classes} classes")
    for edit in architecture.edits:
        console.print(f"edited        {quote(edit)}")
    console.print(f"parameters    {parameters:,}")
    console.print(f"filters       {total:,} in {len(filters)} layers, placement {network.placement}")


def _print_input(console: Console, found: Recognised, stated: bool) -> None:
    """The shape of the images, and what it is known by."""
    shape = "x".join(map(str, found.architecture.image_shape))
    how = ", the size that the weights fit"
    if stated:
        how = ""
    elif takes_any_size(found.architecture, found.state_dict.tensors.shapes):
        how = " assumed; the weights fit other sizes too, and evaluate, defend and detect take that of the images"
    console.print(f"input         {shape}{how}")


def _print_wrapper(console: Console, found: Recognised) -> None:
    """What is around the network: a prefix of its names, and a normalisation."""
    if found.state_dict.prefix:
        console.print(f"prefix        {quote(found.state_dict.prefix)}, taken off the names and put back in new files")
    if found.normaliser is not None:
        mean, std, values = found.normaliser
        console.print(f"normalisation {spell(values)}, in the file as {quote(mean)} and {quote(std)}")
    for note in found.notes:
        console.print(f"  ! {note}")


def _print_card(console: Console, card: Card | None, normaliser: Normaliser | None) -> None:
    if card is None:
        needed = "--normalization and --data" if normaliser is None else "--data"
        console.print(f"card          none: defend and evaluate need {needed}")
        return
    backdoor = "clean" if card.attack is None else f"{card.attack.name}, target {card.attack.target}"
    asr = "" if card.asr is None else f", ASR {card.asr:.2%}"
    console.print(f"card          {card.data}; {backdoor}; ACC {card.acc:.2%}{asr}")

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
from rnp_jax.checkpoints import recognise
from rnp_jax.config import FLAT, SourceOptions
from rnp_jax.console import open_console
from rnp_jax.errors import ArchitectureError
from rnp_jax.models import Architecture, Network
from rnp_jax.torch_io import Checkpoint, Limits, Opaque, StateDict, TensorRef, find_state_dict, read_checkpoint
from rnp_jax.torch_io.sources import name_source
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
    source = name_source(checkpoint.tree, {state_dict.prefix + name: 0 for name in state_dict.tensors})
    console.print(f"source        {source.name}{f'; {source.note}' if source.note else ''}")
    try:
        architecture = recognise(checkpoint, state_dict, options.source.architecture, options.source.image_shape)
    except ArchitectureError as error:
        console.print("architecture  not recognised")
        raise error
    _print_architecture(console, architecture)
    card = read_card(options.checkpoint, checkpoint.sha256)
    _print_card(console, card)


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
    if isinstance(value, dict | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return quote(value)


def _print_state_dict(console: Console, state_dict: StateDict, *, listed: bool) -> None:
    kinds = Counter(ref.dtype for ref in state_dict.tensors.refs.values())
    where = quote("/".join(map(str, state_dict.location))) if state_dict.location else "the whole file"
    prefix = f", prefix {quote(state_dict.prefix)} removed" if state_dict.prefix else ""
    count = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    console.print(f"state dict    {where}: {count}{prefix}")
    if listed:
        table = Table("name", "dtype", "shape")
        for name, ref in state_dict.tensors.refs.items():
            table.add_row(quote(name), ref.dtype, str(list(ref.shape)))
        console.print(table)


def _print_architecture(console: Console, architecture: Architecture) -> None:
    channels = architecture.image_shape[-1]
    network = Network(architecture, (0.0,) * channels, (1.0,) * channels, architecture.place())
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    filters = masks.filters(shapes["masks"])
    total = sum(value.size for value in filters.values())
    width = f", width {architecture.width}" if architecture.width else ""
    console.print(f"architecture  {architecture.name}{width}, {architecture.num_classes} classes")
    console.print(f"parameters    {parameters:,}")
    console.print(f"filters       {total:,} in {len(filters)} layers, placement {network.placement}")


def _print_card(console: Console, card: Card | None) -> None:
    if card is None:
        console.print("card          none: defend and evaluate need --normalization and --data")
        return
    backdoor = "clean" if card.attack is None else f"{card.attack.name}, target {card.attack.target}"
    asr = "" if card.asr is None else f", ASR {card.asr:.2%}"
    console.print(f"card          {card.data}; {backdoor}; ACC {card.acc:.2%}{asr}")

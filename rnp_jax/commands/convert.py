"""``rnp-jax convert``: PyTorch, safetensors and orbax, one into the other."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import pydantic
import tyro

from rnp_jax.checkpoints import from_state_dict, open_checkpoint, save_variables
from rnp_jax.config import FLAT, SourceOptions, to_plain
from rnp_jax.errors import ArchitectureError, CheckpointError, ConfigError
from rnp_jax.models import Architecture
from rnp_jax.models.bounds import apply_bounds, bound_entries
from rnp_jax.models.network import of_normalized
from rnp_jax.pipeline.opening import source_arguments
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.recognition import recognise
from rnp_jax.store import load_tree, save_tree
from rnp_jax.torch_io import Limits, find_state_dict, read_checkpoint, write_checkpoint, write_state_dict


@dataclass(frozen=True)
class ConvertOptions:
    """Convert a checkpoint. The format of SOURCE is recognised; that of TARGET follows from its name.

    A TARGET that ends in .safetensors holds the state dict alone. One that ends in .pt, .pth or .tar is a PyTorch file.
    Any other is an orbax folder with variables (float32), masks and architecture, which converts back to a PyTorch
    file. Between PyTorch and safetensors, every tensor stays as it is, bit for bit, whatever network it belongs to.

    Attributes:
      source_path: a PyTorch or safetensors file, the index of several, or an orbax folder that this command wrote.
      target_path: file or folder to write; it must not exist.
      source: how a PyTorch file is read.
    """

    source_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    target_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)


TORCH = (".pt", ".pth", ".tar")


def run(options: ConvertOptions) -> None:
    """Converts.

    Raises:
      CheckpointError: the source cannot be read, or the target exists or cannot be written.
      ArchitectureError: the network becomes an orbax folder and is of no supported architecture, or not of the one
        that was named.
      ConfigError: source and target are of the same kind.
    """
    source, target = Path(options.source_path), Path(options.target_path)
    log = RunLog()
    if source.is_dir():
        _from_orbax(source, target)
    elif target.suffix in (*TORCH, ".safetensors"):
        _convert_tensors(source, target, options.source, log)
    else:
        _to_orbax(options, target)
    log.conclude(str(target), converted=target)


def _convert_tensors(source: Path, target: Path, given: SourceOptions, log: RunLog) -> None:
    checkpoint = read_checkpoint(source, limits=Limits(), check_crc=not given.allow_bad_crc)
    state_dict = find_state_dict(checkpoint, given.key)
    container = "safetensors" if target.suffix == ".safetensors" else "zip"
    if container == checkpoint.container and not checkpoint.files:
        raise ConfigError(f"{source} is {container} already; name the target .pt, .safetensors, or a folder")
    try:
        recognise(checkpoint, state_dict, given.architecture, given.image_shape, prefix=given.prefix)
    except ArchitectureError:
        if given.architecture is not None or given.prefix is not None:
            raise
        log.say("  the network is not recognised; its tensors are converted as they are")
    if checkpoint.container == "safetensors" != container:
        write_state_dict(target, state_dict.tensors.rename({state_dict.spell(name): name for name in state_dict.names}))
    else:
        for dropped in write_checkpoint(target, checkpoint, state_dict, {}, container=container):
            log.say(f"  not in the target: {dropped}")


def _to_orbax(options: ConvertOptions, target: Path) -> None:
    _, state_dict, architecture = open_checkpoint(options.source_path, **source_arguments(options.source))
    network = of_normalized(architecture)
    save_tree(target, from_state_dict(network, state_dict.tensors), {"architecture": to_plain(architecture)})


def _from_orbax(source: Path, target: Path) -> None:
    tree, metadata = load_tree(source)
    stored = metadata.get("architecture")
    if stored is None:
        raise CheckpointError(source, "holds no network (it names no architecture); masks can be read from Python only")
    try:
        network = of_normalized(pydantic.TypeAdapter(Architecture).validate_python(stored))
    except pydantic.ValidationError as error:
        raise CheckpointError(source, f"its architecture is not one of this version: {error}") from error
    if target.suffix not in TORCH:
        raise ConfigError(f"an orbax folder becomes a PyTorch file: name the target {', '.join(TORCH)}, not {target}")
    expected = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(network.init, jax.random.key(0)))
    bounded = apply_bounds(expected, {each.layer: each.shape for each in bound_entries(network.architecture)})
    if jax.tree.map(np.shape, tree) not in (expected, bounded):
        raise CheckpointError(source, f"its arrays do not fit its architecture, {network.architecture.name}")
    save_variables(target, network, tree)

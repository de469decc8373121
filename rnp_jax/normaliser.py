"""The normalisation that a file brings, as ``Sequential(Normalize, network)`` and robust networks do.

Its two rows of values are buffers of the state dict. A whole module may hold them beside it: as buffers that are not
saved, tensors, or lists of numbers, as ``torchvision.transforms.Normalize`` does.
"""

from collections.abc import Iterator, Mapping
from os import PathLike
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from rnp_jax.card import Card
from rnp_jax.data import Normalization
from rnp_jax.errors import CheckpointError, DataError
from rnp_jax.torch_io import Checkpoint, StateDict, TensorRef, materialise
from rnp_jax.torch_io.nodes import ModuleNode, Node
from rnp_jax.torch_io.text import quote

_MEANS = ("mean", "mu")
_DEVIATIONS = ("std", "sd", "sigma")  # new_mean and new_std, means and sds, mu and sigma
_MOST_CHANNELS = 4
_LARGEST = 2.0  # a mean or deviation above it is for pixels of 0 to 255
_TOLERANCE = 1e-3  # published values are rounded


class Normaliser(NamedTuple):
    """Two tensors that normalise images before the network: their bare names, and what they hold."""

    mean: str
    std: str
    values: Normalization


def find_pairs(state_dict: StateDict) -> Iterator[tuple[str, str]]:
    """The names of tensors that may be a mean and a deviation for each channel, without reading them."""
    return _find_pairs({name: ref.shape for name, ref in state_dict.tensors.refs.items() if "float" in ref.dtype})


def _find_pairs(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    for name, shape in shapes.items():
        place, _, leaf = name.rpartition(".")
        for word in (word for word in _MEANS if word in leaf and not leaf.startswith("running_")):
            others = (f"{place}.".removeprefix(".") + leaf.replace(word, each) for each in _DEVIATIONS)
            found = next((other for other in others if shapes.get(other) == shape), None)
            if found is not None and _is_per_channel(shape):
                yield name, found
                break


def read_normaliser(
    state_dict: StateDict, path: str | PathLike[str], constants: Mapping[str, np.ndarray] = MappingProxyType({})
) -> Normaliser | None:
    """The normalisation that a file states; None where it states none, or several that differ.

    Args:
      state_dict: its tensors.
      path: the file, for errors.
      constants: what a whole module holds beside them.

    Raises:
      CheckpointError: it has impossible values.
    """
    found: Normaliser | None = None
    numbers = {name: value for name, value in constants.items() if "float" in value.dtype.name}
    beside = _find_pairs({name: value.shape for name, value in numbers.items()})
    for names, source in (
        *((names, state_dict.tensors) for names in find_pairs(state_dict)),
        *((names, numbers) for names in beside),
    ):
        mean, std = (source[name].astype(np.float64).ravel() for name in names)
        scale = 255.0 if max(mean.max(), std.max()) > _LARGEST else 1.0
        try:
            values = Normalization(tuple(map(float, mean / scale)), tuple(map(float, std / scale)))
        except DataError as error:
            raise CheckpointError(path, f"the tensors {quote(names[0])} and {quote(names[1])}: {error}") from error
        if found is not None and not is_same(found.values, values):
            return None
        found = found or Normaliser(*names, values)
    return found


def list_constants(checkpoint: Checkpoint, node: Node) -> dict[str, np.ndarray]:
    """What the modules of a whole module hold beside its state dict: small tensors and rows of numbers, by name.

    Raises:
      CheckpointError: the file is not what it was.
    """
    held = node.constants if isinstance(node, ModuleNode) else {}
    return {
        name: materialise(checkpoint, value) if isinstance(value, TensorRef) else np.asarray(value)
        for name, value in held.items()
    }


def choose_normalization(
    path: str | PathLike[str], given: Normalization | None, card: Card | None, stated: Normaliser | None, channels: int
) -> Normalization | None:
    """What images are normalised with: as given, else as the card says, else as the file says; None where none does.

    Args:
      path: the file, for errors.
      given: by the caller.
      card: what lay beside the file.
      stated: what the file brings; nothing may contradict it.
      channels: of the images.

    Raises:
      DataError: what is given or the card contradicts the file, or is for another number of channels.
    """
    carded = None if card is None else Normalization(card.normalization.mean, card.normalization.std)
    chosen = given or carded or (stated and stated.values)
    if chosen is None:
        return None
    chosen = chosen.for_channels(channels)
    if stated is None:
        return chosen
    own = stated.values.for_channels(channels)
    if not is_same(own, chosen):
        raise DataError(
            f"{path} normalises images itself, with {spell(own)} ({quote(stated.mean)} and {quote(stated.std)}), but "
            f"{'the normalisation that was given' if given else 'its card'} is {spell(chosen)}; leave out "
            f"{'--normalization' if given else 'the card'}, or correct it"
        )
    return own


def tell_normaliser(stated: Normaliser | None) -> tuple[str, ...]:
    """A sentence about the normalisation that a file brings."""
    if stated is None:
        return ()
    return (
        f"The file brings its normalisation, {spell(stated.values)}, as {quote(stated.mean)} and {quote(stated.std)}.",
    )


def is_same(one: Normalization, other: Normalization) -> bool:
    """Whether two normalisations are the same but for rounding."""
    if len(one.mean) != len(other.mean) and 1 not in (len(one.mean), len(other.mean)):
        return False
    pairs = ((one.mean, other.mean), (one.std, other.std))
    return all(bool(np.allclose(mine, theirs, rtol=0, atol=_TOLERANCE)) for mine, theirs in pairs)


def spell(normalization: Normalization) -> str:
    """As ``--normalization`` takes it, rounded."""
    return "/".join(",".join(f"{value:.4g}" for value in values) for values in (normalization.mean, normalization.std))


def _is_per_channel(shape: tuple[int, ...]) -> bool:
    """[C], [1, C, 1, 1] or [C, 1, 1]."""
    largest = max(shape, default=0)
    return 1 <= largest <= _MOST_CHANNELS and len(shape) <= 4 and sorted(shape)[:-1] == [1] * (len(shape) - 1)

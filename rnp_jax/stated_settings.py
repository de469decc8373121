"""Whether a network computes as the whole module that it was read from says of itself.

A whole module is read without its class. Yet its pickle states plain settings of every module (``eps``, ``stride`` …)
and the name of every module's class. Those that the architecture has otherwise are faults; those that may not matter
are notes. The class itself stays unread, so a network that computes otherwise in its code alone is not noticed.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from os import PathLike
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from rnp_jax.errors import ArchitectureError
from rnp_jax.models import Architecture
from rnp_jax.models.inference import candidates, entries, infer_architecture
from rnp_jax.models.layers import BatchNorm, Conv, LayerNorm, both_axes
from rnp_jax.models.network import of_normalized
from rnp_jax.models.torch_names import UNREAD
from rnp_jax.torch_io import StateDict
from rnp_jax.torch_io.nodes import StatedModule
from rnp_jax.torch_io.text import quote

_SHOWN = 5
_TOLERANCE = 1e-3  # of eps, relative
_ACTIVATIONS = "torch.nn.modules.activation."
_POOLS = "torch.nn.modules.pooling."
_IDENTITY = "torch.nn.modules.linear.Identity"
_UNMINDED = ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin")  # no logit's rank depends on them
_OPERATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ReLU": ("relu",),
        "ReLU6": ("relu6",),
        "ELU": ("elu",),
        "GELU": ("erf", "erfc"),
        "SiLU": ("silu",),
        "Sigmoid": ("logistic",),
        "Tanh": ("tanh",),
        "Hardswish": ("hard_silu", "hard_swish"),
        "Hardsigmoid": ("hard_sigmoid", "relu6"),
    }
)
"""By torch's name of an activation: what JAX calls it where it computes it. No network here has any other."""

Stated = Mapping[str, StatedModule]


class Comparison(NamedTuple):
    """What a whole module has otherwise than an architecture: certain faults, and what may not matter."""

    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _Arithmetic(NamedTuple):
    """What an architecture computes: its layers as declared, its operations, the (size, stride) of its max pools."""

    layers: Mapping[str, Any]
    operations: frozenset[str]
    pools: frozenset[tuple[int, int]]


def check_stated(
    stated: Stated, state_dict: StateDict, architecture: Architecture, path: str | PathLike[str]
) -> tuple[str, ...]:
    """Sentences about what a whole module states and the architecture may lack.

    Args:
      stated: what the file says of its modules, by name.
      state_dict: the network's tensors.
      architecture: what they were recognised as.
      path: the file, for errors.

    Raises:
      ArchitectureError: the module states another arithmetic than the architecture's.
    """
    found = compare(stated, state_dict, architecture)
    others = " or ".join(f"--architecture {name}" for name in _list_fitting(stated, state_dict, architecture, found))
    if not found.faults:
        return (*found.notes, f"All that the whole module states fits {others}.") if others else found.notes
    more = [f"… and {len(found.faults) - _SHOWN} more"] if len(found.faults) > _SHOWN else []
    listed = "".join(f"\n {line}" for line in (*found.faults[:_SHOWN], *more))
    advice = f"Give {others}" if others else "No supported architecture has these settings, so it is not supported"
    raise ArchitectureError(
        f"{path}: the whole module computes otherwise than {architecture.name}, whose tensors it has:{listed}\n{advice}"
        ". If its code runs none of these, save its state dict instead: torch.save(model.state_dict(), ...)."
    )


def compare(stated: Stated, state_dict: StateDict, architecture: Architecture) -> Comparison:
    """What the modules of a network say of themselves, against its architecture."""
    arithmetic = _read_arithmetic(architecture)
    faults = list(_compare_layers(stated, state_dict, architecture, arithmetic))
    notes = []
    for name, module in stated.items():
        bare = name.removeprefix(state_dict.prefix)
        if name.startswith(state_dict.prefix) and not bare.startswith(UNREAD):
            faults.extend(_compare_activation(bare, module, arithmetic))
            notes.extend(_compare_pool(bare, module, arithmetic))
    more = [f"{len(notes) - _SHOWN} more modules like these"] if len(notes) > _SHOWN else []
    sentences = (f"In the whole module, {note}: check its accuracy." for note in (*notes[:_SHOWN], *more))
    return Comparison(tuple(faults), tuple(sentences))


def _list_fitting(stated: Stated, state_dict: StateDict, but: Architecture, found: Comparison) -> Iterator[str]:
    """The architectures of these tensors that compute as the module says, where one does not."""
    if not any(found):
        return
    shapes = state_dict.tensors.shapes
    for name in candidates(shapes, image_shape=(0, 0, 0)):  # also those that are never assumed
        if name != but.name:
            try:
                other = infer_architecture(shapes, name=name, image_shape=but.image_shape)
            except ArchitectureError:
                continue
            if not any(compare(stated, state_dict, other)):
                yield name


def _compare_layers(
    stated: Stated, state_dict: StateDict, architecture: Architecture, arithmetic: _Arithmetic
) -> Iterator[str]:
    for entry in entries(architecture):
        layer = arithmetic.layers.get(".".join(entry.path[1:-1]))
        module = stated.get(str(state_dict.spell(entry.key)).rpartition(".")[0])
        if module is None or entry.path[-1] not in ("kernel", "scale"):
            continue
        for name, ours in _list_settings(layer, module.settings):
            theirs = module.settings.get(name, ours)
            if not _is_same(theirs, ours):
                where = quote(entry.key.rpartition(".")[0])
                yield f"{where} ({quote(module.kind)}) has {name} {quote(theirs)}, but the architecture {ours}"


def _list_settings(layer: Any, stated: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings of a layer of ours, as torch has them."""
    if isinstance(layer, BatchNorm | LayerNorm):
        yield "eps", layer.eps
    if isinstance(layer, Conv):
        size = both_axes(layer.size)
        same = stated.get("padding") == "same" and all(side % 2 for side in size)
        pads = both_axes(layer.pad)
        valid = stated.get("padding") == "valid"
        yield "stride", both_axes(layer.stride)
        yield "groups", layer.groups
        if (same and pads == tuple(side // 2 for side in size)) or (valid and pads == (0, 0)):
            pads = stated["padding"]
        yield "padding", pads
        if max(size) > 1:
            yield "dilation", (1, 1)
        if pads not in ((0, 0), "valid"):
            yield "padding_mode", "zeros"


def _is_same(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, float):
        return isinstance(theirs, int | float) and abs(theirs - ours) <= _TOLERANCE * ours
    if isinstance(ours, tuple) and isinstance(theirs, int):
        return both_axes(theirs) == ours
    return theirs == ours


def _compare_activation(name: str, module: StatedModule, arithmetic: _Arithmetic) -> Iterator[str]:
    kind = module.kind.removeprefix(_ACTIVATIONS)
    if kind == module.kind or kind in _UNMINDED:
        return
    wanted = _OPERATIONS.get(kind, ())
    if kind == "GELU" and module.settings.get("approximate") == "tanh":
        kind, wanted = "GELU (tanh)", ("tanh",)
    if arithmetic.operations.isdisjoint(wanted):
        yield f"{quote(name)} is a {quote(kind)}, which the architecture does not have"


def _compare_pool(name: str, module: StatedModule, arithmetic: _Arithmetic) -> Iterator[str]:
    last, kind = name.rpartition(".")[2], module.kind.removeprefix(_POOLS)
    if module.kind == _IDENTITY and (last in ("avgpool", "relu") or (last == "maxpool" and arithmetic.pools)):
        yield f"{quote(name)} is an Identity, which does nothing"
    if kind == module.kind or "Avg" in kind:
        return
    if kind != "MaxPool2d":
        yield f"{quote(name)} is a {quote(kind)}, which the architecture does not have"
        return
    size, stride = (module.settings.get(each) for each in ("kernel_size", "stride"))
    window = tuple(each[0] if isinstance(each, tuple) and len(set(each)) == 1 else each for each in (size, stride))
    if window not in arithmetic.pools:
        listed = " and ".join(f"of size {ours} and stride {step}" for ours, step in sorted(arithmetic.pools))
        yield (
            f"{quote(name)} is a max pooling of size {quote(size)} and stride {quote(stride)}, but the architecture "
            f"has {f'those {listed}' if listed else 'none'}"
        )


@lru_cache(maxsize=16)
def _read_arithmetic(architecture: Architecture) -> _Arithmetic:
    network = of_normalized(architecture)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *architecture.image_shape), jnp.float32)
    operations, pools = set(), set()
    for equation in _walk(jax.make_jaxpr(network)(variables, images).jaxpr):
        operations |= {equation.primitive.name, str(equation.params.get("name", ""))}
        if equation.primitive.name == "reduce_window_max":
            pools.add((equation.params["window_dimensions"][1], equation.params["window_strides"][1]))
    return _Arithmetic(network.layers, frozenset(operations), frozenset(pools))


def _walk(program: Any) -> Iterator[Any]:
    """Every equation of a program of JAX's, and of those within it."""
    for equation in program.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _walk(inner)

"""What a stage computed as JSON and arrays, and back, bit for bit; no code is stored, and none is run to read it."""

import dataclasses
import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnp_jax.document import Part
from rnp_jax.errors import ResultError

_PACKAGE = "rnp_jax."
_PLAIN = (type(None), bool, int, float, str)


class Packed(NamedTuple):
    """A value in two parts: nested JSON lists, and the arrays that they number."""

    form: Any
    arrays: list[np.ndarray]


def pack(value: Any) -> Packed:
    """A value of dicts, tuples, lists, arrays, keys, numbers, text and this package's records.

    Records are frozen dataclasses, named tuples and parts of documents.

    Raises:
      TypeError: something else is in it.
    """
    arrays: list[np.ndarray] = []

    def keep(array: Any) -> int:
        arrays.append(np.asarray(array))
        return len(arrays) - 1

    def form(value: Any) -> Any:
        match value:
            case _ if type(value) in _PLAIN:
                return ["plain", value]
            case jax.Array() if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                return ["key", keep(jax.random.key_data(value))]
            case jax.Array():
                return ["device", keep(value)]
            case np.ndarray():
                return ["array", keep(value)]
            case np.generic():
                return ["scalar", keep(value)]
            case dict():
                return ["dict", [[form(key), form(item)] for key, item in value.items()]]
            case tuple() | list() if type(value) in (tuple, list):
                return [type(value).__name__, [form(item) for item in value]]
        kind = type(value)
        if not kind.__module__.startswith(_PACKAGE) or (names := _names(kind)) is None:
            raise TypeError(f"a {kind.__module__}.{kind.__qualname__} cannot be kept")
        values = [[name, form(getattr(value, name))] for name in names]
        return ["record", f"{kind.__module__}:{kind.__qualname__}", values]

    return Packed(form(value), arrays)


def unpack(packed: Packed) -> Any:
    """The value that was packed.

    Raises:
      ResultError: it is not as ``pack`` made it, or a record of it is no longer what it was.
    """
    try:
        return _unpack(packed.form, packed.arrays)
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ResultError(f"what was kept does not fit: {type(error).__name__}: {error}") from error


def _unpack(form: Any, arrays: list[np.ndarray]) -> Any:
    match form:
        case ["plain", value]:
            return value
        case ["key", int(number)]:
            return jax.random.wrap_key_data(jnp.asarray(arrays[number]))
        case ["device", int(number)]:
            return jnp.asarray(arrays[number])
        case ["array", int(number)]:
            return arrays[number]
        case ["scalar", int(number)]:
            return arrays[number][()]
        case ["dict", pairs]:
            return {_unpack(key, arrays): _unpack(item, arrays) for key, item in pairs}
        case ["tuple", items]:
            return tuple(_unpack(item, arrays) for item in items)
        case ["list", items]:
            return [_unpack(item, arrays) for item in items]
        case ["record", str(name), pairs]:
            return _find(name)(**{key: _unpack(item, arrays) for key, item in pairs})
    raise ValueError(f"{form!r:.100} is no packed value")


def _names(kind: type) -> tuple[str, ...] | None:
    """The fields of a kind of record; None for what is no record."""
    if dataclasses.is_dataclass(kind):
        return tuple(each.name for each in dataclasses.fields(kind) if each.init)
    if issubclass(kind, tuple) and isinstance(found := getattr(kind, "_fields", None), tuple):
        return found
    return tuple(kind.model_fields) if issubclass(kind, Part) else None


def _find(name: str) -> type:
    """The kind of record of this name, which this package defines."""
    module, _, path = name.partition(":")
    if not module.startswith(_PACKAGE):
        raise ValueError(f"{name} is not of this package")
    kind: Any = importlib.import_module(module)
    for part in path.split("."):
        kind = getattr(kind, part)
    if not isinstance(kind, type) or kind.__module__ != module or _names(kind) is None:
        raise ValueError(f"{name} is no record")
    return kind

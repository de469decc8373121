"""``jax.jit`` for functions of settings: their numbers are arguments of the program, everything else is its structure.

Settings are frozen dataclasses, nested as they like. As static arguments, two learning rates would be two programs of
ten seconds' compilation each. Here a program is traced with the floats of its settings unknown, so that one serves all
their values. A float that is exactly 0 switches something off in most settings, and stays part of the structure.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import lru_cache, update_wrapper
from typing import Any, Final, Generic, ParamSpec, TypeVar

import jax

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


@dataclass(frozen=True)
class _Number:
    """Where a float was taken out."""


@dataclass(frozen=True)
class _Record:
    """A dataclass or a tuple with numbers in it, by what is left of its parts."""

    kind: type
    parts: tuple[Any, ...]


_NUMBER: Final = _Number()
_STRUCTURE: Final = "structure"


class Program(Generic[Arguments, Returned]):
    """A jitted function; ``jit_settings`` makes it."""

    def __init__(self, function: Callable[Arguments, Returned], settings: int, static: int):
        update_wrapper(self, function)
        self._settings, self._structures = settings, settings + static

        def run(structures: tuple[Any, ...], numbers: tuple[Any, ...], *arguments: Any, **named: Any) -> Returned:
            left = list(reversed(numbers))
            return function(*(_unite(each, left) for each in structures), *arguments, **named)  # pyright: ignore[reportCallIssue]

        run.__name__ = function.__name__  # what logs of compilation and profiles call the program
        self._jitted = jax.jit(run, static_argnums=0)

    def __call__(self, *arguments: Arguments.args, **named: Arguments.kwargs) -> Returned:
        """Runs the program; settings are given by position."""
        structures, numbers, *rest = self._divide(arguments)
        placed = tuple(_place(each) if isinstance(each, float) else each for each in numbers)
        return self._jitted(structures, placed, *rest, **named)

    def trace(self, *arguments: Arguments.args, **named: Arguments.kwargs) -> jax.stages.Traced:
        """The program for these arguments, not compiled; arrays may be ``jax.ShapeDtypeStruct``s."""
        return self._jitted.trace(*self._divide(arguments), **named)

    def _divide(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """What ``run`` is given: structures, numbers, and the rest."""
        numbers: list[Any] = []
        structures = tuple(_divide(each, numbers) for each in arguments[: self._settings])
        whole = arguments[self._settings : self._structures]
        return (*structures, *whole), tuple(numbers), *arguments[self._structures :]

    def _cache_size(self) -> int:
        return self._jitted._cache_size()  # pyright: ignore[reportAttributeAccessIssue]


def jit_settings(
    settings: int = 1, static: int = 0
) -> Callable[[Callable[Arguments, Returned]], Program[Arguments, Returned]]:
    """Compiles a function whose first arguments are settings; the last ones are arrays and trees of them.

    The settings are hashable, as static arguments of ``jax.jit`` are. Within the function their floats are traced: it
    may compute with them, but a condition on one needs ``is_off``.

    Args:
      settings: the number of arguments that are settings.
      static: the number of arguments after these that are structure as a whole.

    Example:
      >>> from dataclasses import dataclass
      >>> import jax.numpy as jnp
      >>> @dataclass(frozen=True)
      ... class Step:
      ...     rate: float = 0.1
      >>> @jit_settings()
      ... def move(step, weights, gradient):
      ...     return weights - step.rate * gradient
      >>> [float(move(Step(rate), jnp.float32(1), jnp.float32(2))) for rate in (0.25, 0.5)], move._cache_size()
      ([0.5, 0.0], 1)
    """
    return lambda function: Program(function, settings, static)


def structural(default: Any = MISSING) -> Any:
    """A dataclass field whose floats stay part of the structure, such as an exponent or what a shape depends on."""
    return field(default=default, metadata={_STRUCTURE: True})


def is_off(number: float | None) -> bool:
    """Whether a setting is None or exactly 0, which switches off what it governs; may be asked while tracing."""
    return number is None or (isinstance(number, float | int) and number == 0)


@lru_cache(2**12)
def _place(number: float) -> jax.Array:
    """The number on the device, where calls to come find it; as weak in its type as a float."""
    with jax.ensure_compile_time_eval():  # a program that calls a program is given an array too
        return jax.device_put(number)


def _divide(value: Any, numbers: list[Any]) -> Any:
    """What is left of a value without its floats, which are added to ``numbers``."""
    if (isinstance(value, float) and value != 0) or isinstance(value, jax.Array):
        numbers.append(float(value) if isinstance(value, float) else value)  # numpy's floats are of another type
        return _NUMBER
    before = len(numbers)
    if type(value) is tuple:
        parts = tuple(_divide(each, numbers) for each in value)
    elif is_dataclass(value) and not isinstance(value, type) and _is_frozen(value):
        parts = tuple(
            part if each.metadata.get(_STRUCTURE) else _divide(part, numbers)
            for each, part in ((each, getattr(value, each.name)) for each in fields(value))
        )
    else:
        return value
    return value if len(numbers) == before else _Record(type(value), parts)


def _unite(structure: Any, numbers: list[Any]) -> Any:
    """The value again; takes its numbers off the end of the list. What checks a new record's values does not run."""
    if structure is _NUMBER:
        return numbers.pop()
    if not isinstance(structure, _Record):
        return structure
    parts = tuple(_unite(each, numbers) for each in structure.parts)
    if structure.kind is tuple:
        return parts
    made = object.__new__(structure.kind)
    for each, part in zip(fields(structure.kind), parts, strict=True):
        object.__setattr__(made, each.name, part)
    return made


def _is_frozen(value: Any) -> bool:
    return value.__dataclass_params__.frozen

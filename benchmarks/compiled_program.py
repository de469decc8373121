"""What a compiled program asks of a device, read off the compiler's text and off the traced program.

A kernel is an instruction that the device runs by itself: a fusion, a call of cuDNN or cuBLAS, a copy. Its bytes are
its operands and results, each read or written once; of an operand that only slices or gathers read, what they take.
Loops count as often as the compiler knows that they run, and otherwise as often as the caller says.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

_WIDTH = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_WIDTH |= {"s64": 8, "u64": 8, "f64": 8}
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota"}
_FREE |= {"copy-done", "async-done", "add-dependency", "opt-barrier"}
_SHAPE = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")


class Cost(NamedTuple):
    """Of one run."""

    launches: float = 0
    bytes: float = 0

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Cost(self.launches + other.launches, self.bytes + other.bytes)

    def times(self, count: float) -> "Cost":
        """Of as many runs."""
        return Cost(self.launches * count, self.bytes * count)


class _Instruction(NamedTuple):
    name: str
    shape: str
    kind: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])


class CompiledText:
    """A compiled module, by computation."""

    def __init__(self, text: str):
        self.computations: dict[str, list[_Instruction]] = {}
        current: list[_Instruction] | None = None
        for line in text.splitlines():
            if (head := _HEAD.match(line)) and "=" not in line.partition("(")[0]:
                current = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else getattr(self, "entry", "")
            elif current is not None and (found := _LINE.match(line)):
                current.append(_Instruction(*found.groups()))

    def cost(self, unknown: float, computation: str | None = None) -> Cost:
        """Launches and bytes; ``unknown`` is how often loops run of which the compiler does not know it."""
        total, instructions = Cost(), self.computations[computation or self.entry]
        shapes = {each.name: each.shape for each in instructions}
        for each in instructions:
            called = [
                name for name in re.findall(r"%([\w.\-]+)", each.rest.partition(")")[2]) if name in self.computations
            ]
            if each.kind == "while":
                known = re.search(r'known_trip_count":\{"n":"(\d+)"', each.rest)
                runs = int(known[1]) if known else unknown
                total += sum((self.cost(unknown, name) for name in called), Cost()).times(runs)
            elif each.kind == "conditional":
                total += max((self.cost(unknown, name) for name in called), key=lambda cost: cost.bytes)
            elif each.kind in ("call", "async-start"):
                total += sum((self.cost(unknown, name) for name in called), Cost())
            elif each.kind not in _FREE:
                total += Cost(1, self._bytes(each, shapes, called))
        return total

    def _bytes(self, kernel: _Instruction, shapes: dict[str, str], called: list[str]) -> float:
        inside = self.computations[called[0]] if kernel.kind == "fusion" and called else []
        written = size_of(kernel.shape)
        updates = [each for each in inside if each.kind == "dynamic-update-slice" and each.shape == kernel.shape]
        own = {each.name: each.shape for each in inside}
        if updates:  # in place
            written = sum(size_of(own[each.operands[1]]) for each in updates)
        parameters = {int(each.rest.partition(")")[0]): each.name for each in inside if each.kind == "parameter"}
        read = 0.0
        for i, operand in enumerate(kernel.operands):
            readers = [each for each in inside if i in parameters and parameters[i] in each.operands]
            if readers and all(_takes_of(each, parameters[i]) for each in readers):
                read += sum(size_of(each.shape) for each in readers)
            elif not (readers and all(each in updates for each in readers)):
                read += size_of(shapes.get(operand, ""))
        return read + written

    def calls(self) -> dict[str, int]:
        """How often each library call stands in the text."""
        found: dict[str, int] = {}
        for each in (each for instructions in self.computations.values() for each in instructions):
            if target := re.search(r'custom_call_target="([^"]+)"', each.rest):
                found[target[1]] = found.get(target[1], 0) + 1
        return found


def _takes_of(instruction: _Instruction, operand: str) -> bool:
    """Whether it reads some places of the operand, rather than the places from it."""
    return instruction.kind in ("dynamic-slice", "gather") and instruction.operands[0] == operand


def size_of(shape: str) -> float:
    """Bytes of a shape, or of all of a tuple."""
    found = _SHAPE.findall(shape)
    return sum(_WIDTH.get(kind, 4) * math.prod(int(size) for size in sides.split(",") if size) for kind, sides in found)


def count_flops(program: Jaxpr | ClosedJaxpr, unknown: float) -> float:
    """Of convolutions and products that something reads; zeros between pixels are free.

    A multiplication and an addition are two. ``unknown`` is as for ``CompiledText.cost``.
    """
    whole = getattr(program, "jaxpr", program)
    read, _ = dce_jaxpr(whole, [True] * len(whole.outvars))
    total = 0.0
    for equation in read.eqns:
        kind, params = equation.primitive.name, equation.params
        if kind == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, params["dimension_numbers"]
            work = equation.outvars[0].aval.size * math.prod(kernel) / kernel[numbers.rhs_spec[0]]
            total += 2 * work / math.prod(params["lhs_dilation"])
        elif kind == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            lengths = (equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * equation.outvars[0].aval.size * math.prod(lengths)
        runs = params["length"] if kind == "scan" else unknown if kind == "while" else 1
        parts = [count_flops(part, unknown) for part in _within(params)]
        total += runs * (max(parts, default=0.0) if kind == "cond" else sum(parts))
    return total


def _within(params: dict[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Jaxpr | ClosedJaxpr):
                yield part

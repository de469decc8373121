"""The architecture that is nearest to tensors which are of none, and in what they differ from it."""

from collections.abc import Sequence
from typing import NamedTuple

from rnp_jax.errors import ArchitectureError, ConfigError
from rnp_jax.models.design import Design, Shapes, Sizes
from rnp_jax.models.inference import consumed, entries, matches, shorten
from rnp_jax.models.naming import Names
from rnp_jax.models.registry import ARCHITECTURES, DESIGNS, Architecture

_SHOWN = 6  # lines of one kind
_COMPARED = 3  # architectures whose tensors are made out, which takes up to a second each
_NEAR = 0.5  # share of the layers that a design must have in common with the tensors
_MOST_TENSORS = 2000  # beyond twice as many as any design has, no nearest one is looked for
_MOST_DOTS = 12  # in a name, likewise
_CLASSES = 10  # where no layer says how many


class _Difference(NamedTuple):
    """How tensors differ from those of an architecture: other shapes, missing tensors and unexpected ones, as lines."""

    architecture: str
    wrong: list[str]
    missing: list[str]
    unexpected: list[str]

    @property
    def size(self) -> int:
        """How many tensors differ."""
        return len(self.wrong) + len(self.missing) + len(self.unexpected)


def describe_unknown(readings: Sequence[Shapes]) -> str:
    """Says that tensors are of no architecture, which one is nearest, and what differs.

    Args:
      readings: shapes of the tensors by name; several where part of the names may be a wrapper's.
    """
    weights = [consumed(reading) for reading in readings]
    ranked = sorted(
        ((score, number, name) for number, shapes in enumerate(weights) for score, name in _rank(shapes)),
        key=lambda each: each[:2],
    )
    found = [difference for _, n, name in ranked[:_COMPARED] if (difference := _compare(name, weights[n])) is not None]
    unknown = f"none of the {len(ARCHITECTURES)} supported architectures has these tensors"
    if not found:
        lines = [f" + {key} {tuple(shape)}" for key, shape in weights[0].items()]
        return f"{unknown} (+), and none is near:\n{shorten(lines, _SHOWN)}"
    nearest = min(found, key=lambda difference: difference.size)
    if not nearest.size:
        return (
            f"the tensors are those of {nearest.architecture}, which is made for other images or classes; name it with "
            f"--architecture {nearest.architecture} if it is meant"
        )
    lines = "\n".join(shorten(kind, _SHOWN) for kind in (nearest.wrong, nearest.missing, nearest.unexpected) if kind)
    return f"{unknown}; the nearest is {nearest.architecture}, and these differ (- missing, + unexpected):\n{lines}"


def _rank(shapes: Shapes) -> list[tuple[tuple[int, bool], str]]:
    """The designs that have most layers in common with the tensors, by their names alone, with how far each is."""
    if len(shapes) > _MOST_TENSORS or any(key.count(".") > _MOST_DOTS for key in shapes):
        return []
    ranked = []
    held: dict[Names, _Layers] = {}  # by the table of names, which most designs share
    for name, design in DESIGNS.items():
        if design.names not in held:
            held[design.names] = _list_layers(design.rename(shapes))
        own, paths = held[design.names]
        layers = {layer for segment in _build(design) for layer in segment.layers}
        covered = sum(not layers.isdisjoint(outer) for outer in own)
        apart = len(own) - covered + len(layers - paths)
        if not design.family and 2 * len(layers & paths) > len(layers) and covered > _NEAR * len(own):
            ranked.append(((apart, not matches(name, shapes)), name))
    return sorted(ranked, key=lambda each: each[0])


def _build(design: Design):
    side = 224 if callable(design.image_side) else design.image_side
    return design.build(Sizes(_CLASSES, design.width, (side, side, 3)), design.placement, "float32").segments()


class _Layers(NamedTuple):
    """For each layer that holds tensors, its name and those that it lies in; all such names, and those of tensors."""

    own: list[list[str]]
    paths: set[str]


def _list_layers(shapes: Shapes) -> _Layers:
    own = [_list_paths(layer) for layer in {key.rpartition(".")[0] for key in shapes}]
    return _Layers(own, {path for key in shapes for path in _list_paths(key)})


def _list_paths(key: str) -> list[str]:
    """A name and those of all that it lies in."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _compare(name: str, shapes: Shapes) -> _Difference | None:
    """The difference from the architecture of the sizes that the tensors have; None if there is none of such sizes."""
    design = DESIGNS[name]
    named = design.rename(shapes)
    classes = named.get(design.head, ())
    width, stem = named.get(design.base or design.stem, ()), named.get(design.stem, ())
    try:
        side = design.read_side(named)
        architecture = Architecture(
            name,
            classes[0] if len(classes) == 2 and classes[0] > 1 else _CLASSES,
            width[0] if len(width) == 4 else design.width,
            image_shape=(side, side, stem[1] if len(stem) == 4 else 3),
            form=design.read_form(named),
        )
        expected = {entry.key: entry.shape for entry in entries(architecture)}
    except (ArchitectureError, ConfigError, LookupError, TypeError, ValueError, ArithmeticError):
        return None  # the tensors lack what its sizes are read off, or the sizes do not go together
    wrong = [key for key, shape in expected.items() if key in shapes and tuple(shapes[key]) != shape]
    return _Difference(
        name,
        [f" {key}: {tuple(shapes[key])}, expected {expected[key]}" for key in wrong],
        [f" - {key} {shape}" for key, shape in expected.items() if key not in shapes],
        [f" + {key} {tuple(shape)}" for key, shape in shapes.items() if key not in expected],
    )

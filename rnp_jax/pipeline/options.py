"""The options that every command shares which runs methods, and those that a choice of methods adds.

A schema is made for the methods that are chosen: it has their groups of settings, and of the shared options those that
one of them reads. Whatever else is on the command line is an unknown option.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass
from functools import cache
from os import PathLike
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

import tyro

from rnp_jax.checks import check_number
from rnp_jax.config import (
    DATA,
    FILE,
    FLAT,
    FOLDER,
    METHOD,
    UNREAD,
    ComputeOptions,
    DataOptions,
    DefenseSetOptions,
    SourceOptions,
    TriggerOptions,
    check_seed,
    read_yaml,
    resolve,
)
from rnp_jax.data import Augmentation
from rnp_jax.defenses import METHODS, Method, find_method
from rnp_jax.errors import ConfigError

When: TypeAlias = Literal["unknown", "always", "never"]

Require: TypeAlias = Literal["nothing", "removed"]
"""What a defense's result must support, or the command ends with an error once everything is written."""

Schema = TypeVar("Schema", bound="RunOptions")


@dataclass(frozen=True)
class UntrustedOptions:
    """An untrusted training set, for methods that train a new network on it.

    Attributes:
      data: the set: the training part of a data set, folder or .npz file; by default the set is rebuilt from the
        checkpoint's card.
      start: checkpoint to start from; by default a fresh network like the defended one.
      width: channels in the first stage of a fresh network; by default as in the defended one.
    """

    data: Annotated[str | None, DATA] = None
    start: Annotated[str | None, FILE] = None
    width: int | None = None

    def __post_init__(self):
        if self.width is not None:
            check_number("untrusted.width", self.width, 1, integer=True)
        if self.width is not None and self.start is not None:
            raise ConfigError(
                f"untrusted.width {self.width} cannot be combined with untrusted.start: that network has its own width"
            )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What one or more methods do to a checkpoint, and what they are given.

    Attributes:
      method: method or methods to run.
      out: output folder.
      source: how to read the file and normalise its images.
      images: clean images; the defense set comes from the training part, and ACC is measured on the test part.
      defense: clean images that the defender has.
      untrusted: untrusted training set, and the network to train on it.
      trigger: attack to measure, if known; it never influences the method's choices.
      augmentation: augmentation of the images that a method trains on; heads on features are trained without it.
      compute: precision and batches.
      evidence: when to search the model for triggers before and after the method, as evidence: if the trigger is
        unknown, always or never.
      sweep_images: number of test images, clean and triggered each, for the report's pruning curves; 0 for no curves.
      seed: random seed for shuffling and augmentation.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    """The shared options that the command reads itself, whatever its methods do."""

    method: Annotated[str | tuple[str, ...], METHOD] = "auto"
    out: Annotated[str | None, FOLDER] = None
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    defense: DefenseSetOptions = field(default_factory=DefenseSetOptions)
    untrusted: UntrustedOptions = field(default_factory=UntrustedOptions)
    trigger: Annotated[TriggerOptions, FLAT] = field(default_factory=TriggerOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)
    evidence: When = "never"
    sweep_images: int = 2000
    seed: int = 0

    def __post_init__(self):
        check_number("sweep_images", self.sweep_images, 0, integer=True)
        check_seed("seed", self.seed)
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise ConfigError(f"--method {' '.join(names)}: a method is named twice; name each once")

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods' records.

        Raises:
          ConfigError: there is no method of that name, or none is given.
        """
        names = (self.method,) if isinstance(self.method, str) else self.method
        if not names:
            raise ConfigError(f"--method: no method is given; choose among {', '.join(METHODS)}")
        return tuple(map(find_method, names))

    @classmethod
    def list_methods(cls) -> tuple[str, ...]:
        """The methods that the command takes."""
        return tuple(METHODS)

    def settings(self, method: Method) -> Any:
        """The method's settings: as given, or its defaults."""
        return getattr(self, method.group, method.defaults) if method.group else None


_READERS: Mapping[str, Callable[[Method], bool]] = {
    "defense": lambda method: method.needs != "untrusted" and method.changes != "nothing",
    "untrusted": lambda method: method.needs == "untrusted",
    "augmentation": lambda method: method.augments,
    "sweep_images": lambda method: method.changes in ("filters", "both") and not method.anew,
    "evidence": lambda method: method.needs != "untrusted" and method.changes != "nothing",
    "seed": lambda method: method.changes != "nothing",
    "reactivate": lambda method: method.changes != "nothing",
}
"""The shared options that not every method reads."""


def is_read(name: str, method: Method) -> bool:
    """Whether the method reads this shared option."""
    return name not in _READERS or _READERS[name](method)


def readers_of(name: str) -> tuple[str, ...]:
    """The methods that read a group of settings, or a shared option that not every method reads."""
    found = (each for each in METHODS.values() if each.group == name or (name in _READERS and is_read(name, each)))
    return tuple(each.name for each in found)


def schema_for(schema: type[Schema], names: Sequence[str]) -> type[Schema]:
    """The schema with a group of settings for each method, and without the options that none of them reads.

    Raises:
      ConfigError: there is no method of one of the names.
    """
    return _schema_for(schema, tuple(dict.fromkeys(names)))


@cache
def _schema_for(schema: type[Schema], names: tuple[str, ...]) -> type[Schema]:
    methods = tuple(map(find_method, names))
    added: list[tuple[str, Any, Any]] = []
    for each in fields(schema):
        if each.name not in schema.reads and not any(is_read(each.name, method) for method in methods):
            added.append(_unread(each))
    for method in methods:
        if method.group and method.group not in {name for name, _, _ in added}:
            settings = METHODS[method.group]
            help_ = tyro.conf.arg(help=f"Settings of {settings.title}: {settings.summary}.")
            kind = Annotated[type(settings.defaults), help_]
            added.append((method.group, kind, field(default=settings.defaults)))
    namespace = {"__doc__": schema.__doc__, "__module__": schema.__module__}
    return make_dataclass(schema.__name__, added, bases=(schema,), namespace=namespace, frozen=True, kw_only=True)


def _unread(each: Field) -> tuple[str, Any, Any]:
    """The field with its default, which nothing can change."""
    hidden = field(default=each.default, default_factory=each.default_factory, metadata={UNREAD: True})
    return each.name, Annotated[each.type, tyro.conf.Fixed, tyro.conf.Suppress], hidden


def names_in(value: Any) -> tuple[str, ...]:
    """The methods that a preset or a command line names: one or several."""
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)


def read_options(schema: type[Schema], path: str | PathLike[str]) -> Schema:
    """The options that a run wrote.

    Raises:
      ConfigError: the file cannot be read, or is of another command.
    """
    values = read_yaml(path)
    return resolve(schema_for(schema, names_in(values.get("method", ()))), values, str(path))

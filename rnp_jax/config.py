"""Options: one frozen schema a group, YAML in, command line over it, resolved YAML out.

A command's options are a frozen dataclass of plain fields and further groups. A preset is a YAML file of any part of
them; what the command line says goes over it; the whole, resolved, is written beside the results and can itself be
used as a preset.
"""

import dataclasses
import difflib
from os import PathLike
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import pydantic
import tyro
import yaml

from rnp_jax.atomic import write_atomic
from rnp_jax.checks import LARGEST_SIDE, check_image_shape, check_number, check_seed
from rnp_jax.errors import ConfigError
from rnp_jax.models import Arithmetic, Asked, Placement, choose_arithmetic
from rnp_jax.plain_yaml import PlainLoader
from rnp_jax.regular_file import MIB, read_regular

Options = TypeVar("Options")


def _read_pairs(words: list[str]) -> dict[str, str]:
    if len(words) % 2:
        raise ValueError(f"{' '.join(words)!r}: expected pairs of NAME and VALUE")
    return dict(zip(words[::2], words[1::2], strict=True))


Constants = Annotated[
    dict[str, Annotated[str, pydantic.BeforeValidator(str)]],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME VALUE ...]",
        instance_from_str=_read_pairs,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda pairs: [word for pair in pairs.items() for word in pair],
    ),
]
"""An attack's constants by name, as text (a preset may have numbers); given ones go over a preset's one by one."""

FLAT = tyro.conf.arg(name="")
"""A group whose options go by their own names on the command line (``--data``, not ``--images.data``)."""


FOLDER, FILE, PATH, NAME, METHOD, NORMALIZATION, DATA = (
    tyro.conf.arg(metavar=shown) for shown in ("FOLDER", "FILE", "PATH", "NAME", "METHOD", "NAME|VALUES", "NAME|PATH")
)
CHECKPOINTS = tyro.conf.arg(metavar="CHECKPOINT [CHECKPOINT ...]")
"""What an option is given, as its help shows it: one of these annotates each option that takes text."""

_PRESET_BYTES = MIB // 4

UNREAD = "unread"
"""Metadata of a field that nothing reads in this run: it stands on no command line and in no resolved file."""


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """How the checkpoint file is read.

    Attributes:
      key: path of the state dict in the file, if it holds several (slashes go deeper, numbers choose from lists; a
        single slash is the root).
      prefix: what the names of the network's tensors begin with (model.), if it is not found; others are not read.
      architecture: architecture, if it cannot be inferred; where the tensors fit several, by default the one that
        classifies clean images best.
      image_shape: shape (H, W, C) of the input, if it cannot be inferred; by default that of the images where the
        weights allow any.
      normalization: normalisation: a name (cifar10_rnp, cifar10_bb, ...) or 'm,m,m/s,s,s'; by default the card's,
        what the file brings as tensors, or the one with which clean images are classified best.
      extractor: checkpoint or folder of the feature extractor, for a head on features; by default the card's.
      allow_bad_crc: read a zip container even if its checksums are wrong.
    """

    key: Annotated[str | None, NAME] = None
    prefix: Annotated[str | None, NAME] = None
    architecture: Annotated[str | None, NAME] = None
    image_shape: tuple[int, int, int] | None = None
    normalization: Annotated[str | None, NORMALIZATION] = None
    extractor: Annotated[str | None, PATH] = None
    allow_bad_crc: bool = False

    def __post_init__(self):
        if self.image_shape is not None:
            check_image_shape(self.image_shape)


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Which images are used.

    Attributes:
      data: data set: digits, the name of a prepared TensorFlow Datasets set, a folder of CIFAR batches, of GTSRB, of
        Tiny-ImageNet or of images, or a .npz file; None for the set that the checkpoint's card names.
      data_dir: folder of the prepared TensorFlow Datasets sets.
      image_size: side, in pixels, to which images are resized.
      test_images: number of test images to use, drawn evenly from the classes; by default all.
    """

    data: Annotated[str | None, DATA] = None
    data_dir: Annotated[str | None, FOLDER] = None
    image_size: int | None = None
    test_images: int | None = None

    def __post_init__(self):
        if self.image_size is not None:
            check_number("image_size", self.image_size, 1, LARGEST_SIDE, integer=True)
        if self.test_images is not None:
            check_number("test_images", self.test_images, 1, integer=True)


@dataclasses.dataclass(frozen=True)
class DefenseSetOptions:
    """The clean images that the defender has.

    Attributes:
      size: number of clean images, drawn from the training part; all of it where a data set without a test part has
        fewer.
      holdout: share of the clean images that are held out to choose the operating point.
      stratified: draw equally many images of each class; the release draws uniformly.
      seed: random seed for drawing the images and the held-out part.
    """

    size: int = 500
    holdout: float = 0.2
    stratified: bool = True
    seed: int = 0

    def __post_init__(self):
        check_number("defense.size", self.size, 1, integer=True)
        check_number("defense.holdout", self.holdout, 0, 1)
        check_seed("defense.seed", self.seed)


@dataclasses.dataclass(frozen=True)
class TriggerOptions:
    """The trigger with which ASR is measured, if it is known.

    Attributes:
      attack: attack, such as badnets (rnp-jax attack --list shows all); 'card' takes the attack from the checkpoint's
        card, 'none' measures ACC only.
      target: label that the attacker wants.
      mapping: label mapping: all_to_one, or all_to_all (class y becomes y + 1).
      constants: constants of the attack that replace its published ones, as NAME VALUE pairs.
      artefact: trigger file, used instead of a trigger drawn from the constants: a .npz file with the trigger's arrays,
        or a picture of its pattern (NAME.png, with its mask in NAME_mask.npy or NAME_mask.png).
    """

    attack: Annotated[str, NAME] = "card"
    target: int = 0
    mapping: Literal["all_to_one", "all_to_all"] = "all_to_one"
    constants: Constants = dataclasses.field(default_factory=dict)
    artefact: Annotated[str | None, FILE] = None


@dataclasses.dataclass(frozen=True)
class ComputeOptions:
    """How the model is computed.

    Attributes:
      precision: arithmetic of convolutions and matrix products: float32 is exact; tf32 and bfloat16 are faster on
        accelerators; auto is float32 on a CPU, elsewhere tf32, and bfloat16 in evaluation.
      evaluation: the same where the network only predicts, as in sweeps and measurements; by default as precision says.
      placement: where filter masks act: bn_scale (the release's), channel, conv_output or unit; by default bn_scale if
        there is batch norm, else conv_output if there are convolutions, else unit.
      batch_size: images per batch in evaluation; by default 64 on a CPU, 1000 on an accelerator.
    """

    precision: Asked = "auto"
    evaluation: Asked | None = None
    placement: Placement | None = None
    batch_size: int | None = None

    def __post_init__(self):
        if self.batch_size is not None:
            check_number("batch_size", self.batch_size, 1, integer=True)

    @property
    def arithmetic(self) -> Arithmetic:
        """What the precisions are on this machine."""
        return choose_arithmetic(self.precision, self.evaluation)


def read_yaml(path: str | PathLike[str]) -> dict[str, Any]:
    """A preset's values.

    Raises:
      ConfigError: the file cannot be read, or is not a mapping.
    """
    try:
        values = yaml.load(read_regular(path, _PRESET_BYTES).decode("utf-8"), PlainLoader)  # noqa: S506 (a safe one)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; --config takes the path of a YAML file") from error
    except (ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or 0x_, which is no number
        raise ConfigError(f"{path}: not a readable YAML file: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of options, found {type(values).__name__}")
    return values


def resolve(schema: type[Options], values: dict[str, Any], source: str = "options") -> Options:
    """A command's options from nested plain values; what is not given keeps its default.

    Raises:
      ConfigError: an unknown option (with the nearest known one), or an impossible value.
    """
    _check_names(schema, values, source, "")
    try:
        return pydantic.TypeAdapter(schema).validate_python(values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except pydantic.ValidationError as error:
        lines = [f" {'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
        raise ConfigError(f"{source}: invalid values:\n" + "\n".join(lines)) from error


def over_preset(preset: Options, given: Options) -> Options:
    """Options given over a preset, which keeps those constants that are not among the given."""

    def merged(before: Any, after: Any) -> Any:
        if isinstance(after, dict):
            return {**before, **after}
        if dataclasses.is_dataclass(after) and type(before) is type(after):
            pairs = ((f.name, getattr(before, f.name), getattr(after, f.name)) for f in dataclasses.fields(after))
            return dataclasses.replace(after, **{name: merged(*values) for name, *values in pairs})  # pyright: ignore
        return after

    return merged(preset, given)


def to_plain(options: Any) -> dict[str, Any]:
    """Options, or groups of them by name, as nested plain values, tuples as lists, without what nothing reads."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            read = [each.name for each in dataclasses.fields(value) if not each.metadata.get(UNREAD)]
            return {name: plain(getattr(value, name)) for name in read}
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    return plain(options)


def write_yaml(path: str | PathLike[str], options: Any) -> None:
    """Writes resolved options, whole or not at all."""
    write_atomic(path, yaml.safe_dump(to_plain(options), sort_keys=False, allow_unicode=True).encode())


def _check_names(schema: Any, values: dict[str, Any], source: str, prefix: str) -> None:
    hints = get_type_hints(schema)  # without their annotations, so that groups are seen
    types = {each.name: hints[each.name] for each in dataclasses.fields(schema) if not each.metadata.get(UNREAD)}
    for name, value in values.items():
        if name not in types:
            near = difflib.get_close_matches(str(name), types, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(types)}"
            raise ConfigError(f"{source}: unknown option {prefix}{name}; {hint}")
        if isinstance(value, dict) and dataclasses.is_dataclass(types[name]):
            _check_names(types[name], value, source, f"{prefix}{name}.")

"""Reads the two configuration files of a Hugging Face model folder, as untrusted JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rnp_jax.data import Normalization
from rnp_jax.errors import ArchitectureError, CheckpointError, DataError
from rnp_jax.extractors.preprocessing import Geometry, Resample
from rnp_jax.models.vit import Activation, VitShape
from rnp_jax.torch_io import Limits
from rnp_jax.torch_io.source_file import read_file

SUPPORTED = ("clip", "clip_vision_model", "vit")
"""Values of ``model_type``."""

_RESAMPLES: dict[int, Resample] = {1: "lanczos3", 2: "linear", 3: "cubic"}  # Pillow's numbers
_JSON = Limits(file_bytes=16 * 2**20)

Size = Annotated[int, Field(ge=1, le=2**20)]
Pair = Size | Annotated[list[Size], Field(min_length=2, max_length=2)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class _Tower(_Strict):
    """The fields that both families have; each has the default of its published configuration class."""

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Size = 12
    num_attention_heads: Size = 12
    num_channels: Literal[1, 3] = 3
    image_size: Pair = 224


class _Clip(_Tower):
    patch_size: Pair = 32
    projection_dim: Size = 512
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Annotated[float, Field(ge=0, le=1)] = 1e-5


class _Vit(_Tower):
    patch_size: Pair = 16
    hidden_act: Activation = "gelu"
    layer_norm_eps: Annotated[float, Field(ge=0, le=1)] = 1e-12
    qkv_bias: bool = True


class _Processor(_Strict):
    """The fields of an image processor. A size is a number, or a dict of height and width or of the shorter side."""

    do_resize: bool = True
    do_center_crop: bool = False
    do_rescale: bool = True
    do_normalize: bool = True
    size: Size | dict[str, Size] | None = None
    crop_size: Size | dict[str, Size] | None = None
    resample: int = 2
    rescale_factor: float = 1 / 255
    image_mean: list[float] | None = None
    image_std: list[float] | None = None


@dataclass(frozen=True)
class Preparation:
    """How images are prepared before they enter the tower."""

    geometry: Geometry
    normalization: Normalization


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
      CheckpointError: the file cannot be read, is larger than 16 MiB, or is not a JSON object.
    """
    try:
        value = json.loads(read_file(path, _JSON))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(path, f"a JSON {type(value).__name__}, expected an object")
    return value


def read_shape(path: Path) -> VitShape:
    """The tower that config.json describes; ``projection`` is the size it has if the weights include a projection.

    Raises:
      CheckpointError: the file cannot be read.
      ArchitectureError: the model is of another kind, or a size is missing, of a wrong type or out of bounds.
    """
    config = read_json(path)
    kind = config.get("model_type")
    if kind not in SUPPORTED:
        raise ArchitectureError(f"{path}: model_type {kind!r:.80}; supported are {', '.join(SUPPORTED)}")
    if kind == "vit":
        vit = _validated(_Vit, config, path, ArchitectureError)
        return _shape_of(vit, "vit", None, vit.qkv_bias)
    tower = config.get("vision_config") if kind == "clip" else config
    if not isinstance(tower, dict):
        raise ArchitectureError(f"{path}: vision_config is {tower!r:.80}; expected the image tower's configuration")
    # the projection width of a whole model is its own field, whatever its tower states
    stated = {**tower, "projection_dim": config.get("projection_dim", 512)}
    clip = _validated(_Clip, stated, path, ArchitectureError)
    return _shape_of(clip, "clip", clip.projection_dim, True)


def read_preparation(path: Path, shape: VitShape) -> Preparation:
    """Reads from preprocessor_config.json how images are prepared.

    Raises:
      CheckpointError: the file cannot be read.
      DataError: the resulting images do not have the tower's size, or a setting is not supported.
    """
    stated = read_json(path)
    processor = _validated(_Processor, stated.get("image_processor", stated), path, DataError)
    if not processor.do_resize or not processor.do_rescale or abs(processor.rescale_factor * 255 - 1) > 1e-3:
        raise DataError(
            f"{path}: do_resize {processor.do_resize}, do_rescale {processor.do_rescale}, rescale_factor "
            f"{processor.rescale_factor}; expected images to be resized, and pixels divided by 255"
        )
    if processor.resample not in _RESAMPLES:
        raise DataError(f"{path}: resample {processor.resample}; supported are 1 Lanczos, 2 bilinear and 3 bicubic")
    size = _size(processor.size, path, "size", square=shape.family == "vit")
    result = _size(processor.crop_size, path, "crop_size", square=True) if processor.do_center_crop else size
    height, width = (size, size) if isinstance(size, int) else size  # at least
    if result != shape.image_shape[:2] or height < shape.image_shape[0] or width < shape.image_shape[1]:
        raise DataError(
            f"{path}: images are resized to {processor.size} and cropped to {processor.crop_size} (do_center_crop "
            f"{processor.do_center_crop}), but the model takes {shape.image_shape[:2]}"
        )
    if processor.do_normalize and (processor.image_mean is None or processor.image_std is None):
        raise DataError(f"{path}: image_mean or image_std is missing; a wrong normalisation silently ruins features")
    mean, std = ((0.0,), (1.0,))
    if processor.do_normalize:
        mean, std = tuple(processor.image_mean or ()), tuple(processor.image_std or ())
    normalization = Normalization(mean, std).for_channels(shape.image_shape[2])
    return Preparation(Geometry(shape.image_shape, size, _RESAMPLES[processor.resample]), normalization)


def _shape_of(tower: _Clip | _Vit, family: Literal["clip", "vit"], projection: int | None, bias: bool) -> VitShape:
    return VitShape(
        family=family,
        width=tower.hidden_size,
        depth=tower.num_hidden_layers,
        heads=tower.num_attention_heads,
        hidden=tower.intermediate_size,
        patch=_pair(tower.patch_size),
        image_shape=(*_pair(tower.image_size), tower.num_channels),
        activation=tower.hidden_act,
        epsilon=tower.layer_norm_eps,
        attention_bias=bias,
        projection=projection,
    )


def _pair(value: int | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _size(value: int | dict[str, int] | None, path: Path, name: str, *, square: bool) -> tuple[int, int] | int:
    """A (height, width) pair, or the shorter side. The family decides what a bare number means (``square``)."""
    match value:
        case int():
            return (value, value) if square else value
        case {"height": height, "width": width, **rest} if not rest:
            return height, width
        case {"shortest_edge": edge, **rest} if not rest and name == "size":
            return edge
    raise DataError(f"{path}: {name} is {value!r:.80}; expected a number, height and width, or shortest_edge")


_Schema = TypeVar("_Schema", bound=_Strict)


def _validated(
    schema: type[_Schema], values: Mapping[str, Any], path: Path, failure: type[ArchitectureError] | type[DataError]
) -> _Schema:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'values'} = {fault['input']!r:.60}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise failure(f"{path}: {'; '.join(faults[:6])}") from error

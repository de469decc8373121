"""Published CLIP and ViT models from a folder in Hugging Face's layout. Nothing is downloaded or executed."""

from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

import jax
import jax.numpy as jnp

from rnp_jax.data import Normalization
from rnp_jax.errors import ArchitectureError, CheckpointError, DataError
from rnp_jax.extractors.extractor import BATCH, Extractor
from rnp_jax.extractors.folder_config import Preparation, read_preparation, read_shape
from rnp_jax.extractors.preprocessing import Geometry
from rnp_jax.extractors.weights import Weights, open_weights
from rnp_jax.models import Precision
from rnp_jax.models.vit import VitShape, vit_features
from rnp_jax.models.vit_names import PROJECTION, check_keys, count_bytes, entries, find_root, from_tensors
from rnp_jax.torch_io import Limits
from rnp_jax.types import Tree

CONFIG, PROCESSORS = "config.json", ("preprocessor_config.json", "processor_config.json")

WANTED = (
    "expected config.json, preprocessor_config.json and model.safetensors (or model.safetensors.index.json with the "
    "parts it lists, or pytorch_model.bin) as published in a CLIP or ViT repository; copy them there yourself: "
    "nothing is downloaded"
)

_ATTENTION_BYTES = 2**30  # memory limit for the attention weights of a chunk


def from_folder(
    path: str | PathLike[str],
    *,
    normalization: Normalization | None = None,
    precision: Precision = "float32",
    limits: Limits | None = None,
) -> Extractor:
    """Loads a CLIP image tower or a ViT from a local folder with config.json, weights and preprocessor_config.json.

    The features are the class token after the last layer norm; for CLIP they are projected if the weights include a
    projection. The text tower and classifiers are not read. Images are prepared as preprocessor_config.json says.

    Args:
      path: the folder.
      normalization: replaces preprocessor_config.json; images are then resized (bicubic) straight to the model's size.
      precision: arithmetic of matrix products.
      limits: limits for reading each file, and (``materialised_bytes``) for the tower's parameters.

    Raises:
      CheckpointError: a file is missing or damaged, or a weight is not finite.
      ArchitectureError: the model is of another kind, or the weights are not those that config.json describes.
      DataError: preprocessor_config.json is missing, or images cannot be prepared as it says.
    """
    folder, limits = Path(path), limits or Limits()
    if not (folder / CONFIG).is_file():
        raise CheckpointError(folder, f"there is no {CONFIG if folder.is_dir() else 'such folder'}; {WANTED}")
    shape = read_shape(folder / CONFIG)
    if count_bytes(shape) > limits.materialised_bytes:
        raise ArchitectureError(
            f"{folder / CONFIG} describes {count_bytes(shape)} bytes of parameters, more than "
            f"{limits.materialised_bytes} (Limits.materialised_bytes)"
        )
    preparation = _prepare(folder, shape, normalization)
    weights = open_weights(folder, limits)
    if weights is None:
        seen = ", ".join(sorted(each.name for each in folder.iterdir())[:10])
        raise CheckpointError(folder, f"there are no weights among {seen}; {WANTED}")
    shape, params, sha256 = _load(weights, shape)
    run = _Run(shape, preparation, precision)
    provenance = {
        "kind": "folder",
        "path": str(path),
        "sha256": sha256,
        "architecture": shape.family,
        "poisoned": "unknown",
    }
    most = max(1, min(BATCH, _ATTENTION_BYTES // (4 * shape.heads * shape.tokens**2)))
    compute = partial(tower_features, run, jax.device_put(params))
    return Extractor(folder.resolve().name, shape.dim, shape.image_shape, provenance, compute, most)


@dataclass(frozen=True)
class _Run:
    """Everything that the compiled program depends on."""

    shape: VitShape
    preparation: Preparation
    precision: Precision


@partial(jax.jit, static_argnums=0)
def tower_features(run: _Run, params: Tree, images: jax.Array) -> jax.Array:
    """Features [B, F] of uint8 images of any size."""
    pixels = run.preparation.geometry(images).astype(jnp.float32) / 255
    normalization = run.preparation.normalization
    mean, std = (jnp.asarray(each, jnp.float32)[None, None, None] for each in (normalization.mean, normalization.std))
    return vit_features(run.shape, params, (pixels - mean) / std, run.precision)


def _prepare(folder: Path, shape: VitShape, normalization: Normalization | None) -> Preparation:
    if normalization is not None:
        geometry = Geometry(shape.image_shape, shape.image_shape[:2], "cubic")
        return Preparation(geometry, normalization.for_channels(shape.image_shape[2]))
    for name in PROCESSORS:
        if (folder / name).exists():
            return read_preparation(folder / name, shape)
    raise DataError(
        f"{folder} has no preprocessor_config.json, which says how images are resized and normalised; put it there "
        "(it is in the repository that the weights come from), or give a normalization"
    )


def _load(weights: Weights, shape: VitShape) -> tuple[VitShape, Tree, str]:
    """The tower (without a projection if the weights lack one), its parameters, and the sha256 of what was read."""
    root = find_root(shape.family, weights.places)
    if PROJECTION not in weights.places:
        shape = replace(shape, projection=None)
    check_keys(shape, root, weights.places)
    tensors, sha256 = weights.read(entries(shape, root))
    return shape, from_tensors(shape, root, tensors), sha256

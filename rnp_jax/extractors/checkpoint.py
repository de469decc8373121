"""A PyTorch classifier's penultimate activations as features."""

from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import jax

from rnp_jax.checkpoints import Model, load_model
from rnp_jax.extractors.extractor import Extractor, Provenance
from rnp_jax.extractors.preprocessing import Geometry
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Variables


def from_checkpoint(path: str | PathLike[str], **options: Any) -> Extractor:
    """Makes an extractor from any supported PyTorch checkpoint. Nothing in the checkpoint is executed.

    The features are the input of the classifier's last layer: the spatial mean of the last activation. Images of
    another size are resized (bilinear, antialiased) to the size the network was made for. If the checkpoint's card
    names an attack, ``provenance`` and ``caution`` say so.

    Args:
      path: the checkpoint file.
      **options: options of ``load_model``.

    Raises:
      CheckpointError, ArchitectureError, DataError: as in ``load_model``.
    """
    model = load_model(path, **options)
    return from_network(Path(path).stem, model.network, model.variables, _provenance(path, model))


def from_network(name: str, network: Network, variables: Variables, provenance: Provenance) -> Extractor:
    """An extractor from a classifier in memory; its features are what its last layer reads."""
    geometry = Geometry(network.architecture.image_shape, network.architecture.image_shape[:2])
    shape = jax.ShapeDtypeStruct((1, *geometry.image_shape), "uint8")
    dim = jax.eval_shape(partial(network_features, network, geometry), variables, shape).shape[-1]
    compute = partial(network_features, network, geometry, jax.device_put(variables))
    return Extractor(name, dim, geometry.image_shape, provenance, compute)


@jit_settings(1, static=1)
def network_features(network: Network, geometry: Geometry, variables: Variables, images: jax.Array) -> jax.Array:
    """Features [B, D] of uint8 images of any size."""
    return network.features(variables, geometry(images))[0]


def _provenance(path: str | PathLike[str], model: Model) -> dict[str, str | float | int]:
    known: dict[str, str | float | int] = {
        "kind": "checkpoint",
        "path": str(path),
        "sha256": model.checkpoint.sha256,
        "architecture": model.network.architecture.name,
        "poisoned": "unknown",
    }
    if model.card is None:
        return known
    known |= {"data": model.card.data, "poisoned": "no" if model.card.attack is None else "yes"}
    if model.card.attack is not None:
        known["attack"] = model.card.attack.name
        if model.card.attack.rate is not None:
            known["rate"] = model.card.attack.rate
    return known

"""Opens an extractor from a file or a folder."""

from os import PathLike
from pathlib import Path

from rnp_jax.data import Normalization
from rnp_jax.errors import CheckpointError
from rnp_jax.extractors.checkpoint import from_checkpoint
from rnp_jax.extractors.extractor import Extractor
from rnp_jax.extractors.folder import from_folder


def open_extractor(path: str | PathLike[str], *, normalization: Normalization | None = None) -> Extractor:
    """Opens the extractor of a PyTorch checkpoint (a file) or of a Hugging Face model (a folder).

    Raises:
      CheckpointError: the path does not exist or cannot be read.
      ArchitectureError, DataError: as in ``from_checkpoint`` and ``from_folder``.
    """
    found = Path(path)
    if found.is_dir():
        return from_folder(found, normalization=normalization)
    if not found.exists():
        raise CheckpointError(
            path,
            "nothing is there; give a PyTorch checkpoint file, or a folder with config.json, model.safetensors "
            "and preprocessor_config.json of a published CLIP or ViT. Nothing is downloaded",
        )
    return from_checkpoint(found, normalization=normalization)

"""A model as it came, with the extractor that a head on features reads its inputs from."""

from dataclasses import dataclass, fields

import numpy as np

from rnp_jax.checkpoints import Model
from rnp_jax.extractors import Extractor, feature_set
from rnp_jax.types import Batch


@dataclass(frozen=True, eq=False)
class Suspect(Model):
    """A model and, for a head on features, the frozen extractor that its inputs come from."""

    extractor: Extractor | None = None

    def read(self, batch: Batch) -> Batch:
        """Images as the network reads them: themselves, or their features."""
        return batch if self.extractor is None else feature_set(self.extractor, batch)


def as_suspect(model: Model) -> Suspect:
    """The model, with no extractor where it has none."""
    if isinstance(model, Suspect):
        return model
    return Suspect(**{each.name: getattr(model, each.name) for each in fields(model)})


def read_features(extractor: Extractor, images: np.ndarray) -> np.ndarray:
    """Features as a head reads them, float32 [N, 1, 1, D]."""
    return extractor(images)[:, None, None]

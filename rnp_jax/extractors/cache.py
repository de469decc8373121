"""Features computed once, for image sets that differ in a few images."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from rnp_jax.extractors.extractor import Extractor


@dataclass(frozen=True, eq=False)
class CachedFeatures:
    """An extractor that knows the features of one image set, and computes those of changed images alone.

    Poisoned training sets are such sets: of one set with another trigger, another rate or another seed, only the
    poisoned images are new.

    Attributes:
      extractor: computes features.
      images: whose features are known.
      features: theirs.
    """

    extractor: Extractor
    images: UInt8[np.ndarray, "N H W C"]
    features: Float[np.ndarray, "N D"]

    @classmethod
    def of(cls, extractor: Extractor, images: UInt8[np.ndarray, "N H W C"]) -> "CachedFeatures":
        """Computes the features to be known."""
        return cls(extractor, images, extractor(images))

    def __call__(self, images: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N D"]:
        """Features of images; those equal, place by place, to the known ones are not computed again."""
        if images.shape != self.images.shape:
            return self.extractor(images)
        changed = np.flatnonzero((images != self.images).any(axis=(1, 2, 3)))
        if not changed.size:
            return self.features
        features = self.features.copy()
        features[changed] = self.extractor(images[changed])
        return features

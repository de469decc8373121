"""A cache of features, for image sets that differ in only a few images."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from rnp_jax.extractors.extractor import Extractor


@dataclass(frozen=True, eq=False)
class CachedFeatures:
    """An extractor that stores the features of one image set and computes only those of changed images.

    This suits poisoned training sets: if the same set is poisoned with another trigger, rate or seed, only the poisoned
    images are new.

    Attributes:
      extractor: computes features.
      images: images whose features are stored.
      features: the stored features.
    """

    extractor: Extractor
    images: UInt8[np.ndarray, "N H W C"]
    features: Float[np.ndarray, "N D"]

    @classmethod
    def of(cls, extractor: Extractor, images: UInt8[np.ndarray, "N H W C"]) -> "CachedFeatures":
        """Computes and stores the features of the images."""
        return cls(extractor, images, extractor(images))

    def __call__(self, images: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N D"]:
        """Features of images; an image equal to the stored one at the same position is not computed again."""
        if images.shape != self.images.shape:
            return self.extractor(images)
        changed = np.flatnonzero((images != self.images).any(axis=(1, 2, 3)))
        if not changed.size:
            return self.features
        features = self.features.copy()
        features[changed] = self.extractor(images[changed])
        return features

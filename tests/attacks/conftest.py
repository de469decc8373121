"""Real images that need no download: scikit-learn's digits as 32x32 RGB."""

import numpy as np
import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """300 digits, uint8 [N, 32, 32, 3] with a different tint per channel, and their labels int32 [N]."""
    images, labels = load_digits(return_X_y=True)
    grey = np.kron(images[:300].reshape(-1, 8, 8), np.ones((1, 4, 4))) * 15
    return np.stack([grey, 255 - grey, grey / 2 + 60], -1).astype(np.uint8), labels[:300].astype(np.int32)

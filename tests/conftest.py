"""Strictness shared by every test: implicit rank promotion and dtype promotion are errors."""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
os.environ["RNP_JAX_CACHE"] = "off"  # here and in the processes that tests start: the user's cache is none of ours

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Larger reference material beside the checkout; tests that use it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no reference material beside the checkout")
    return SHARED

"""Strictness shared by every test: implicit rank promotion and dtype promotion are errors."""

import os
from pathlib import Path

import jax
import pytest

from rnp_jax.compilation import drop_programs, enable_cache
from tests.runs import attacked, defended, extracted, fails, head, small_clean, small_victim, trained_anew

__all__ = ["attacked", "defended", "extracted", "fails", "head", "small_clean", "small_victim", "trained_anew"]

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Compiling is most of what the tests do: programs are kept between runs. The user's own cache is none of ours, here and
# in the processes that tests start, some of which count on taking their time.
os.environ["RNP_JAX_CACHE"] = "off"
enable_cache(Path(__file__).parents[1] / ".pytest_cache" / "programs")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def pytest_configure(config: pytest.Config) -> None:
    """Fast tests compile more than they compute: their programs are not optimised. Slow ones compile as users do."""
    if config.option.markexpr == "not slow":
        jax.config.update("jax_disable_most_optimizations", True)
        if jax.__version_info__ < (0, 11):  # XLA dies of flags that it does not know
            with pytest.MonkeyPatch.context() as patch:  # read once; processes that tests start go without
                patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false")
                jax.devices()


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """A worker compiles thousands of programs, more than a process may have memory maps for."""
    yield
    drop_programs()


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Larger reference material beside the checkout; tests that use it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no reference material beside the checkout")
    return SHARED

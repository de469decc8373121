"""Counting compilations."""

from typing import Any


def count_compiled(jitted: Any) -> int:
    """How many programs a jitted function has been compiled to in this process."""
    return jitted._cache_size()

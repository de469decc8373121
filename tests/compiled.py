"""Counting compilations."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax


def count_compiled(jitted: Any) -> int:
    """How many programs a jitted function has been compiled to in this process."""
    return jitted._cache_size()


@contextmanager
def watch_compilations() -> Iterator[Counter[str]]:
    """The programs that this process compiles within, those found in a cache on disk too, by the function's name."""
    found: Counter[str] = Counter()

    def listen(event: str, duration_secs: float, **named: str | int) -> None:
        del duration_secs
        if event.endswith("backend_compile_duration"):
            found[str(named["fun_name"]).removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)

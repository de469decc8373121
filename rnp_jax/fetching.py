"""Results of a device, fetched while it computes the next ones."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax


def fetch_late(found: Iterable[Any], *, watched: bool = True) -> Iterator[Any]:
    """Each tree of arrays on the host, in order, fetched once the next one was asked for.

    A program is dispatched without waiting for its result. So the device goes on while the host waits for the result
    before, and no more than two are kept on it. Where nobody watches, the host waits once, for all of them.
    """
    if not watched:
        yield from jax.device_get(list(found))
        return
    waiting: list[Any] = []
    for tree in found:
        waiting.append(tree)
        if len(waiting) == 2:
            yield jax.device_get(waiting.pop(0))
    yield from map(jax.device_get, waiting)

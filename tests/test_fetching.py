"""The order in which results are asked for and fetched."""

import jax
import numpy as np
import pytest

from rnp_jax.fetching import fetch_late


@pytest.mark.parametrize("count", [0, 1, 4])
def test_each_is_fetched_after_the_next_was_asked_for(count, monkeypatch):
    events, get = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: (events.append(("fetched", int(tree["at"]))), get(tree))[1])

    def ask():
        for i in range(count):
            events.append(("asked", i))
            yield {"at": jax.device_put(np.int32(i))}

    found = list(fetch_late(ask()))
    assert all(isinstance(tree["at"], np.ndarray | np.int32) for tree in found)
    assert [int(tree["at"]) for tree in found] == [*range(count)]
    expected = [("asked", 0)] * bool(count)
    for i in range(1, count):
        expected += [("asked", i), ("fetched", i - 1)]
    assert events == expected + [("fetched", count - 1)] * bool(count)


def test_where_nobody_watches_all_are_fetched_together(monkeypatch):
    asked, get = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda trees: (asked.append(len(trees)), get(trees))[1])
    found = fetch_late(({"at": jax.device_put(np.int32(i))} for i in range(3)), watched=False)
    assert [int(tree["at"]) for tree in found] == [0, 1, 2]
    assert asked == [3]

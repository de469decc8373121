"""What several items share, made once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class Recent:
    """The last few values, by what they depend on.

    Args:
      most: how many are kept.

    Example:
      >>> recent = Recent(2)
      >>> recent.get("a", lambda: 1), recent.get("a", lambda: 2), recent.peek("b")
      (1, 1, None)
    """

    def __init__(self, most: int):
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._most = most

    def peek(self, key: Hashable) -> Any:
        """The value, if it is kept; None else."""
        return self._values.get(key)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value, made now if it is not kept; the one that was used longest ago then gives way."""
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)
        return self._values[key]

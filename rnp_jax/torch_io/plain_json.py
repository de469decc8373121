"""JSON that nobody trusts, in which no name appears twice."""

import json
from os import PathLike
from typing import Any

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.text import quote


def parse_json(raw: bytes, path: str | PathLike[str], name: str) -> Any:
    """The value that a text stands for.

    Args:
      raw: the text.
      path: its file, for errors.
      name: what it is called in errors.

    Raises:
      CheckpointError: it is not JSON, is nested too deep, or gives a name twice.
    """

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise CheckpointError(path, f"{name} gives a name twice")
        return result

    try:
        return json.loads(raw, object_pairs_hook=build)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"{name} is not plain JSON: {quote(str(error))}") from error

"""Find and remove backdoors in image classifiers: load, defend, save.

The public names are those of ``__init__.pyi``. Each is imported when it is first used, so that ``import rnp_jax`` takes
no time.
"""

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _places() -> dict[str, tuple[str, str]]:
    """Module and name there of every public name."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8"))
    return {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_places())
    if name not in _places():
        raise AttributeError(f"module 'rnp_jax' has no attribute {name!r}")
    module, original = _places()[name]
    value = globals()[name] = getattr(importlib.import_module(module), original)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_places()})

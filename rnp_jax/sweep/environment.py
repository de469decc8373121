"""Variables of the environment: those of every Python that a sweep starts, and this process's own for a while."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Has Python import no module that lies in the current folder, which may be that of the checkpoints."""


@contextmanager
def set_variables(values: Mapping[str, str], replace: bool = False) -> Iterator[None]:
    """The environment with these variables; those that are set already stay as they are, or are replaced meanwhile."""
    before = {name: os.environ.get(name) for name in values if replace or name not in os.environ}
    os.environ.update({name: values[name] for name in before})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

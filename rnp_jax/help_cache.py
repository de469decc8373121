"""The help pages of commands, kept between runs: to make one, everything that computes is imported."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rnp_jax.atomic import write_atomic
from rnp_jax.cache_folder import cache_folder, check_private, is_switched_on, make_private
from rnp_jax.errors import ConfigError, DiskFullError
from rnp_jax.regular_file import MIB, read_regular
from rnp_jax.source_version import code_version

_FOLDER = "help"


def read_help(arguments: Sequence[str]) -> str | None:
    """The page that these arguments gave before, from the same code and for a terminal as wide; None without one."""
    path = _place(arguments)
    with contextlib.suppress(OSError, ConfigError, UnicodeDecodeError):
        if path is not None:
            check_private(path.parent)
            return read_regular(path, MIB).decode("utf-8")
    return None


def keep_help(arguments: Sequence[str], page: str) -> None:
    """Keeps a page, if there is a folder for it; pages of other versions of the code go."""
    path = _place(arguments)
    if path is None:
        return
    with contextlib.suppress(OSError, ConfigError, DiskFullError):
        make_private(path.parent)
        for other in path.parent.parent.iterdir():
            if other != path.parent and len(other.name) == len(path.parent.name):
                shutil.rmtree(other)
        write_atomic(path, page.encode())


def forget_help() -> None:
    """Removes every kept page.

    Raises:
      ConfigError: the folder is not the user's own.
      OSError: a page cannot be removed.
    """
    folder = cache_folder() / _FOLDER
    if folder.exists():
        check_private(folder)
        for page in folder.glob("*/*.txt"):
            page.unlink(missing_ok=True)


def _place(arguments: Sequence[str]) -> Path | None:
    """The file of a page; None where nothing is kept, or a preset has its say in the page."""
    if any(each == "--config" or each.startswith("--config=") for each in arguments):
        return None
    with contextlib.suppress(ConfigError):
        if is_switched_on():
            decisive = repr((list(arguments), shutil.get_terminal_size().columns, os.environ.get("NO_COLOR")))
            name = hashlib.sha256(decisive.encode("utf-8", "surrogateescape")).hexdigest()[:32]
            return cache_folder() / _FOLDER / code_version()[:16] / f"{name}.txt"
    return None

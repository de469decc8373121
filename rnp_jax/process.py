"""What a command needs of its process: streams that take any text and no noise, open files; and a bug's last words."""

import io
import logging
import os
import platform
import resource
import sys
import tempfile
import traceback
from collections.abc import Sequence

from rnp_jax.errors import OutsideError
from rnp_jax.source_version import code_version
from rnp_jax.untrusted_text import spell_hidden

_FEWEST_FILES = 128
_MOST_FILES = 4096
_LEVEL, _FATAL = "TF_CPP_MIN_LOG_LEVEL", "3"


def prepare_process() -> None:
    """Makes the standard streams usable whatever they are, and lets the process have enough files open.

    It has to come before JAX is imported: what XLA and absl log for their developers is kept out, unless the variable
    ``TF_CPP_MIN_LOG_LEVEL`` of the environment asks for it. Child processes inherit it.

    Raises:
      OutsideError: the limit of open files is too low, and cannot be raised.
    """
    _open_streams()
    _still()
    _raise_file_limit()


def keep_traceback(error: BaseException, arguments: Sequence[str]) -> str:
    """Writes a bug's traceback, the arguments and the versions into a new file of the folder for temporary files.

    Returns:
      Its path.

    Raises:
      OSError: no file can be made there.
    """
    told = [f"rnp-jax {' '.join(arguments)}", f"code {code_version()}, Python {platform.python_version()}"]
    told += traceback.format_exception(error)
    descriptor, path = tempfile.mkstemp(prefix="rnp-jax-", suffix=".log", text=True)
    with open(descriptor, "wb") as file:
        file.write(spell_hidden("\n".join(told)).encode())
    return path


def _open_streams() -> None:
    """A closed standard stream goes to the null device: the next file to be opened would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # in a locale that lacks a letter


def _still() -> None:
    if _LEVEL not in os.environ:
        os.environ[_LEVEL] = _FATAL  # whatever else fails comes as an exception, too
        logging.getLogger("absl").setLevel(logging.ERROR)


def _raise_file_limit() -> None:
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if most == resource.RLIM_INFINITY else min(most, _MOST_FILES)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        now = wanted
    if now != resource.RLIM_INFINITY and now < _FEWEST_FILES:
        raise OutsideError(f"this process may open {now} files, expected {_FEWEST_FILES}: run ulimit -n {_MOST_FILES}")

"""How many threads compute on a processor: sums that they split in another way differ in their last bits."""

import os
from typing import Final

from rnp_jax.checks import take_option
from rnp_jax.errors import ConfigError

VARIABLES: Final = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Of the environment: the number of threads of XLA, and of the libraries under NumPy and scikit-learn."""

_OPTION: Final = "--threads"


def take_threads(arguments: list[str]) -> list[str]:
    """Obeys ``--threads N`` among the arguments of a command, and gives the others.

    It has to come before NumPy is imported and JAX starts. Child processes inherit it.

    Raises:
      ConfigError: N is missing, no number, or more than the processors that this process may use.
    """
    rest, given = take_option(arguments, _OPTION)
    if given is not None:
        limit_threads(given)
    return rest


def limit_threads(count: str) -> None:
    """Has this process and its children compute with so many threads.

    Raises:
      ConfigError: as ``take_threads``.
    """
    most = len(os.sched_getaffinity(0))
    if not (count.isascii() and count.isdecimal() and len(count) < 9 and 1 <= int(count) <= most):
        raise ConfigError(f"{_OPTION} is {count!r:.100}, expected a number from 1 to {most}, the processors to be used")
    os.environ.update(dict.fromkeys(VARIABLES, str(int(count))))


def count_threads() -> int:
    """With how many threads XLA computes on the processors of this machine."""
    given = os.environ.get("NPROC", "")
    if given.isascii() and given.isdecimal() and len(given) < 9 and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0))

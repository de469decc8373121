"""What XLA is asked to do on a GPU beyond its defaults. Other devices take no notice of it."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from rnp_jax.checks import take_option
from rnp_jax.errors import ConfigError

FLAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "graphs": "--xla_gpu_enable_command_buffer=+CONVOLUTION,+WHILE,+CONDITIONAL",
        "deterministic": "--xla_gpu_deterministic_ops=true",
    }
)
"""``graphs`` launches whole loops at once, convolutions among them: many small kernels wait for their launches.
``deterministic`` uses only kernels that give the same bytes in every run."""

_OPTION: Final = "--gpu"
_VARIABLE: Final = "XLA_FLAGS"
_SHARE: Final = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_USED: Final = 0.9  # of a GPU's memory, by all processes together


def take_gpu_flags(arguments: list[str]) -> list[str]:
    """Obeys ``--gpu NAME,…`` among the arguments of a command, and gives the others.

    It has to come before JAX starts. Child processes inherit it; what ``XLA_FLAGS`` says already goes before it.

    Raises:
      ConfigError: a name that is none of ``FLAGS``.
    """
    rest, given = take_option(arguments, _OPTION)
    if given is not None:
        names = given.split(",")
        if not set(names) <= FLAGS.keys():
            raise ConfigError(f"{_OPTION} is {given!r:.100}, expected some of {', '.join(FLAGS)}, with commas between")
        own = os.environ.get(_VARIABLE, "")
        os.environ[_VARIABLE] = " ".join([*(FLAGS[name] for name in FLAGS if name in names), *own.split()])
    return rest


def share_memory(processes: int) -> dict[str, str]:
    """Variables with which several processes on one GPU get equal parts of its memory; one takes it as it likes."""
    if processes < 2 or _SHARE in os.environ:
        return {}
    return {_SHARE: f"{_USED / processes:.3f}"}

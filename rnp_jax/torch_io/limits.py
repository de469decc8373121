"""How much an untrusted checkpoint may ask for before it is refused."""

import math
from dataclasses import dataclass, fields
from typing import Final

from rnp_jax.errors import ConfigError

_MIB = 2**20
_CEILINGS = {
    "depth": 200,  # the writer recurses; Python allows about 1000 frames
    "integer_bytes": 255,  # what the opcode LONG1 can write
    "rank": 64,  # what a NumPy array can have
}


@dataclass(frozen=True)
class Limits:
    """Upper bounds on what reading one checkpoint costs. The defaults hold every released image classifier we know.

    Attributes:
      file_bytes: size of the file.
      pickle_bytes: size of one pickle.
      header_bytes: size of the JSON header of a safetensors file.
      opcodes: pickle instructions executed, plus the items that an instruction copies.
      nodes: values in the tree, a shared value counted each time it appears.
      depth: levels of nesting, at most 200.
      members: members of the zip archive, tensors of a safetensors file, or modules and tensors of whole modules.
      integer_bytes: size of one pickled integer, at most 255.
      materialised_bytes: all tensors of a state dict together, as arrays in memory.
      rank: dimensions of a tensor, at most 64.

    Raises:
      ConfigError: a bound is negative, or above what can be held or written back.
    """

    file_bytes: int = 8192 * _MIB
    pickle_bytes: int = 64 * _MIB
    header_bytes: int = 8 * _MIB
    opcodes: int = 1_000_000
    nodes: int = 2_000_000
    depth: int = 64
    members: int = 100_000
    integer_bytes: int = 64
    materialised_bytes: int = 4096 * _MIB
    rank: int = 8

    def __post_init__(self):
        for field in fields(self):
            value, ceiling = getattr(self, field.name), _CEILINGS.get(field.name, math.inf)
            if not 0 <= value <= ceiling:
                raise ConfigError(f"Limits.{field.name} is {value}; give a number from 0 to {ceiling}")


DEFAULT_LIMITS: Final = Limits()

"""PyTorch checkpoints without torch: read without executing anything, written so that torch loads them."""

from rnp_jax.torch_io.checkpoint import Checkpoint, materialise
from rnp_jax.torch_io.copies import NO_COPIES, Copies, Copy, find_copies
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import Opaque, TensorRef
from rnp_jax.torch_io.pickle_arrays import ArrayNode
from rnp_jax.torch_io.plain_pickle import read_plain_pickle
from rnp_jax.torch_io.reader import read_checkpoint
from rnp_jax.torch_io.state_dict import Checked, StateDict, check_consumed, find_state_dict
from rnp_jax.torch_io.writer import Change, write_checkpoint, write_state_dict

__all__ = [
    "NO_COPIES",
    "ArrayNode",
    "Change",
    "Checked",
    "Checkpoint",
    "Copies",
    "Copy",
    "Limits",
    "Opaque",
    "StateDict",
    "TensorRef",
    "check_consumed",
    "find_copies",
    "find_state_dict",
    "materialise",
    "read_checkpoint",
    "read_plain_pickle",
    "write_checkpoint",
    "write_state_dict",
]

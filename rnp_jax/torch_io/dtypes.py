"""Element types: the names that torch, numpy and safetensors give them."""

from typing import Final

import ml_dtypes
import numpy as np

DTYPES: Final[dict[str, np.dtype]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
}
"""The element types that become arrays, by torch's name."""

_UNSUPPORTED_SIZES: Final[dict[str, int]] = {
    "complex64": 8,
    "complex128": 16,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
    "quint4x2": 1,
    "quint2x4": 1,
    "untyped": 1,
}

STORAGES: Final[dict[str, str]] = {
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.QInt8Storage": "qint8",
    "torch.QUInt8Storage": "quint8",
    "torch.QInt32Storage": "qint32",
    "torch.QUInt4x2Storage": "quint4x2",
    "torch.QUInt2x4Storage": "quint2x4",
    "torch.UntypedStorage": "untyped",
    "torch.storage.UntypedStorage": "untyped",
}
"""The element type of each storage class that a pickle may name."""

STORAGE_NAMES: Final[dict[str, str]] = {
    dtype: name.removeprefix("torch.") for name, dtype in STORAGES.items() if dtype in DTYPES
}
"""The storage class, within the module ``torch``, of each supported element type."""

SAFETENSORS: Final[dict[str, str]] = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "BOOL": "bool",
}
"""Torch's name of each supported element type of the safetensors format."""


def itemsize(dtype: str) -> int:
    """Bytes an element takes in a file."""
    return DTYPES[dtype].itemsize if dtype in DTYPES else _UNSUPPORTED_SIZES[dtype]

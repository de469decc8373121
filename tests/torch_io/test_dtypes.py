"""The tables of names against the libraries they come from."""

import numpy as np
import pytest
import safetensors.numpy
import torch

from rnp_jax.torch_io.dtypes import DTYPES, SAFETENSORS, STORAGE_NAMES, STORAGES, itemsize

QUANTISED = ("qint8", "quint8", "qint32", "quint4x2", "quint2x4")


@pytest.mark.parametrize("name", DTYPES)
def test_an_element_type_has_torchs_name_and_size(name):
    dtype = getattr(torch, name)
    assert DTYPES[name].name == name
    assert itemsize(name) == DTYPES[name].itemsize == dtype.itemsize


@pytest.mark.parametrize("name", ["complex64", "complex128", *QUANTISED])
def test_an_unsupported_element_type_has_torchs_size(name):
    assert itemsize(name) == getattr(torch, name).itemsize


@pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated")
@pytest.mark.parametrize("name", STORAGES)
def test_a_storage_class_holds_what_the_table_says(name):
    kind = torch.storage.UntypedStorage if name.endswith("UntypedStorage") else getattr(torch, name.split(".")[1])
    if kind is torch.UntypedStorage:
        assert STORAGES[name] == "untyped"
        assert itemsize("untyped") == kind(3).nbytes() / 3
    else:
        assert kind.dtype == getattr(torch, STORAGES[name])


def test_each_supported_element_type_can_be_written():
    assert set(STORAGE_NAMES) == set(SAFETENSORS.values()) == set(DTYPES)
    assert {f"torch.{name}": dtype for dtype, name in STORAGE_NAMES.items()}.items() <= STORAGES.items()


@pytest.mark.parametrize("short", SAFETENSORS)
def test_safetensors_gives_the_short_names(short):
    content = safetensors.numpy.save({"w": np.zeros(1, DTYPES[SAFETENSORS[short]])})
    assert f'"dtype":"{short}"'.encode() in content

"""Arrays of one of several expected headers; what else a file may hold is tested with whole artefacts."""

import io

import numpy as np
import pytest

from rnp_jax.npy import read_npy

LIKES = [np.empty((2, 3), np.float32), np.empty((3, 2), np.uint8)]


def written(array: np.ndarray, **options) -> io.BytesIO:
    file = io.BytesIO()
    np.save(file, array, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("array", [np.float32([[1, 2, 3], [4, 5, 6]]), np.uint8([[1, 2], [3, 4], [5, 6]])])
def test_any_of_the_expected_headers_is_read(array):
    found = read_npy(written(array), "a.npy", LIKES)
    np.testing.assert_array_equal(found, array, strict=True)
    assert found.flags.writeable


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 2), np.float32), np.zeros((2, 3)), np.zeros((3, 2), np.float32).T, np.zeros((2, 3), object)],
)
def test_another_header_is_refused(array):
    with pytest.raises(ValueError, match=r"a.npy is .* expected .*'<f4'.*\(2, 3\)"):
        read_npy(written(array), "a.npy", LIKES)


def test_the_first_expected_shape_and_dtype_are_named_and_the_length_is_checked():
    whole = written(np.zeros((2, 3), np.float32)).getvalue()
    for content, error in ((whole[:-1], "holds 23 bytes"), (whole + b"\0", "holds 25 bytes")):
        with pytest.raises(EOFError, match=f"a.npy {error} or more, expected 24"):
            read_npy(io.BytesIO(content), "a.npy", LIKES)
    with pytest.raises(ValueError, match=r"a\.npy is b''"):
        read_npy(io.BytesIO(), "a.npy", LIKES)


def test_values_are_finite():
    with pytest.raises(ValueError, match=r"a\.npy holds values that are not finite"):
        read_npy(written(np.full((2, 3), np.inf, np.float32)), "a.npy", LIKES)

"""Pickles of plain values and byte arrays: what pickle reads, or a typed error, and nothing executed."""

import contextlib
import os
import pickle
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import DEFAULT_LIMITS, Limits
from rnp_jax.torch_io.plain_pickle import read_plain_pickle
from tests.damage import OPCODES, damaged

TEXT = st.text(max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 6)


def read(data: bytes, limits: Limits = DEFAULT_LIMITS):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch"
        path.write_bytes(data)
        return read_plain_pickle(path, limits=limits)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(value=VALUES, protocol=st.integers(0, 4))
def test_plain_values_come_back_as_pickle_reads_them(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("array", [PIXELS, np.asfortranarray(PIXELS)])
def test_byte_arrays_come_back_in_either_order(array, protocol):
    found = read(pickle.dumps({"data": array, "n": 3}, protocol))
    np.testing.assert_array_equal(found["data"].value, array)
    assert found["data"].value.dtype == np.uint8
    assert found["n"] == 3


def write_as_python2(pixels):
    """The bytes that Python 2's cPickle gives for {'data': pixels, 'labels': [6, 300]} in protocol 2."""
    content = pixels.tobytes()
    return b"".join([
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b",
        b"\x87Rq\x05(K\x01K", bytes([pixels.shape[0]]), b"K", bytes([pixels.shape[1]]),
        b"\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"\x89T", len(content).to_bytes(4, "little"), content,
        b"tbU\x06labelsq\x08]q\x09(K\x06M\x2c\x01eu.",
    ])  # fmt: skip


def test_a_file_of_python_2_reads_as_pickle_reads_it():
    data = write_as_python2(PIXELS + np.uint8(200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the old name of numpy's module
        expected = pickle.loads(data, encoding="latin1")
    found = read(data)
    np.testing.assert_array_equal(found["data"].value, expected["data"])
    assert found["labels"] == expected["labels"] == [6, 300]


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_command_is_refused_and_not_run(tmp_path, protocol):
    victim = tmp_path / "executed"
    with pytest.raises(CheckpointError, match=r'data\["data"\] holds "posix\.system", which is not a plain value'):
        read(pickle.dumps({"data": Command(victim)}, protocol))
    assert not victim.exists()
    pickle.loads(pickle.dumps(Command(victim), protocol))
    assert victim.exists(), "the attack itself must work, or the test shows nothing"


DTYPE = b"cnumpy\ndtype\n"
HOLLOW = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
HOSTILE = {
    "object array": HOLLOW + b"(K\x01K\x01\x85" + DTYPE + b"U\x02O8K\x00K\x01\x87R\x89U\x08AAAAAAAAtb.",
    "shape beyond content": HOLLOW + b"(K\x01J\xff\xff\xff\x7f\x85" + DTYPE + b"U\x02u1K\x00K\x01\x87R\x89U\x01Atb.",
    "negative shape": HOLLOW + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"U\x02u1K\x00K\x01\x87R\x89U\x01Atb.",
    "array without content": HOLLOW + b".",
    "array built twice": HOLLOW + (b"(K\x01K\x01\x85" + DTYPE + b"U\x02u1\x85R\x89U\x01Atb") * 2 + b".",
    "other subtype": HOLLOW.replace(b"ndarray", b"dtype") + b"(K\x01K\x01\x85" + DTYPE + b"U\x02u1\x85R\x89U\x01Atb.",
    "ndarray called": b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R.",
    "codec other than latin1": b"c_codecs\nencode\nU\x01AU\x03zip\x86R.",
    "state set on a global": b"cnumpy\ndtype\n}U\x08__call__U\x01xsb.",
    "module by a dotted path": b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93.",
    "global of no strings": b"]]\x93.",
    "persistent id": b"Pos\n.",
    "instance": b"(U\x02idios\nsystem\n.",
    "extension": b"\x82\x01.",
    "new object": b"cnumpy\ndtype\n)\x81.",
    "a list as a key": b"}]K\x01s.",
    "a list that holds itself": b"]q\0h\0a.",
    "a tuple as a key": b"}K\x01\x85K\x01s.",
    "a name as a key": b"}cos\nsystem\nK\x01s.",
    "an array as a key": b"}" + HOLLOW + b"K\x01s.",
    "a set": b"\x8f.",
    "a bytearray": b"\x96" + b"\0" * 8 + b".",
    "bytes at the end": b"K\x01.K",
    "a string of protocol 0": b"S'a'\n.",
    "items for a number": b"K\x01K\x02a.",
    "values left over": b"K\x01K\x02.",
    "no value": b".",
    "too few values for a tuple": b"K\x01\x86.",
    "unknown memo": b"h\x07.",
    "mark never set": b"K\x01e.",
    "no stop": b"K\x01",
    "empty": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_everything_else_is_refused(name):
    with pytest.raises(CheckpointError):
        read(HOSTILE[name])


@pytest.mark.parametrize(
    "data",
    [
        b"K\x01r\xff\xff\xff\x7f.",  # a memo index of two billion
        b"})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01s.",  # a key of 2^60 parts
        b")q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"h\x00\x93.",  # a global whose name has as many
    ],
    ids=["memo", "key", "name"],
)
def test_a_small_file_costs_little(data):
    start = time.perf_counter()
    with contextlib.suppress(CheckpointError):
        read(data)
    assert time.perf_counter() - start < 1


TEXT_OF_64K = b"X\0\0\1\0" + b"x" * 2**16 + b"q\0"
ENCODE = b"c_codecs\nencode\nh\0U\x06latin1\x86R"
ARRAY = HOLLOW + b"(K\x01J\0\0\1\0\x85" + DTYPE + b"U\x02u1\x85R\x89h\0tb"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"](" + TEXT_OF_64K + ENCODE + b"e.", None),
        (b"](" + TEXT_OF_64K + ENCODE * 1000 + b"e.", r"byte strings of more than \d+ bytes"),
        (b"](" + TEXT_OF_64K + ARRAY * 200 + b"e.", r"byte strings of more than \d+ bytes"),
        (b"I" + b"x" * 1000 + b"\n.", r'byte 1002: "x{80}"... is not an integer$'),
    ],
    ids=["bytes once", "bytes often", "arrays", "message"],
)
def test_memory_stays_in_proportion_to_the_file(data, message):
    tracemalloc.start()
    try:
        if message is None:
            assert read(data)[1] == b"x" * 2**16
        else:
            with pytest.raises(CheckpointError, match=message):
                read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20 + 80 * len(data)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(opcodes=99), r"Limits\.opcodes"),
        (Limits(nodes=97), r"Limits\.nodes"),
        (Limits(file_bytes=100), r"Limits\.file_bytes"),
        (Limits(pickle_bytes=100), r"Limits\.pickle_bytes"),
        (Limits(depth=0), r"Limits\.depth"),
    ],
)
def test_each_limit_holds(limits, reason):
    data = b"](" + b"N" * 97 + b"e."
    assert read(data, Limits(opcodes=100, nodes=98, file_bytes=101, pickle_bytes=101, depth=1)) == [None] * 97
    with pytest.raises(CheckpointError, match=reason):
        read(data, limits)


FUZZ = settings(max_examples=300, deadline=None, derandomize=True)
DAMAGED = [damaged(write_as_python2(PIXELS)), *(damaged(pickle.dumps({"data": PIXELS}, p)) for p in (0, 2, 5))]


@FUZZ
@given(st.one_of(DAMAGED))
def test_a_damaged_file_is_read_or_refused(content):
    with contextlib.suppress(CheckpointError):
        read(content)


@FUZZ
@given(st.lists(st.sampled_from(OPCODES).map(lambda code: bytes([code])) | st.binary(max_size=4), max_size=60))
def test_any_opcodes(parts):
    with contextlib.suppress(CheckpointError):
        read(b"".join(parts))

import contextlib
import io
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.attacks.artefact import load_artefact, save_artefact
from rnp_jax.attacks.badnets import BadNets
from rnp_jax.attacks.registry import ATTACKS
from rnp_jax.attacks.wanet import WaNet
from rnp_jax.errors import DataError

SHAPE = (16, 20, 3)
SMALL = WaNet(grid_size=2)


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def write_member(path, content: bytes, name="grid.npy"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)


@pytest.mark.parametrize("name", ATTACKS)
def test_artefact_survives_and_numpy_reads_it(name, tmp_path):
    attack = ATTACKS[name]()
    params = attack.init(SHAPE)
    save_artefact(tmp_path / "a.npz", params)
    loaded = load_artefact(tmp_path / "a.npz", attack, SHAPE)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as plain:
        assert set(plain.files) == loaded.keys() == params.keys()
        for key, array in params.items():
            np.testing.assert_array_equal(loaded[key], array)
            np.testing.assert_array_equal(plain[key], array)
            assert loaded[key].dtype == array.dtype


def test_numpy_writes_what_is_read_and_values_come_from_the_file(tmp_path):
    grid = np.random.default_rng(0).random((16, 20, 2), np.float32)
    np.savez(tmp_path / "a.npz", grid=grid)
    np.testing.assert_array_equal(load_artefact(tmp_path / "a.npz", WaNet(), SHAPE)["grid"], grid)


def test_same_arrays_make_the_same_bytes(tmp_path):
    for name in "ab":
        save_artefact(tmp_path / name, BadNets().init(SHAPE))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_missing_and_unknown_arrays_are_listed(tmp_path):
    np.savez(tmp_path / "a.npz", pattern=np.zeros(3))
    with pytest.raises(DataError, match=r"- grid.npy\n\+ pattern.npy"):
        load_artefact(tmp_path / "a.npz", WaNet(), SHAPE)


def test_another_shape_is_refused(tmp_path):
    save_artefact(tmp_path / "a.npz", WaNet().init((32, 32, 3)))
    with pytest.raises(DataError, match=r"grid.npy is .*\(32, 32, 2\).* expected .*\(16, 20, 2\)"):
        load_artefact(tmp_path / "a.npz", WaNet(), SHAPE)


def test_pickled_objects_are_refused_unread(tmp_path):
    content = io.BytesIO()
    np.save(content, np.array([{"a": 1}], object), allow_pickle=True)
    write_member(tmp_path / "a.npz", content.getvalue())
    with pytest.raises(DataError, match=r"grid.npy is .*'\|O'.* expected .*'<f4'"):
        load_artefact(tmp_path / "a.npz", WaNet(), SHAPE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("(1000000000000,)"), r"\(1000000000000,\)"),
        (header("(16, 20, 2)") + b"\0" * 8, "holds 8 bytes or more, expected 2560"),
        (header("(16, 20, 2)") + bytes(2564), "holds 2561 bytes or more, expected 2560"),
        (header("(16, 20, 2)") + np.full(640, np.nan, np.float32).tobytes(), "not finite"),
        (header("(16, 20"), "not this attack's artefact"),
        (b"", "not this attack's artefact"),
    ],
)
def test_damaged_members_are_refused(tmp_path, content, message):
    write_member(tmp_path / "a.npz", content)
    with pytest.raises(DataError, match=message):
        load_artefact(tmp_path / "a.npz", WaNet(), SHAPE)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_any_damage_is_a_data_error_or_harmless(tmp_path_factory, position, value, cut):
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    save_artefact(path, SMALL.init((2, 2, 1)))
    content = bytearray(path.read_bytes())
    position %= len(content)
    content[position] = value
    path.write_bytes(content[:position] if cut else content)
    with contextlib.suppress(DataError):
        assert load_artefact(path, SMALL, (2, 2, 1))["grid"].shape == (2, 2, 2)


def test_deeply_nested_headers_and_other_compressions_are_refused(tmp_path):
    write_member(tmp_path / "deep.npz", header("(" * 9000))
    with zipfile.ZipFile(tmp_path / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("grid.npy", header("(16, 20, 2)"))
    for name in ("deep.npz", "lzma.npz"):
        with pytest.raises(DataError, match="not this attack's artefact"):
            load_artefact(tmp_path / name, WaNet(), SHAPE)


def test_files_that_are_no_archive_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    for name in ("text.npz", "absent.npz"):
        with pytest.raises(DataError, match="not this attack's artefact"):
            load_artefact(tmp_path / name, WaNet(), SHAPE)


def test_repeated_members_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("grid.npy", header("(16, 20, 2)"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("grid.npy", header("(16, 20, 2)"))
    with pytest.raises(DataError, match="appears twice"):
        load_artefact(tmp_path / "a.npz", WaNet(), SHAPE)


def test_only_a_regular_file_of_about_the_right_size_is_read(tmp_path):
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    write_member(tmp_path / "large.npz", bytes(2**21))
    for name, message in (
        ("fifo.npz", "a FIFO, not a regular file"),
        ("zero.npz", "a device or socket"),
        ("large.npz", r"bytes, more than 1052672 \(Limits.file_bytes\)"),
    ):
        with pytest.raises(DataError, match=message):
            load_artefact(tmp_path / name, SMALL, (16, 16, 1))

"""Every way a checkpoint is known to attack or mislead its reader, by number: a typed error, and nothing happens."""

import io
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Limits, check_consumed, find_state_dict, read_checkpoint
from tests.torch_io import hostile as h

SYSTEM = h.call("posix", "system", h.text(h.COMMAND))
HUGE = struct.pack("<Q", 2**40)
OBJECT = h.name("evil", "Thing") + b")\x81"


def nested(opening: bytes, closing: bytes, depth: int, core: bytes = b"N") -> bytes:
    return opening * depth + core + closing * depth


def laughs() -> bytes:
    """Ten references to ten references ..., thirty levels deep."""
    body = b"](K\x01eq\x00"
    for level in range(30):
        body += b"](" + b"h" + bytes([level]) + (b"h" + bytes([level])) * 9 + b"eq" + bytes([level + 1])
    return h.tuple_(body)


def with_members(*extra: h.Member) -> bytes:
    return h.archive(*h.torch_members(h.GOOD), *extra)


def renamed(name: str | bytes) -> bytes:
    return with_members(h.Member(name, b"x"))


def changed_last(**lies) -> bytes:
    members = h.torch_members(h.GOOD)
    for field, value in lies.items():
        setattr(members[-1], field, value)
    return h.archive(*members)


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"))
    return buffer.getvalue()


def tar_that_begins_as_legacy() -> bytes:
    """Torch asks first whether a file is a tar archive, so that is what it is, whatever follows."""
    start = h.MAGIC + h.pickled(h.integer(1001)) + h.PROTO + b"}("
    length = tarfile.BLOCKSIZE - len(start) - 5
    block = bytearray(start + b"X" + struct.pack("<I", length) + bytes(length))
    block[100:156] = b"0000644\0" + b"0000000\0" * 2 + 2 * b"00000000000\0" + b" " * 8
    block[156:157] = b"0"
    block[148:156] = b"%06o\0 " % sum(block)
    root = h.dict_(state_dict=h.ordered(w=h.tensor(view=b"N")))
    return bytes(block) + b"\x88" + h.text("little_endian") + b"\x88u." + h.legacy(root)[len(h.MAGIC) :]


def pickle_cases():
    in_dict = h.beside_tensor
    yield 1, "reduce at the root", h.torch_zip(SYSTEM), "posix.system"
    yield 1, "reduce in the state dict", in_dict(SYSTEM), "posix.system"
    yield 1, "reduce as a key", h.torch_zip(b"}(" + SYSTEM + h.tensor() + b"u"), "posix.system"
    yield (
        2,
        "stack_global at the root",
        h.torch_zip(h.text("os") + h.text("system") + b"\x93(" + h.text("id") + b"tR"),
        "os.system",
    )
    yield 2, "stack_global in the state dict", in_dict(h.text("os") + h.text("system") + b"\x93)R"), "os.system"
    yield 3, "inst", in_dict(b"(" + h.text("id") + b"iposix\nsystem\n"), "INST"
    yield 4, "obj", in_dict(b"(" + h.name("posix", "system") + h.text("id") + b"o"), "OBJ"
    yield 5, "newobj", in_dict(OBJECT), "evil.Thing"
    yield 5, "newobj_ex", in_dict(h.name("evil", "Thing") + b")}\x92"), "evil.Thing"
    yield 6, "setstate", in_dict(OBJECT + h.dict_(__setstate__=SYSTEM) + b"b"), "evil.Thing"
    yield (
        6,
        "slot state",
        h.torch_zip(h.ordered(state=h.tuple_(b"N", h.dict_(items=SYSTEM)), w=h.tensor())),
        "_metadata",
    )
    yield 7, "shadowed items", h.torch_zip(h.ordered(state=h.dict_(items=SYSTEM), w=h.tensor())), "_metadata"
    yield (
        8,
        "nested load_from_bytes",
        in_dict(h.call("torch.storage", "_load_from_bytes", b"C\x03abc")),
        "_load_from_bytes",
    )
    yield 9, "ext1", in_dict(b"\x82\x01"), "EXT1"
    yield 9, "ext2", in_dict(b"\x83\x01\x00"), "EXT2"
    yield 9, "ext4", in_dict(b"\x84\x01\x00\x00\x00"), "EXT4"
    yield 10, "persistent id of a call", in_dict(SYSTEM + b"Q"), "persistent id"
    yield 10, "persistent id of another class", in_dict(h.storage(kind="nn.Linear")), "torch.nn.Linear"
    yield 10, "textual persistent id", in_dict(b"Pevil\n"), "PERSID"
    deep = h.tuple_(nested(b"]", b"a", 3000), h.name("torch", "FloatStorage"), b"N") + b"Q"
    yield 10, "persistent id of deep nesting", in_dict(deep), "a list of 1 values"
    yield 11, "rot13", in_dict(h.call("_codecs", "encode", h.text("os"), h.text("rot13"))), "latin1"
    yield 11, "not latin1", in_dict(h.call("_codecs", "encode", h.text("\u20ac"), h.text("latin1"))), "latin1"
    yield 12, "huge bytearray", in_dict(h.call("builtins", "bytearray", h.integer(2**40))), "builtins.bytearray"
    yield 12, "huge FloatTensor", in_dict(h.call("torch", "FloatTensor", h.integer(2**40))), "torch.FloatTensor"
    yield 13, "memo index", in_dict(b"Nr" + struct.pack("<I", 2**27)), "memo index 134217728"
    yield 14, "bytes of 2**40", in_dict(b"\x8e" + HUGE + b"abc"), "1099511627776 bytes"
    yield 14, "bytearray of 2**40", in_dict(b"\x96" + HUGE + b"abc"), "1099511627776 bytes"
    yield 15, "text of 4 GiB", in_dict(b"X\xff\xff\xff\xffabc"), "4294967295 bytes"
    yield 15, "text of 2**40", in_dict(b"\x8d" + HUGE + b"abc"), "1099511627776 bytes"
    yield 16, "integer of 1 MiB", in_dict(b"\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20), "integer of 1048576"
    yield 16, "integer of negative length", in_dict(b"\x8b" + struct.pack("<i", -1)), "integer of -1"
    yield 17, "deep list", in_dict(nested(b"]", b"a", 20_000)), "nested deeper"
    yield 17, "deep dict", in_dict(nested(b"}" + h.text("k"), b"s", 20_000)), "nested deeper"
    yield 17, "deep tuple", in_dict(nested(b"", b"\x85", 20_000)), "nested deeper"
    yield 18, "deep tuple as a key", in_dict(b"}" + nested(b"", b"\x85", 20_000) + b"Ns"), "dict key of type tuple"
    yield 19, "billion laughs", in_dict(laughs()), "Limits.nodes"
    yield 20, "list in itself", in_dict(b"]q\x00h\x00a"), "holds itself"
    yield 20, "dict in itself", in_dict(b"}q\x00" + h.text("k") + b"h\x00s"), "holds itself"
    yield 20, "metadata of itself", h.torch_zip(
        h.name("collections", "OrderedDict") + b")Rq\x00" + h.text("w") + h.tensor() + b"s}"
        + h.text("_metadata") + b"h\x00sb"), "holds itself"  # fmt: skip
    empty = h.name("collections", "OrderedDict") + b")R"
    chain = empty + nested(b"}" + h.text("_metadata") + empty, b"sb", 1000, b"")
    yield 17, "deep metadata", in_dict(chain), "nested deeper"
    yield (
        20,
        "empty dict, metadata of itself",
        in_dict(empty + b"q\0}" + h.text("_metadata") + b"h\0sb"),
        "holds itself",
    )
    state = h.dict_(_metadata=h.ordered(version=SYSTEM))
    yield (
        1,
        "reduce in the metadata",
        h.torch_zip(h.dict_(state_dict=h.ordered(state=state, w=h.tensor()))),
        "posix.system",
    )
    yield 21, "no stop", h.archive(h.Member("archive/data.pkl", h.PROTO + h.GOOD)), "the file ends"
    yield 21, "empty pickle", h.archive(h.Member("archive/data.pkl", b"")), "the file ends"
    yield 21, "stack underflow", h.torch_zip(b"00"), "stack is empty"
    yield 21, "pop below a mark", h.torch_zip(b"N(R"), "stack is empty"
    yield 21, "no mark", h.torch_zip(b"Nt"), "no mark"
    yield 21, "memo miss", h.torch_zip(b"h\x07"), "memo index 7"
    yield 21, "two values left", h.torch_zip(b"NN"), "2 values"
    yield 21, "key without a value", h.torch_zip(b"}(Nu"), "key without"
    hidden = [h.Member("\x1b[2J/data.pkl", b"N")]
    yield 21, "control characters in the name of the pickle", h.archive(*hidden), '"\\u001b[2J/data.pkl"'
    yield 22, "bytes after stop", h.archive(h.Member("archive/data.pkl", h.pickled(h.GOOD) + SYSTEM + b".")), "follow"
    twice = b"}(" + 2 * (h.text("w") + h.tensor()) + b"u"
    yield 23, "repeated name", h.torch_zip(h.dict_(state_dict=twice)), '"w" appears twice'
    pairs = h.list_(*2 * [h.tuple_(h.text("w"), h.tensor())])
    yield 23, "repeated name in pairs", h.torch_zip(h.call("collections", "OrderedDict", pairs)), "appears twice"
    yield 24, "payload in sys_info", h.legacy(system=SYSTEM), "system information"
    system = h.dict_(little_endian=b"\x88", type_sizes=h.dict_(short=SYSTEM))
    yield 24, "payload deep in sys_info", h.legacy(system=system), "system information"
    yield 25, "plain pickle", h.pickled(SYSTEM), "plain pickle"
    yield 25, "plain pickle of protocol 4", b"\x80\x04\x95\x02\0\0\0\0\0\0\0N.", "plain pickle"


def tensor_cases():
    yield 26, "huge storage", h.with_tensor(h.tensor(numel=2**40)), 'holds 16 bytes, but tensor data["state_dict"]["w"]'
    yield 27, "record too short", h.with_tensor(h.tensor(), {"0": h.FOUR[:-1]}), "15 bytes"
    yield 27, "record too long", h.with_tensor(h.tensor(), {"0": h.FOUR + b"\0"}), "17 bytes"
    yield 28, "offset out of bounds", h.with_tensor(h.tensor(offset=1)), "element 4"
    yield 28, "offset of an empty view", h.with_tensor(h.tensor(offset=5, shape=(0,), strides=(1,))), "element 4"
    yield 29, "negative offset", h.with_tensor(h.tensor(offset=-1)), "negative"
    yield 30, "negative stride", h.with_tensor(h.tensor(strides=(-2, 1))), "negative"
    yield 31, "expanded scalar", h.with_tensor(h.tensor(shape=(2**38,), strides=(0,))), "materialised_bytes"
    yield (
        32,
        "overflow of the product",
        h.with_tensor(h.tensor(shape=(2**33, 2**33), strides=(0, 0))),
        "materialised_bytes",
    )
    yield 32, "overflow of the offset", h.with_tensor(h.tensor(offset=2**64, shape=(1,), strides=(1,))), "element"
    yield 32, "overflow of the stride", h.with_tensor(h.tensor(shape=(2, 3), strides=(2**63, 2**63))), "element"
    yield 32, "overflow of an empty shape", h.with_tensor(h.tensor(shape=(0, 2**62), strides=(1, 1))), "overflow"
    yield 32, "overflow of an unused stride", h.with_tensor(h.tensor(shape=(1,), strides=(2**62,))), "overflow"
    yield 33, "negative dimension", h.with_tensor(h.tensor(shape=(-2, -2))), "negative"
    yield 33, "boolean dimension", h.with_tensor(
        h.call("torch._utils", "_rebuild_tensor_v2", h.storage(), b"K\0", b"\x88\x85", b"\x88\x85", b"\x89", b"}")
    ), "whole numbers"  # fmt: skip
    yield 34, "nine dimensions", h.with_tensor(h.tensor(shape=(1,) * 9, strides=(1,) * 9)), "9 dimensions"
    yield 34, "rank and strides", h.with_tensor(h.tensor(shape=(2, 2), strides=(1,))), "1 strides"
    other = h.tensor(kind="IntStorage")
    yield 37, "two dtypes", h.torch_zip(h.dict_(state_dict=h.ordered(w=h.tensor(), x=other))), "declared twice"
    other = h.tensor(numel=3, shape=(1,), strides=(1,))
    yield 37, "two sizes", h.torch_zip(h.dict_(state_dict=h.ordered(w=h.tensor(), x=other))), "declared twice"
    yield 38, "no storage", h.with_tensor(h.tensor(), {}), "which is missing from the file"
    yield (
        39,
        "sparse",
        h.beside_tensor(h.call("torch._utils", "_rebuild_sparse_tensor", b"N")),
        "_rebuild_sparse_tensor",
    )
    quantised = h.tensor("1", kind="QInt8Storage")
    yield 39, "quantised storage", h.torch_zip(
        h.dict_(state_dict=h.ordered(w=h.tensor(), x=quantised)), {"0": h.FOUR, "1": b"1234"}), "qint8"  # fmt: skip
    yield 39, "quantised", h.beside_tensor(h.call("torch._utils", "_rebuild_qtensor", b"N")), "_rebuild_qtensor"
    state = h.ordered(w=h.tensor(), x=h.tensor("1", kind="ComplexFloatStorage"))
    yield 39, "complex", h.torch_zip(h.dict_(state_dict=state), {"0": h.FOUR, "1": 2 * h.FOUR}), "complex64"
    yield 39, "meta storage", h.with_tensor(h.tensor(place="meta")), "meta device"
    meta = h.call("torch._utils", "_rebuild_meta_tensor_no_storage", b"N")
    yield 39, "meta", h.beside_tensor(meta), "_rebuild_meta_tensor_no_storage"
    yield (
        39,
        "subclass",
        h.beside_tensor(h.call("torch._tensor", "_rebuild_from_type_v2", b"N")),
        "_rebuild_from_type_v2",
    )
    yield 40, "NaN", h.with_tensor(h.tensor(), {"0": struct.pack("<4f", 1, float("nan"), 3, 4)}), "nan at (0, 1)"
    yield 40, "infinity", h.with_tensor(h.tensor(), {"0": struct.pack("<4f", 1, 2, 3, float("inf"))}), "inf at (1, 1)"
    variance = h.torch_zip(
        h.dict_(state_dict=h.ordered(running_var=h.tensor())), {"0": struct.pack("<4f", 1, 2, -3, 4)}
    )
    yield 40, "negative variance", variance, "negative variance -3"


def container_cases():
    for name in (
        "archive/../../evil",
        "/etc/passwd",
        "archive\\evil",
        "archive/a\0b",
        "archive//x",
        "c:/x",
    ):
        yield 41, f"name {name!r}", renamed(name), "unsafe name"
    yield 41, "name that is not UTF-8", renamed(b"archive/\xff"), "not UTF-8"
    yield 41, "folder that holds bytes", renamed("archive/"), "named as a folder, but holds 1 bytes"
    yield 41, "name of 64 KiB", renamed("archive/" + "x" * 65_000), "a name of 65008 bytes"
    for name in ("archive/DATA/0", "archive/data.PKL", "archive/BYTEORDER"):  # torch would read it in another's place
        yield 45, f"name {name!r}", renamed(name), "capital letters"
    yield 42, "storage key", h.with_tensor(h.tensor("../../../etc/passwd")), "which is missing from the file"
    bomb = zlib.compress(b"\0" * 2**24)[2:-4]
    yield 43, "deflate bomb", with_members(h.Member("archive/data/1", bomb, method=8, size=2**24)), "compressed"
    yield 44, "deflated member", with_members(h.Member("archive/data/1", b"x", method=8)), "compressed"
    yield 44, "stored, sizes differ", changed_last(size=1), "compressed"
    yield 45, "repeated member", with_members(h.Member("archive/data/0", h.FOUR)), "appears twice"
    yield 46, "local name", changed_last(local_name="archive/versio_"), "disagree"
    wrong = bytearray(h.torch_zip(h.GOOD))
    wrong[6] ^= 8  # the first local header claims a data descriptor
    yield 46, "local flags", bytes(wrong), "disagree"
    wrong = bytearray(h.torch_zip(h.GOOD))
    wrong[22] ^= 1
    yield 46, "local size", bytes(wrong), "disagree"
    yield 46, "header elsewhere", changed_last(header=10**6), "no header"
    outer = [*h.torch_members(h.GOOD), h.Member("archive/outer", h.archive(h.Member("archive/inner", b"x"))[:44])]
    place = h.archive(*outer).index(b"archive/inner") - 30
    yield 47, "member within a member", h.archive(*outer, h.Member("archive/inner", b"x", header=place)), "overlaps"
    yield 48, "encrypted", changed_last(flags=1), "encrypted"
    yield 48, "strongly encrypted", changed_last(flags=0x41), "encrypted"
    good = h.torch_zip(h.GOOD)
    for length in (10, 100, len(good) // 2, len(good) - 1):
        yield 49, f"cut after {length}", good[:length], "truncated"
    yield 49, "bytes added", good + b"\0", "bytes added"
    yield 50, "two roots", with_members(h.Member("other/data.pkl", b"N.")), "2 folders"
    yield 50, "member beside the root", with_members(h.Member("evil", b"x")), "2 folders"
    yield 51, "checksum", changed_last(crc=1), "checksum"
    yield 53, "byte order", h.torch_zip(h.GOOD, byteorder=b"middle"), "middle"
    yield 54, "TorchScript", with_members(h.Member("archive/constants.pkl", b"N.")), "TorchScript"
    yield 54, "TorchScript code", with_members(h.Member("archive/code/__torch__.py", b"")), "TorchScript"
    yield 55, "pt2", with_members(h.Member("archive/archive_format", b"pt2")), "pt2"
    yield 55, "pt2 of torch 2.1", h.archive(h.Member("serialized_exported_program.json", b"{}")), "pt2"
    yield 55, "numpy zip", h.archive(h.Member("w.npy", b"x")), "without data.pkl"
    announced = h.dict_(state_dict=h.ordered(w=h.tensor(view=b"N")))
    yield 56, "legacy storage cut", h.legacy(announced)[:-1], "truncated"
    yield 56, "legacy count cut", h.legacy(announced, storages=b"\x04\0"), "should hold 4"
    yield 56, "legacy count differs", h.legacy(announced, storages=struct.pack("<q", 5) + h.FOUR + b"1234"), "holds 5"
    yield 56, "legacy bytes added", h.legacy(announced) + b"\0", "follow"
    yield 57, "legacy keys missing", h.legacy(announced, keys=b"]"), "missing"
    yield 57, "legacy keys extra", h.legacy(announced, keys=h.list_(h.text("0"), h.text("1"))), "no tensor uses"
    yield 57, "legacy keys repeated", h.legacy(announced, keys=h.list_(h.text("0"), h.text("0"))), "repeats"
    yield 57, "legacy keys of another type", h.legacy(announced, keys=h.list_(b"N")), "not a list of texts"
    yield 57, "legacy payload in keys", h.legacy(announced, keys=SYSTEM), "not a list of texts"
    yield 58, "legacy big endian", h.legacy(announced, system=h.dict_(little_endian=b"\x89")), "big-endian"
    yield 59, "tar", tar(), "tar archive"
    yield 59, "tar that begins as legacy", tar_that_begins_as_legacy(), "tar archive"
    yield 60, "empty file", b"", "empty"
    yield 60, "HTML page", b"\r\n<!DOCTYPE html><html>", "HTML"
    yield 60, "Git-LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"
    yield 60, "gzip", b"\x1f\x8b\x08", "gzip"
    yield 60, "noise", bytes(range(32)), "not a known container"
    yield 60, "empty zip", h.archive(), "empty zip"
    yield (
        62,
        "module. on some names",
        h.torch_zip(b"}(" + h.text("module.w") + h.tensor() + h.text("x") + h.tensor() + b"u"),
        "1 of 2",
    )
    counted = {"module." * 200_001 + "w": h.tensor(), "module." * 200_000 + "x": h.tensor()}
    yield 62, "module. very often", h.torch_zip(h.dict_(state_dict=h.ordered(**counted))), "more than 1024"
    parts = h.dict_(_modules=b"}", _parameters=b"}", _buffers=b"}")
    module = h.name("models", "Net") + b")\x81" + parts + b"b"
    yield 70, "empty module", h.torch_zip(module), "no state dict"
    yield 70, "empty module under a key", h.torch_zip(h.dict_(model=module, epoch=b"K\x01")), "no state dict"
    yield 70, "part of a module", h.torch_zip(module.replace(b"_buffers", b"_puffers")), "one object and no tensors"
    old = h.tuple_(h.text("module"), h.name("models", "Net"), h.text("net.py"), h.text("import os")) + b"Q"
    old += b")\x81" + parts + b"b"
    yield 70, "empty legacy module", h.legacy(old, keys=b"]", storages=b""), "no state dict"


def parametrise(cases):
    return pytest.mark.parametrize(
        ("content", "word"), [pytest.param(c[2], c[3], id=f"{c[0]:02}-{c[1].replace(' ', '-')}") for c in cases]
    )


def load(path):
    """All that importing a file does before it looks for an architecture."""
    checkpoint = read_checkpoint(path)
    state_dict = find_state_dict(checkpoint)
    check_consumed(state_dict.tensors, state_dict.tensors, path)
    return state_dict


@parametrise([*pickle_cases(), *tensor_cases(), *container_cases()])
def test_a_bad_file_ends_in_a_typed_error(content, word, tmp_path, watch):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        watch(lambda: load(path), path)
    assert word in caught.value.reason
    assert caught.value.path == path
    assert len(str(caught.value)) < 1000


PAYLOADS = {
    "posix.system": SYSTEM,
    "evil.Thing": OBJECT + h.dict_(__setstate__=SYSTEM) + b"b",
    "builtins.bytearray": h.call("builtins", "bytearray", h.integer(2**40)),
    "torch.storage._load_from_bytes": h.call("torch.storage", "_load_from_bytes", b"C\x03abc"),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_beside_the_state_dict_is_reported_and_left_unread(name, tmp_path, watch):
    path = tmp_path / "model.pt"
    path.write_bytes(h.torch_zip(h.dict_(state_dict=h.ordered(w=h.tensor()), x=h.list_(b"N", PAYLOADS[name]))))
    checkpoint = watch(lambda: read_checkpoint(path), path)
    assert checkpoint.anomalies == (f'data["x"]: {name}, left unread',)
    assert find_state_dict(checkpoint).tensors["w"].tolist() == [[1, 2], [3, 4]]


def test_35_many_tensors_of_one_storage_are_refused_before_any_is_copied(tmp_path, watch):
    storage, shape = b"\0" * 2**20, (2**18,)
    views = {f"w{i}": h.tensor(numel=2**18, shape=shape, strides=(1,)) for i in range(400)}
    path = tmp_path / "model.pt"
    path.write_bytes(h.torch_zip(h.dict_(state_dict=h.ordered(**views)), {"0": storage}))
    checkpoint = read_checkpoint(path, limits=Limits(materialised_bytes=300 * 2**20))
    with pytest.raises(CheckpointError, match="419430400 bytes, more than 314572800"):
        watch(lambda: find_state_dict(checkpoint), path, budget=2**20)


def test_36_overlapping_views_are_read_each_for_itself(tmp_path, watch):
    path = tmp_path / "model.pt"
    row = h.tensor(offset=1, shape=(3,), strides=(1,))
    path.write_bytes(h.torch_zip(h.dict_(state_dict=h.ordered(w=h.tensor(), x=h.tensor(), row=row))))
    tensors = watch(lambda: load(path), path).tensors
    tensors["w"][:] = 0
    assert tensors["x"].tolist() == [[1, 2], [3, 4]]
    assert tensors["row"].tolist() == [2, 3, 4]


def test_51_a_wrong_checksum_is_accepted_on_demand_and_reported(tmp_path, watch):
    path = tmp_path / "model.pt"
    path.write_bytes(changed_last(crc=1))
    checkpoint = watch(lambda: read_checkpoint(path, check_crc=False), path)
    assert checkpoint.anomalies == ("the checksums of the zip members were not checked",)


def test_52_big_endian_loads(tmp_path, watch):
    path = tmp_path / "model.pt"
    path.write_bytes(h.torch_zip(h.GOOD, {"0": struct.pack(">4f", 1, 2, 3, 4)}, byteorder=b"big"))
    array = watch(lambda: load(path), path).tensors["w"]
    assert array.dtype == np.float32
    assert array.dtype.isnative
    assert array.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("kind", ["directory", "FIFO", "device", "missing", "dangling link", "NUL"])
def test_61_only_regular_files_are_read(kind, tmp_path, watch):
    path = tmp_path / "model.pt"
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "absent")
    elif kind == "NUL":
        path = tmp_path / "model\0.pt"
    word = {"directory": "a directory", "FIFO": "a FIFO", "device": "a device"}.get(kind, "")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert caught.value.reason.startswith(f"cannot be read: {word}")


def test_61_a_link_to_a_regular_file_is_read(tmp_path, watch):
    (tmp_path / "blob").write_bytes(h.torch_zip(h.GOOD))
    path = tmp_path / "model.pt"
    path.symlink_to("blob")
    assert list(watch(lambda: load(path), path).tensors) == ["w"]


@pytest.mark.parametrize("name", ["/proc/self/status", "/sys/devices/system/cpu/online"])
def test_61_a_file_whose_length_is_not_what_was_announced(name):
    if not os.path.exists(name):
        pytest.skip("needs the kernel's own files: the first announces 0 bytes, the second 4096, neither is true")
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_checkpoint(name)


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_62_a_prefix_on_all_names_is_stripped(prefix, tmp_path, watch):
    path = tmp_path / "model.pt"
    items = {f"{prefix}w": h.tensor(), f"{prefix}module_x": h.tensor()}
    path.write_bytes(h.torch_zip(h.dict_(state_dict=h.ordered(**items))))
    state_dict = watch(lambda: load(path), path)
    assert state_dict.prefix == prefix
    assert list(state_dict.tensors) == ["w", "module_x"]


def test_67_images_and_numpy_objects_beside_the_model_stay_opaque(tmp_path, watch):
    image = h.name("PIL.Image", "Image") + b")\x81" + h.list_(b"}", h.text("RGB"), b"C\x03abc") + b"b"
    array = h.call("numpy.core.multiarray", "_reconstruct", h.name("numpy", "ndarray"), b"K\0\x85", b"C\x01b")
    array += h.tuple_(b"K\x01", b"K\x01\x85", b"N", b"\x89", b"C\x01x") + b"b"
    root = h.dict_(
        model_name=h.text("preactresnet18"), model=h.dict_(w=h.tensor()), bd_train=h.list_(image, image, array)
    )
    path = tmp_path / "attack_result.pt"
    path.write_bytes(h.torch_zip(root))
    checkpoint = watch(lambda: read_checkpoint(path), path)
    assert checkpoint.anomalies == (
        'data["bd_train"]: PIL.Image.Image, left unread (2 times)',
        'data["bd_train"]: numpy.ndarray, left unread',
    )
    assert find_state_dict(checkpoint).location == ("model",)


@pytest.mark.parametrize(
    ("kind", "raw", "dtype"),
    [
        ("HalfStorage", struct.pack("<4e", 1, 2, 3, 4), "float16"),
        ("BFloat16Storage", b"".join(struct.pack("<f", v)[2:] for v in (1, 2, 3, 4)), "bfloat16"),
        ("DoubleStorage", struct.pack("<4d", 1, 2, 3, 4), "float64"),
        ("LongStorage", struct.pack("<4q", 1, 2, 3, 4), "int64"),
    ],
)
def test_68_each_dtype_is_kept(kind, raw, dtype, tmp_path, watch):
    path = tmp_path / "model.pt"
    path.write_bytes(h.with_tensor(h.tensor(kind=kind), {"0": raw}))
    array = watch(lambda: load(path), path).tensors["w"]
    assert str(array.dtype) == dtype
    assert array.astype(float).tolist() == [[1, 2], [3, 4]]


def test_69_an_old_zip_with_addresses_as_keys_and_no_byte_order(tmp_path, watch):
    path = tmp_path / "model.pt"
    path.write_bytes(h.torch_zip(h.dict_(state_dict=h.ordered(w=h.tensor("94563"))), {"94563": h.FOUR}, byteorder=None))
    checkpoint = watch(lambda: read_checkpoint(path), path)
    assert "no byteorder record" in checkpoint.anomalies[0]
    assert find_state_dict(checkpoint).tensors["w"].tolist() == [[1, 2], [3, 4]]


COUNTER = h.name("collections", "Counter") + b"h\0\x85R0"
ENCODE = h.name("_codecs", "encode") + b"h\0" + h.text("latin1") + b"\x86R"
BOMBS = {
    "lists": b"](" + b"]" * 19_900 + b"e",
    "lists in the memo": b"](" + b"]\x94" * 9_900 + b"e",
    "small lists": b"](" + b"]Na" * 6_600 + b"e",
    "counters": b"}(" + b"".join(h.integer(i) + b"N" for i in range(1000)) + b"uq\0" + 999 * COUNTER,
    "bytes": h.text("x" * 2**22) + b"q\0(" + 999 * ENCODE + b"t",
    "names": h.text("x" * 2**22) + b"q\0" + 999 * b"h\0h\0\x93",
    "keys": b"(" + b"N" * 1000 + b"tq\0(" + 999 * b"h\0N" + b"d",
    "marks": b"(" * 19_900,
}


@pytest.mark.parametrize("name", BOMBS)
def test_instructions_that_multiply_memory_are_bounded(name, tmp_path, watch):
    limits = Limits(opcodes=20_000, pickle_bytes=8 * 2**20)
    path = tmp_path / "model.pt"
    path.write_bytes(h.torch_zip(BOMBS[name]))
    with pytest.raises(CheckpointError):
        watch(lambda: find_state_dict(read_checkpoint(path, limits=limits)), path, budget=12 * 2**20)

"""Every reader of files that nobody trusts, with sound files to damage."""

import contextlib
import io
import json
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from hypothesis import strategies as st
from PIL import Image

from rnp_jax.attacks import ATTACKS, describe, load_artefact
from rnp_jax.attacks.artefact import save_artefact
from rnp_jax.card import read_card
from rnp_jax.checkpoints import open_checkpoint
from rnp_jax.commands.defend import DefendOptions
from rnp_jax.config import read_yaml, resolve, write_yaml
from rnp_jax.data.images import decode_image
from rnp_jax.data.loading import load
from rnp_jax.document import Part, Settings, Share, read_document, to_json
from rnp_jax.extractors.folder_config import read_shape
from rnp_jax.masks import read_mask_values, write_mask_values
from rnp_jax.models import Architecture
from rnp_jax.models.inference import entries
from rnp_jax.pipeline.options import names_in, schema_for
from rnp_jax.pipeline.trigger import make_attack
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.report.sweep_table import read_rows
from rnp_jax.store import load_tree, save_tree
from rnp_jax.sweep.manifest import read_entries
from rnp_jax.torch_io import find_state_dict, read_checkpoint, read_plain_pickle, write_checkpoint
from tests.damage import damaged, reworded
from tests.torch_io import hostile

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
LABELS = np.arange(10) % 2
ATTACK = ATTACKS["wanet"](grid_size=2)


class _Document(Part):
    schema_version: int = 1
    share: Share
    settings: Settings


class Reader(NamedTuple):
    """A reader of one kind of file.

    Attributes:
      name: what is read, and what of it is damaged.
      sound: a file that is read.
      inputs: gives it damaged.
      file: the name that a file gets.
      read: reads it, as a command would.
    """

    name: str
    sound: bytes
    inputs: st.SearchStrategy[bytes]
    file: str
    read: Callable[[Path], object]


def _reader(
    name: str,
    content: bytes | str,
    file: str,
    read: Callable[[Path], object],
    wrap: Callable[[bytes], bytes] = bytes,
) -> Reader:
    """A reader whose file, a text or bytes, is damaged before it is wrapped into a sound one."""
    if isinstance(content, str):
        return Reader(name, wrap(content.encode()), reworded(content).map(wrap), file, read)
    return Reader(name, wrap(content), damaged(content).map(wrap), file, read)


def list_readers(folder: Path) -> list[Reader]:
    """All readers; sound files are made in ``folder``."""
    return [*_checkpoints(folder), *_arrays(folder), *_pictures(), *_texts(folder), *_folders(folder)]


def _tensors() -> dict[str, np.ndarray]:
    network = Architecture("mlp", 3, 0, (("0", 4), ("2", 3)), (1, 1, 5))
    return {entry.key: np.ones(entry.shape, np.float32) for entry in entries(network)}


def _read_checkpoint(path: Path) -> None:
    """As ``inspect`` and ``convert`` do."""
    open_checkpoint(path)
    checkpoint = read_checkpoint(path, check_crc=False)
    write_checkpoint(path.with_suffix(".copy"), checkpoint, find_state_dict(checkpoint), {}, overwrite=True)


def _checkpoints(folder: Path) -> Iterator[Reader]:
    plain = safetensors.numpy.save(_tensors(), {"format": "pt"})
    (folder / "m.safetensors").write_bytes(plain)
    source = read_checkpoint(folder / "m.safetensors")
    contents = {"safetensors": plain}
    for container in ("zip", "legacy"):
        write_checkpoint(folder / container, source, find_state_dict(source), {}, container=container)
        contents[container] = (folder / container).read_bytes()
    for name, content in contents.items():
        yield _reader(f"checkpoint, {name}", content, "m.pt", _read_checkpoint)
    with zipfile.ZipFile(folder / "zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def wrap(pickle: bytes) -> bytes:
        changed = {**members, "archive/data.pkl": pickle}
        return hostile.archive(*(hostile.Member(name, content) for name, content in changed.items()))

    pickle = members["archive/data.pkl"]
    yield _reader("checkpoint, pickle in a sound zip", pickle, "m.pt", _read_checkpoint, wrap)

    def wrap_module(pickle: bytes) -> bytes:
        return hostile.archive(
            hostile.Member("archive/data.pkl", pickle), hostile.Member("archive/data/0", hostile.FOUR)
        )

    yield _reader("checkpoint, pickle of a whole module", _whole_module(), "m.pt", _read_checkpoint, wrap_module)
    length = int.from_bytes(plain[:8], "little")
    header, rest = plain[8 : 8 + length].decode(), plain[8 + length :]

    def with_header(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text + rest

    yield _reader("checkpoint, safetensors header", header, "m.pt", _read_checkpoint, with_header)
    values = b"\x80\x02" + hostile.dict_(data=hostile.text("x"), labels=hostile.list_(hostile.integer(3))) + b"."
    yield _reader("plain pickle", values, "batch", read_plain_pickle)


def _whole_module() -> bytes:
    """The pickle of a Sequential of one linear layer."""
    none = hostile.ordered()
    parameters = hostile.ordered(weight=hostile.tensor(), bias=hostile.tensor(shape=(2,), strides=(1,)))
    layer = hostile.dict_(_parameters=parameters, _buffers=none, _modules=none)
    linear = hostile.name("torch.nn.modules.linear", "Linear") + b")\x81" + layer + b"b"
    outer = hostile.dict_(_parameters=none, _buffers=none, _modules=b"}" + hostile.text("0") + linear + b"s")
    return hostile.pickled(hostile.name("torch.nn.modules.container", "Sequential") + b")\x81" + outer + b"b")


def _arrays(folder: Path) -> Iterator[Reader]:
    np.savez(folder / "set.npz", images=IMAGES, labels=LABELS, class_names=["cat", "dog"])
    content = (folder / "set.npz").read_bytes()
    yield _reader("npz, images", content, "set.npz", load)
    array = io.BytesIO()
    np.save(array, IMAGES)
    head, rest = array.getvalue()[:10], array.getvalue()[10:]
    text, values = rest[:118].decode(), rest[118:]

    def wrap(header: bytes) -> bytes:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("images.npy", head[:8] + struct.pack("<H", min(len(header), 65535)) + header + values)
            with file.open("labels.npy", "w") as labels:
                np.lib.format.write_array(labels, LABELS)
        return archive.getvalue()

    yield _reader("npz, header of an array", text, "set.npz", load, wrap)
    save_artefact(folder / "a.npz", ATTACK.init((4, 4, 3)))
    content = (folder / "a.npz").read_bytes()
    yield _reader("trigger, npz", content, "a.npz", lambda path: load_artefact(path, ATTACK, (4, 4, 3)))
    blend = ATTACKS["blend"]()
    picture = _picture("PNG")
    yield _reader("trigger, picture", picture, "a.png", lambda path: load_artefact(path, blend, (4, 4, 3)))


def _picture(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(content, kind)
    return content.getvalue()


def _pictures() -> Iterator[Reader]:
    for kind in ("PNG", "JPEG", "PPM", "BMP"):
        yield _reader(f"image, {kind}", _picture(kind), "a", lambda path: decode_image(path, size=(4, 4)))


def _open_card(path: Path) -> None:
    """As ``defend`` does: a card, its attack and its network."""
    sha256 = re.search(rb'"sha256": *"([0-9a-f]{64})"', path.read_bytes())
    card = read_card(path.with_suffix("").with_suffix(".pt"), sha256.group(1).decode() if sha256 else "")
    if card is None or card.attack is None:
        return
    attack = make_attack(card.attack.name, card.attack.constants)
    hash(attack)
    if not attack.learns():
        attack.init(card.architecture.image_shape)
    if card.architecture.name != "mlp":
        Architecture(card.architecture.name, card.architecture.num_classes, card.architecture.width)


def _card() -> str:
    described = describe(ATTACKS["badnets"]())
    attack = {**described, "target": 0, "mapping": "all_to_one", "rate": 0.1, "variant": "bb", "appended": False}
    return json.dumps(
        {
            "file": "m.pt", "sha256": "0" * 64, "data": "digits", "train_images": 10, "seed": 0, "precision": "float32",
            "architecture": {"name": "resnet18", "num_classes": 10, "width": 4, "image_shape": [8, 8, 3]},
            "normalization": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}, "acc": 0.9, "asr": 1.0, "ra": 0.0,
            "attack": attack | {"poisoned": 3, "indices_sha256": None}, "training": {"epochs": 3}, "augmentation": {},
            "versions": {"jax": "0.10"},
        }
    )  # fmt: skip


def _read_preset(path: Path) -> None:
    values = read_yaml(path)
    resolve(schema_for(DefendOptions, names_in(values.get("method", ()))), values, str(path))


def _texts(folder: Path) -> Iterator[Reader]:
    yield _reader("card", _card(), "m.card.json", _open_card)
    schema = schema_for(DefendOptions, ["rnp"])
    write_yaml(folder / "preset.yaml", schema("m.pt", method="rnp"))
    yield _reader("preset", (folder / "preset.yaml").read_text("utf-8"), "preset.yaml", _read_preset)
    rows = [{"path": "m.pt", "target": 1, "image_shape": [8, 8, 3], "constants": {"size": 3}, "attack": "badnets"}] * 2
    jsonl = "\n".join(json.dumps(row) for row in rows)
    table = 'path,target,image_shape,constants,constants.margin\nm.pt,1,"8,8,3","{""size"": 3}",1\n'

    def read_manifest(path: Path) -> None:
        json.dumps([entry.overrides for entry in read_entries([str(path)])]).encode()

    yield _reader("manifest, jsonl", jsonl, "list.jsonl", read_manifest)
    yield _reader("manifest, csv", table, "list.csv", read_manifest)
    with contextlib.suppress(ImportError):
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({"path": ["m.pt"] * 9, "target": [1] * 9}), folder / "list.parquet")
        content = (folder / "list.parquet").read_bytes()
        yield _reader("manifest, parquet", content, "list.parquet", read_manifest)
    masks = {"bn1": np.ones(3, np.float32), "layer1.0.bn2": np.zeros(2, np.float32)}
    write_mask_values(folder / "mask_values.txt", masks)
    text = (folder / "mask_values.txt").read_text("utf-8")
    yield _reader("mask values", text, "mask_values.txt", lambda path: read_mask_values(path, masks))
    row = SweepRow(key="0" * 64, checkpoint="a.pt", method="rnp", status="rejected", reason="empty")
    yield _reader("row of a sweep", row.model_dump_json(), "rows.jsonl", read_rows)
    document = _Document(share=0.5, settings={"radii": [0.1, 1], "on": True})
    yield _reader("document", to_json(document), "document.json", lambda path: read_document(path, _Document))

    tower = json.dumps({"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "intermediate_size": 8, "image_size": 4, "patch_size": 2, "num_channels": 3})  # fmt: skip
    yield _reader("extractor, config.json", tower, "config.json", read_shape)


def _folders(folder: Path) -> Iterator[Reader]:
    """One part of a sound folder is damaged at a time."""
    save_tree(folder / "state", {"a": np.arange(20.0)}, {"epoch": 1})
    for part in ("tree/_METADATA", "tree/manifest.ocdbt", "metadata/metadata", "_CHECKPOINT_METADATA"):
        content = (folder / "state" / part).read_bytes()

        def read(path: Path, part: str = part) -> None:
            with tempfile.TemporaryDirectory(dir=path.parent) as copy:
                shutil.copytree(folder / "state", Path(copy) / "state")
                shutil.copy(path, Path(copy) / "state" / part)
                load_tree(Path(copy) / "state")

        text = content if part.endswith("ocdbt") else content.decode()
        yield _reader(f"orbax, {part}", text, "part", read)

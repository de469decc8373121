"""Prepared TensorFlow Datasets by name, read without TensorFlow and without a network."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from rnp_jax.checks import MOST_CLASSES
from rnp_jax.data.cifar import CIFAR10_CLASSES
from rnp_jax.data.dataset import Dataset
from rnp_jax.data.images import decode_image, stack_images
from rnp_jax.data.splits import Split, split_whole
from rnp_jax.errors import DataError
from rnp_jax.image_cache import Decoded, keep_images, name_entry, read_images
from rnp_jax.regular_file import MIB, open_descriptor, read_regular

_READABLE = ("array_record", "parquet")  # the formats with random access, which need no TensorFlow
_TEST_SPLITS = ("test", "validation", "val")
_CHUNK = 1024
_TEXT_BYTES = 64 * MIB
_FEATURES = (
    *("FeaturesDict", "Sequence", "Image", "LabeledImage", "ClassLabel", "BBoxFeature"),
    *("Tensor", "Scalar", "Text"),
)
"""What an image classification set may hold; reading these runs no other code."""

_UNREADABLE = (
    *(OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, ImportError),
)


def default_data_dir() -> Path:
    """Where TensorFlow Datasets keeps prepared sets: ``$TFDS_DATA_DIR``, else ``~/tensorflow_datasets``."""
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")))


def find_prepared(data_dir: Path) -> dict[str, Path]:
    """Every set prepared under ``data_dir``: its folder by ``name[/config]`` (newest version) and ``name…:version``."""
    found = []
    for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json"):
        for info in data_dir.glob(pattern):
            if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name):
                name = info.parent.parent.relative_to(data_dir).as_posix()
                found.append((name, tuple(map(int, info.parent.name.split("."))), info.parent))
    prepared: dict[str, Path] = {}
    for name, _, folder in sorted(found):
        prepared[name] = prepared[f"{name}:{folder.name}"] = folder
    return prepared


def list_known() -> list[str]:
    """The names of all sets that TensorFlow Datasets itself defines, prepared or not."""
    import tensorflow_datasets as tfds  # imported late: most commands never need it

    return tfds.list_builders(with_community_datasets=False)


def explain_preparing(name: str, data_dir: Path) -> str:
    """How to prepare a set that is not there."""
    return (
        f"{name} is known to TensorFlow Datasets but not prepared under {data_dir}, and nothing is downloaded on its "
        f"own. Prepare it once: pip install tensorflow-cpu (only preparing needs it), then python -c "
        f"\"import tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='{data_dir}', "
        f"file_format='array_record').download_and_prepare()\"; or name the folder it is in with --data-dir"
    )


def load_tfds(
    folder: Path, name: str, split: Split, size: tuple[int, int] | None = None, *, undivided: bool = False
) -> Dataset:
    """Read the set prepared in ``folder`` (one version's), in its stored order.

    The test part is ``test``, else ``validation``; a set that has only ``train`` is split into four fifths and one
    fifth of each class, or left ``undivided``. A large set's images are kept decoded for later runs, which then map
    them (see ``image_cache``).

    Raises:
      DataError: if it is damaged, stored in a format that only TensorFlow reads, not an image classification set, or
        holds images of different sizes while ``size`` is None.
    """
    entry = name_entry(folder, split=split, size=size)
    found = read_images(entry)
    if found is None:
        found = _decode(folder, name, split, size)
        keep_images(entry, *found)
    part, class_names = found.facts["part"], tuple(found.facts["class_names"])
    dataset = Dataset(found.images, found.labels, class_names, f"{name} ({part})")
    return split_whole(dataset, split, undivided) if found.facts["undivided"] else dataset


def _decode(folder: Path, name: str, split: Split, size: tuple[int, int] | None) -> Decoded:
    import tensorflow_datasets as tfds  # imported late: most commands never need it
    from google.protobuf import json_format, message

    try:
        builder = _open_builder(tfds, folder)
        file_format = builder.info.file_format
        if file_format is None or file_format.value not in _READABLE:
            raise DataError(
                f"{name}: prepared as {file_format and file_format.value} in {folder}, which only TensorFlow reads; "
                f"prepare it again in another data_dir with file_format='array_record'"
            )
        image_key, label_key = _find_keys(tfds, builder.info, name)
        part = _choose_split(list(builder.info.splits), split, name)
        skip: Any = {image_key: tfds.decode.SkipDecoding()}
        source = builder.as_data_source(split=part, decoders=skip)
        channels = builder.info.features[image_key].shape[-1] or 3
        images, labels = _read_records(source, image_key, label_key, channels, size)
        class_names = tuple(builder.info.features[label_key].names)
    except (*_UNREADABLE, message.Error, json_format.Error) as error:
        raise DataError(f"{name}: cannot be read from {folder} ({error}); prepare it again") from error
    if builder.info.name == "cifar10" and class_names == tuple(map(str, range(10))):
        class_names = CIFAR10_CLASSES  # prepared without its label file
    stacked = stack_images(images, [f"index {index}" for index in range(len(images))], name)
    facts = {"part": part, "class_names": class_names, "undivided": len(builder.info.splits) == 1}
    return Decoded(stacked, labels, facts)


def _open_builder(tfds: Any, folder: Path) -> Any:
    """The set's reader, made from a checked description of its features and from no other.

    Left to itself, TensorFlow Datasets imports whatever module a description names, and looks for descriptions in
    several forms and files; some of those modules may lie in the data's own folder.
    """
    from google.protobuf import json_format
    from tensorflow_datasets.core import dataset_info, read_only_builder
    from tensorflow_datasets.core.proto import feature_pb2

    _check_files(folder)
    messages: Any = feature_pb2
    told = read_regular(folder / "features.json", _TEXT_BYTES).decode("utf-8")
    features = json_format.Parse(told, messages.Feature())
    kinds = [getattr(tfds.features, name) for name in _FEATURES]
    _check_features(folder / "features.json", features, {f"{kind.__module__}.{kind.__name__}" for kind in kinds})
    described: Any = dataset_info.read_proto_from_builder_dir(folder)
    described.ClearField("module_name")
    described.features.CopyFrom(features)
    return read_only_builder.ReadOnlyBuilder(builder_dir=folder, info_proto=described)


def _check_files(folder: Path) -> None:
    """Refuse a FIFO or a device, for which TensorFlow Datasets would wait, and a description without an end."""
    for path in folder.iterdir():
        if not path.is_dir():
            os.close(open_descriptor(path, _TEXT_BYTES if path.suffix in (".json", ".txt") else None))


def _check_features(path: Path, top: Any, allowed: set[str]) -> None:
    """Refuse a description that names another feature, or hides one in JSON."""
    pending = [top]
    while pending:
        feature = pending.pop()
        content = feature.WhichOneof("content")
        if feature.python_class_name not in allowed or content == "json_feature":
            raise DataError(
                f"{path}: names the feature class {feature.python_class_name!r} with the content {content}, expected "
                f"{', '.join(_FEATURES)} of TensorFlow Datasets itself; prepare the set again without other features"
            )
        pending.extend(feature.features_dict.features.values())
        if content == "sequence":
            pending.append(feature.sequence.feature)


def _find_keys(tfds: Any, info: Any, name: str) -> tuple[str, str]:
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    named = [[key for key, feature in info.features.items() if isinstance(feature, kind)] for kind in kinds]
    supervised = info.supervised_keys or ()
    chosen = [next((key for key in keys if key in supervised), keys[0] if len(keys) == 1 else None) for keys in named]
    if chosen[0] is None or chosen[1] is None:
        found = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in info.features.items())
        raise DataError(f"{name}: not an image classification set, expected one Image and one ClassLabel in {found}")
    if info.features[chosen[0]].np_dtype != np.uint8:
        raise DataError(f"{name}: images are {info.features[chosen[0]].np_dtype}, expected uint8")
    declared = info.features[chosen[1]].num_classes
    if not 0 < (declared or 0) <= MOST_CLASSES:
        raise DataError(f"{name}: declares {declared} classes, expected 1 to {MOST_CLASSES:,}; prepare it again")
    return chosen[0], chosen[1]


def _choose_split(available: list[str], split: Split, name: str) -> str:
    if len(available) == 1:
        return available[0]
    part = next((part for part in (_TEST_SPLITS if split == "test" else ("train",)) if part in available), None)
    if part is None:
        raise DataError(f"{name}: has the splits {', '.join(available)}, none of them usable as {split}")
    return part


def _read_records(
    source: Any, image_key: str, label_key: str, channels: int, size: tuple[int, int] | None
) -> tuple[list[np.ndarray], np.ndarray]:
    images, labels = [], []
    for start in range(0, len(source), _CHUNK):
        for record in source.__getitems__(list(range(start, min(start + _CHUNK, len(source))))):
            try:
                images.append(decode_image(record[image_key] or b"", channels=channels, size=size))
            except DataError as error:
                raise ValueError(f"image {len(images)} is unreadable: {error}") from error
            labels.append(int(record[label_key]))
    if not images:
        raise ValueError("it holds no images")
    return images, np.asarray(labels, np.int32)

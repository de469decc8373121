import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from rnp_jax.data.loading import load
from rnp_jax.data.tfds import find_prepared
from rnp_jax.errors import DataError


def picture(seed, shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def prepare(
    data_dir, splits, name="toy", version="1.0.0", shape=(6, 5, 3), grow=0, file_format="array_record", coarse=None
):
    """Write a set as TensorFlow Datasets itself does: record files, features.json and dataset_info.json."""
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    declared = (None, None, shape[2]) if grow else shape
    features = {"image": tfds.features.Image(shape=declared), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
    if coarse is not None:  # CIFAR-100 has two kinds of labels
        features["coarse_label"] = tfds.features.ClassLabel(names=coarse)
    tfds.features.FeaturesDict(features).save_config(folder)
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    entries = [
        {"name": split, "numBytes": "1", "shardLengths": [str(count)], "filepathTemplate": template}
        for split, count in splits.items()
    ]
    info = {"name": name.partition("/")[0], "version": version, "fileFormat": file_format, "splits": entries}
    if coarse is not None:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for split, count in splits.items():
        path = folder / f"{info['name']}-{split}.{file_format}-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for index in range(count):
            buffer = io.BytesIO()
            pixels = picture(index, (shape[0] + grow * index, *shape[1:]))
            Image.fromarray(pixels[..., 0] if shape[2] == 1 else pixels).save(buffer, "PNG")
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(buffer.getvalue())
            example.features.feature["label"].int64_list.value.append(index % 2)
            if coarse is not None:
                example.features.feature["coarse_label"].int64_list.value.append(0)
            writer.write(example.SerializeToString())
        writer.close()
    return folder


def test_a_prepared_set_reads_by_name(tmp_path):
    prepare(tmp_path, {"train": 6, "test": 4})
    train, test = load("toy", data_dir=tmp_path), load("toy:1.0.0", data_dir=tmp_path, split="test")
    assert (train.images.shape, len(test), train.class_names) == ((6, 6, 5, 3), 4, ("cat", "dog"))
    assert test.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(train.images[5], picture(5, (6, 5, 3)))


def test_of_two_kinds_of_labels_the_set_says_which_is_meant(tmp_path):
    """As CIFAR-100 is prepared: fine labels are ``label``, superclasses are ``coarse_label``."""
    folder = prepare(tmp_path, {"train": 4, "test": 4}, coarse=["animal"])
    dataset = load("toy", data_dir=tmp_path, split="test")
    assert (dataset.labels.tolist(), dataset.class_names) == ([0, 1, 0, 1], ("cat", "dog"))
    info = json.loads((folder / "dataset_info.json").read_text())
    del info["supervisedKeys"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"expected one Image and one ClassLabel in .*coarse_label \(ClassLabel\)"):
        load("toy", data_dir=tmp_path, split="test")


def test_grey_images_stay_grey_and_validation_serves_as_test(tmp_path):
    prepare(tmp_path, {"train": 2, "validation": 3}, shape=(4, 4, 1))
    dataset = load("toy", data_dir=tmp_path, split="test")
    assert (dataset.images.shape, dataset.name) == ((3, 4, 4, 1), "toy (validation)")
    np.testing.assert_array_equal(dataset.images[2], picture(2, (4, 4, 1)))


def test_a_set_with_only_a_train_part_is_split(tmp_path):
    prepare(tmp_path, {"train": 20})
    assert (len(load("toy", data_dir=tmp_path)), len(load("toy", data_dir=tmp_path, split="test"))) == (16, 4)


def test_different_sizes_need_image_size(tmp_path):
    prepare(tmp_path, {"train": 3, "test": 1}, grow=2)
    with pytest.raises(
        DataError, match=r"3 different sizes, such as 6x5 \(index 0\), 8x5 \(index 1\).*give image_size"
    ):
        load("toy", data_dir=tmp_path)
    assert load("toy", data_dir=tmp_path, image_size=7).images.shape == (3, 7, 7, 3)


def test_the_newest_version_and_configs_are_found(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        prepare(tmp_path, {"train": 1}, version=version)
    prepare(tmp_path, {"train": 1}, name="toy/small")
    found = {name: folder.relative_to(tmp_path).as_posix() for name, folder in find_prepared(tmp_path).items()}
    assert found["toy"] == "toy/1.10.0"
    assert found["toy:1.9.0"] == "toy/1.9.0"
    assert found["toy/small"] == "toy/small/1.0.0"


def test_a_format_that_only_tensorflow_reads_is_explained(tmp_path):
    prepare(tmp_path, {"train": 1}, file_format="tfrecord")
    with pytest.raises(DataError, match=r"prepared as tfrecord .*file_format='array_record'"):
        load("toy", data_dir=tmp_path)


OWN = "tensorflow_datasets.core.features."
TOP = {"pythonClassName": OWN + "features_dict.FeaturesDict"}
FOREIGN = {
    "camel": {**TOP, "featuresDict": {"features": {"x": {"pythonClassName": "payload.Image", "image": {}}}}},
    "snake": {**TOP, "featuresDict": {"features": {"x": {"python_class_name": "payload.Image", "image": {}}}}},
    "in a sequence": {
        **TOP,
        "featuresDict": {
            "features": {
                "x": {
                    "pythonClassName": OWN + "sequence_feature.Sequence",
                    "sequence": {"feature": {"python_class_name": "payload.Image", "image": {}}},
                }
            }
        },
    },
    "legacy": {"type": "payload.Image", "content": {}},
    "legacy in a legacy dict": {
        "type": OWN + "features_dict.FeaturesDict",
        "content": {"x": {"type": "payload.Image", "content": {}}},
    },
    "JSON in JSON": {**TOP, "jsonFeature": {"json": '{"x": {"type": "payload.Image", "content": {}}}'}},
    "json in JSON": {**TOP, "json_feature": {"json": '{"x": {"python_class_name": "payload.I", "text": {}}}'}},
    "of the library but not a feature": {"pythonClassName": "tensorflow_datasets.testing.payload.I", "text": {}},
}


@pytest.mark.parametrize("place", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("described", FOREIGN.values(), ids=FOREIGN.keys())
def test_features_of_others_are_not_imported(described, place, tmp_path, monkeypatch):
    """Whichever form a description has and wherever it stands: also the library reads several."""
    folder = prepare(tmp_path, {"train": 2, "test": 1})
    monkeypatch.syspath_prepend(folder)
    (folder / "payload.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    if place == "features.json":
        (folder / place).write_text(json.dumps(described))
        with pytest.raises(DataError, match=r"names the feature class|cannot be read"):
            load("toy", data_dir=tmp_path)
    else:
        info = json.loads((folder / place).read_text())
        (folder / place).write_text(json.dumps({**info, "features": described, "moduleName": "payload"}))
        with contextlib.suppress(DataError):  # the right description stands in the other file
            load("toy", data_dir=tmp_path)
    assert not (tmp_path / "ran").exists()
    assert "payload" not in sys.modules


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("dataset_info.json", '"version": "1.0.0"', '"version": "x"'),
        ("dataset_info.json", '"shardLengths": ["3"]', '"shardLengths": ["-3"]'),
        ("features.json", '"numClasses": "2"', '"numClasses": "-2"'),
        ("features.json", '"dtype": "uint8"', '"dtype": "resource"'),
        ("features.json", '"dtype": "uint8"', '"dtype": "uint8", "dtype": "int8"'),
        ("features.json", '"3"', '"2"'),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(file, old, new, tmp_path):
    folder = prepare(tmp_path, {"train": 3, "test": 1})
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(DataError):
        load("toy", data_dir=tmp_path)


@pytest.mark.parametrize("damaged", ["features.json", "dataset_info.json", "toy-train.array_record-00000-of-00001"])
@pytest.mark.parametrize("content", [b"", b'{"a": 1}', b"\x00" * 100, None], ids=["empty", "other", "zeros", "half"])
def test_damaged_sets_are_refused(tmp_path, damaged, content):
    folder = prepare(tmp_path, {"train": 5, "test": 1})
    data = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(data[: len(data) // 2] if content is None else content)
    with pytest.raises(DataError, match=r"prepare (it|the set) again"):
        load("toy", data_dir=tmp_path)


def test_an_empty_part_is_refused(tmp_path):
    prepare(tmp_path, {"train": 0, "test": 1})
    with pytest.raises(DataError, match="toy: cannot be read"):
        load("toy", data_dir=tmp_path)


def test_a_missing_part_is_named(tmp_path):
    folder = prepare(tmp_path, {"train": 1, "extra": 1})
    with pytest.raises(DataError, match=r"has the splits .*none of them usable as test"):
        load("toy", data_dir=tmp_path, split="test")
    (folder / "toy-train.array_record-00000-of-00001").unlink()
    with pytest.raises(DataError, match="prepare it again"):
        load("toy", data_dir=tmp_path)


def test_real_cifar10_is_the_published_one_and_needs_no_tensorflow(shared):
    code = (
        "import sys; from rnp_jax.data import load; import numpy as np;"
        f"d = load('cifar10', split='test', data_dir={str(shared / 'tensorflow_datasets')!r});"
        "assert 'tensorflow' not in sys.modules;"
        "print(d.images.shape, d.labels.dtype, np.bincount(d.labels).tolist(), d.class_names[3])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"(10000, 32, 32, 3) int32 {[1000] * 10} cat"


def test_real_cifar10_holds_the_reference_test_images(shared):
    golden = np.load(shared / "golden" / "badnets.npz")
    dataset = load("cifar10", split="test", data_dir=shared / "tensorflow_datasets")
    known = {image.tobytes(): label for image, label in zip(dataset.images, dataset.labels, strict=True)}
    assert [known[image.tobytes()] for image in golden["x_test"]] == golden["y_test"].tolist()


@pytest.mark.parametrize("splits", [{"train": 6, "test": 5}, {"train": 10}])
def test_a_large_set_is_decoded_once(splits, tmp_path, monkeypatch):
    """Until its files change."""
    monkeypatch.setenv("RNP_JAX_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.delenv("RNP_JAX_CACHE")
    monkeypatch.setattr("rnp_jax.image_cache.LEAST", 5)
    folder = prepare(tmp_path, splits)
    first = load("toy", split="test", data_dir=tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr("rnp_jax.data.tfds._decode", None)
        again = load("toy", split="test", data_dir=tmp_path)
    np.testing.assert_array_equal(again.images, first.images)
    np.testing.assert_array_equal(again.labels, first.labels)
    assert (again.name, again.class_names) == (first.name, first.class_names)
    (folder / "more.json").write_text("{}")
    monkeypatch.setattr("rnp_jax.data.tfds._decode", None)
    with pytest.raises(TypeError, match="not callable"):
        load("toy", split="test", data_dir=tmp_path)

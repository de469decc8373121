"""The two configuration files alone; whole folders are in test_folder.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from rnp_jax.errors import ArchitectureError, CheckpointError, DataError
from rnp_jax.extractors.folder_config import SUPPORTED, read_json, read_preparation, read_shape
from rnp_jax.extractors.preprocessing import Geometry
from rnp_jax.models.vit import VitShape


def write(folder: Path, **values: Any) -> Path:
    path = folder / "file.json"
    path.write_text(json.dumps(values))
    return path


BASE = VitShape(
    family="vit",
    width=768,
    depth=12,
    heads=12,
    hidden=3072,
    patch=(16, 16),
    image_shape=(224, 224, 3),
    activation="gelu",
    epsilon=1e-12,
    attention_bias=True,
    projection=None,
)
CLIP = {"family": "clip", "patch": (32, 32), "activation": "quick_gelu", "epsilon": 1e-5, "projection": 512}


def expected(**changes: Any) -> VitShape:
    return VitShape(**(vars(BASE) | changes))


@pytest.mark.parametrize(
    ("stated", "shape"),
    [
        ({"model_type": "vit"}, BASE),
        (
            {"model_type": "vit", "qkv_bias": False, "patch_size": [8, 16]},
            expected(attention_bias=False, patch=(8, 16)),
        ),
        ({"model_type": "clip", "vision_config": {}}, expected(**CLIP)),
        ({"model_type": "clip_vision_model", "projection_dim": 7}, expected(**CLIP | {"projection": 7})),
        (
            {"model_type": "clip", "projection_dim": 6, "vision_config": {"projection_dim": 3, "num_channels": 1}},
            expected(**CLIP | {"projection": 6, "image_shape": (224, 224, 1)}),
        ),
    ],
)
def test_what_is_not_stated_is_the_published_default(stated, shape, tmp_path):
    assert read_shape(write(tmp_path, **stated)) == shape


def test_supported_kinds_are_named(tmp_path):
    with pytest.raises(ArchitectureError, match=f"model_type 'dinov2'; supported are {', '.join(SUPPORTED)}"):
        read_shape(write(tmp_path, model_type="dinov2"))


MEANS = {"image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 0.5, 0.25]}
SQUARE = {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("stated", "geometry"),
    [
        ({"size": 224}, Geometry((224, 224, 3), (224, 224), "linear")),
        ({"size": SQUARE, "resample": 3}, Geometry((224, 224, 3), (224, 224), "cubic")),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": SQUARE, "resample": 1},
            Geometry((224, 224, 3), 256, "lanczos3"),
        ),
        ({"image_processor": {"size": 224, **MEANS}}, Geometry((224, 224, 3), (224, 224), "linear")),
    ],
)
def test_how_images_are_prepared(stated, geometry, tmp_path):
    found = read_preparation(write(tmp_path, **MEANS, **stated), BASE)
    assert found.geometry == geometry
    assert (found.normalization.mean, found.normalization.std) == ((0.5, 0.25, 0.125), (0.5, 0.5, 0.25))


def test_without_normalisation_pixels_stay_shares(tmp_path):
    found = read_preparation(write(tmp_path, size=224, do_normalize=False), BASE)
    assert (found.normalization.mean, found.normalization.std) == ((0.0,) * 3, (1.0,) * 3)


def test_images_of_another_size_than_the_tower_s(tmp_path):
    with pytest.raises(DataError, match=r"resized to 196 and cropped to None .* the model takes \(224, 224\)"):
        read_preparation(write(tmp_path, size=196, **MEANS), BASE)


@pytest.mark.parametrize("content", ["", "3", "[]", "{", "nul"])
def test_files_that_hold_no_object(content, tmp_path):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"file\.json: (not JSON|a JSON (int|list), expected an object)"):
        read_json(tmp_path / "file.json")


def test_a_file_too_large_to_be_a_configuration(tmp_path):
    path = tmp_path / "file.json"
    with path.open("wb") as file:
        file.truncate(16 * 2**20 + 1)
    with pytest.raises(CheckpointError, match=r"file\.json"):
        read_json(path)
    with pytest.raises(CheckpointError, match=r"absent\.json"):
        read_json(tmp_path / "absent.json")

"""Folders that the transformers library saved, read without it; and folders that nobody should trust."""

import contextlib
import json
import struct

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.data import NORMALIZATIONS
from rnp_jax.errors import ArchitectureError, CheckpointError, DataError, RnpError
from rnp_jax.extractors import from_folder
from rnp_jax.extractors.folder import tower_features
from rnp_jax.torch_io import Limits
from tests.compiled import count_compiled
from tests.oracle import vit

IMAGES = np.random.default_rng(0).integers(0, 256, (3, vit.SIZE, vit.SIZE, 3), np.uint8)
CONTAINERS = ("safetensors", "parts", "bin", "bin_parts")


@pytest.fixture(scope="module")
def models() -> dict:
    return {kind: vit.build(kind) for kind in vit.KINDS}


@pytest.fixture
def folder(models, tmp_path):
    """A sound CLIP folder, to be spoilt."""
    return vit.save("clip", models["clip"], tmp_path / "tower")


def edit(path, **changes) -> None:
    """Changes fields of a JSON file; None removes one, and ``vision__x`` is a field of the image tower."""
    value = json.loads(path.read_text())
    for name, new in changes.items():
        target = value["vision_config"] if name.startswith("vision__") else value
        name = name.removeprefix("vision__")
        if new is None:
            target.pop(name)
        else:
            target[name] = new
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("kind", "container"),
    [*((kind, "safetensors") for kind in vit.KINDS), *(("clip", each) for each in CONTAINERS[1:]), ("vit", "parts")],
)
def test_features_are_the_library_s(kind, container, models, tmp_path):
    extract = from_folder(vit.save(kind, models[kind], tmp_path / "tower", container=container))
    expected = vit.features(kind, models[kind], vit.prepare(kind, IMAGES))
    np.testing.assert_allclose(extract(IMAGES, batch_size=4), expected, rtol=1e-5, atol=1e-5)
    assert (extract.name, extract.dim, extract.image_shape) == ("tower", expected.shape[1], (12, 12, 3))
    assert extract.provenance["poisoned"] == "unknown"


@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_images_of_another_size_go_through_the_published_preparation(kind, models, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (2, 24, 31, 3), np.uint8)
    found = from_folder(vit.save(kind, models[kind], tmp_path / "tower"))(images, batch_size=4)
    expected = vit.features(kind, models[kind], vit.prepare(kind, images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)  # a pixel of a tie may differ by one level
    wrong = vit.features(kind, models[kind], vit.prepare(kind, images[:, ::-1]))
    assert np.abs(found - wrong).max() > 0.2


def test_one_program_for_any_number_of_images_and_equal_features_each_time(folder):
    extract = from_folder(folder)
    many = np.concatenate([IMAGES] * 5)
    first = extract(many, batch_size=4)
    before = count_compiled(tower_features)
    np.testing.assert_array_equal(extract(many, batch_size=4), first)
    np.testing.assert_allclose(extract(many[:5], batch_size=4), first[:5], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(from_folder(folder)(many, batch_size=4), first)
    assert count_compiled(tower_features) == before


def test_half_precision_weights_are_read(models, tmp_path):
    folder = vit.save("vit", vit.build("vit").to(torch.bfloat16), tmp_path)
    exact = from_folder(vit.save("vit", models["vit"], tmp_path / "exact"))(IMAGES, batch_size=4)
    found = from_folder(folder)(IMAGES, batch_size=4)
    assert 0 < np.abs(found - exact).max() < 0.1


def test_the_text_tower_is_not_opened(models, tmp_path):
    """A part that holds nothing of the image tower may even be absent."""
    folder = vit.save("clip", models["clip"], tmp_path, container="parts")
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {name for key, name in places.items() if key.startswith("vis")}
    spare = set(places.values()) - needed
    assert spare
    for name in spare:
        (folder / name).unlink()
    expected = vit.features("clip", models["clip"], vit.prepare("clip", IMAGES))
    np.testing.assert_allclose(from_folder(folder)(IMAGES, batch_size=4), expected, rtol=1e-5, atol=1e-5)
    (folder / sorted(needed)[0]).unlink()
    with pytest.raises(CheckpointError, match=sorted(needed)[0]):
        from_folder(folder)


def test_without_a_processor_the_normalisation_must_be_given(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match=r"no preprocessor_config\.json.*put it there"):
        from_folder(folder)
    given = from_folder(folder, normalization=NORMALIZATIONS["half"])
    pixels = IMAGES.astype(np.float32) / 255 * 2 - 1
    expected = vit.features("clip", vit.build("clip"), pixels)
    np.testing.assert_allclose(given(IMAGES, batch_size=4), expected, rtol=1e-5, atol=1e-5)


def test_released_sizes_are_read(folder):
    """As older files state them: a bare number is CLIP's shorter side, and towers leave out what is the default."""
    oblong = np.random.default_rng(2).integers(0, 256, (2, 14, 20, 3), np.uint8)
    expected = from_folder(folder)(oblong, batch_size=4)
    edit(folder / "preprocessor_config.json", size=12, crop_size=12)
    edit(folder / "config.json", vision__hidden_act=None, vision__num_channels=None)
    np.testing.assert_array_equal(from_folder(folder)(oblong, batch_size=4), expected)


def test_a_processor_inside_a_larger_one_is_read(folder):
    """Newer releases keep the image processor beside the tokenizer, in processor_config.json."""
    extract = from_folder(folder)
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": stated, "processor_class": "x"}))
    np.testing.assert_array_equal(from_folder(folder)(IMAGES, batch_size=4), extract(IMAGES, batch_size=4))


@pytest.mark.parametrize("missing", ["folder", "config.json", "model.safetensors"])
def test_missing_files_are_named(missing, folder):
    if missing == "folder":
        folder = folder / "elsewhere"
    else:
        (folder / missing).unlink()
    with pytest.raises(
        CheckpointError, match=r"no (such folder|config\.json|weights).*expected config\.json, preprocessor.*nothing is"
    ):
        from_folder(folder)


CONFIGS = {
    "another kind": ({"model_type": "bert"}, r"model_type 'bert'; supported are clip, clip_vision_model, vit"),
    "no kind": ({"model_type": None}, "model_type None"),
    "no tower": ({"vision_config": [1]}, r"vision_config is \[1\]"),
    "text for a number": ({"vision__hidden_size": "8"}, r"hidden_size = '8'"),
    "a fraction": ({"vision__num_hidden_layers": 2.5}, "num_hidden_layers = 2.5"),
    "truth for a number": ({"vision__patch_size": True}, "patch_size"),
    "negative": ({"vision__intermediate_size": -1}, "intermediate_size = -1"),
    "absurd": ({"vision__hidden_size": 10**30}, "hidden_size = 1000000"),
    "too large for memory": ({"vision__hidden_size": 2**20}, r"bytes of parameters, more than .*materialised_bytes"),
    "too deep": ({"vision__num_hidden_layers": 10**6}, "1000000 blocks"),
    "too many tokens": ({"vision__image_size": 2**20, "vision__patch_size": 1}, "tokens"),
    "heads": ({"vision__num_attention_heads": 3}, "a multiple of the heads"),
    "activation": ({"vision__hidden_act": "relu"}, "hidden_act = 'relu'"),
    "epsilon": ({"vision__layer_norm_eps": 7}, "layer_norm_eps = 7"),
    "projection": ({"projection_dim": [6]}, "projection_dim"),
    "not these weights": ({"vision__intermediate_size": 21}, r"fc1\.bias: \(20,\), expected \(21,\)"),
    "fewer blocks": ({"vision__num_hidden_layers": 1}, r"\+ vision_model\.encoder\.layers\.1"),
    "more blocks": ({"vision__num_hidden_layers": 3}, r"- vision_model\.encoder\.layers\.2"),
    "another family": (
        {"model_type": "vit", "image_size": 12, "patch_size": 4},
        r"no vit image tower: vit\.embeddings\.cls_token or .* is missing",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_that_are_refused(name, folder):
    changes, reason = CONFIGS[name]
    edit(folder / "config.json", **changes)
    with pytest.raises(ArchitectureError, match=reason):
        from_folder(folder)


PROCESSORS = {
    "size": ({"crop_size": {"height": 16, "width": 16}}, r"the model takes \(12, 12\)"),
    "smaller than the crop": ({"size": {"shortest_edge": 8}}, r"the model takes \(12, 12\)"),
    "only the shorter side": ({"do_center_crop": False}, r"the model takes \(12, 12\)"),
    "unknown size": ({"size": {"longest_edge": 12}}, "size is .*longest_edge"),
    "no size": ({"size": None}, "size is None"),
    "not resized": ({"do_resize": False}, "do_resize False"),
    "not rescaled": ({"rescale_factor": 0.5}, "rescale_factor 0.5"),
    "nearest": ({"resample": 0}, "resample 0"),
    "no mean": ({"image_mean": None}, "image_mean or image_std is missing"),
    "two means": ({"image_mean": [0.5, 0.4]}, "2 means and 3 stds"),
    "no deviation": ({"image_std": [0.5, 0, 0.5]}, "std above 0"),
    "type": ({"do_normalize": "yes"}, "do_normalize = 'yes'"),
    "nested": ({"image_processor": 3}, "values = 3: .*valid dictionary"),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_that_are_refused(name, folder):
    changes, reason = PROCESSORS[name]
    edit(folder / "preprocessor_config.json", **changes)
    with pytest.raises(DataError, match=reason):
        from_folder(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a":' + b"1" * 5000 + b"}"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_files_that_are_not_json(name, content, folder):
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        from_folder(folder)


def rewrite(folder, **changes) -> None:
    """Replaces tensors of the image tower; None removes one."""
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    for name, value in changes.items():
        key = "vision_model." + name.replace("__", ".")
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value
    safetensors.numpy.save_file(tensors, path)


WEIGHTS = {
    "nan": ({"post_layernorm__bias": np.full(8, np.nan, np.float32)}, CheckpointError, r"post_layernorm\.bias.*nan"),
    "shape": ({"post_layernorm__bias": np.zeros(9, np.float32)}, ArchitectureError, r"\(9,\), expected \(8,\)"),
    "missing": ({"post_layernorm__bias": None}, ArchitectureError, r"- vision_model\.post_layernorm\.bias"),
    "unexpected": ({"extra": np.zeros(1)}, ArchitectureError, r"\+ vision_model\.extra"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_refused(name, folder):
    changes, failure, reason = WEIGHTS[name]
    rewrite(folder, **changes)
    with pytest.raises(failure, match=reason):
        from_folder(folder)


def test_a_projection_is_optional(folder, models):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    extract = from_folder(folder)
    assert extract.dim == vit.WIDTH
    model = models["clip"]
    alone = vit.features("clip_alone", model.vision_model, vit.prepare("clip", IMAGES))
    np.testing.assert_allclose(extract(IMAGES, batch_size=4), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({}, "no weight_map"),
        ({"weight_map": {"a": 1}}, "no weight_map"),
        ({"weight_map": {"a": "../model.safetensors"}}, "not the name of a file beside it"),
        ({"weight_map": {"a": "/etc/passwd"}}, "not the name of a file beside it"),
        ({"weight_map": {"a": ".."}}, "not the name of a file beside it"),
        ({"weight_map": {"a": "model.safetensors\0"}}, "not the name of a file beside it"),
        ({"weight_map": {"a": ""}}, "not the name of a file beside it"),
    ],
)
def test_an_index_that_is_refused(index, reason, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=reason):
        from_folder(folder)


def test_an_index_that_places_tensors_where_they_are_not(folder):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    places = dict.fromkeys(tensors, "model.safetensors")
    places["vision_model.post_layernorm.bias"] = "other.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(1, np.float32)}, folder / "other.safetensors")
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    places = {key: name.replace("model.", "first.") for key, name in places.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=r"other\.safetensors: it has no tensor vision_model\.post_layernorm"):
        from_folder(folder)


def test_limits_hold_for_the_parameters(folder):
    with pytest.raises(ArchitectureError, match=r"more than 1000 \(Limits\.materialised_bytes\)"):
        from_folder(folder, limits=Limits(materialised_bytes=1000))


def test_a_header_that_claims_more_than_the_file(folder):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="not a valid safetensors"):
        from_folder(folder)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(width=16) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
FIELDS = ("model_type", "vision_config", "projection_dim", "vision__hidden_size", "vision__image_size")
FIELDS += ("vision__patch_size", "vision__num_attention_heads", "vision__layer_norm_eps", "vision__hidden_act")


@settings(deadline=None, derandomize=True, max_examples=80)
@given(field=st.sampled_from(FIELDS), value=JSON_VALUES)
def test_any_value_in_a_configuration_is_read_or_refused(field, value, tmp_path_factory, models):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    if not folder.exists():
        vit.save("clip", models["clip"], folder)
        (folder / "sound.json").write_text((folder / "config.json").read_text())
    config = json.loads((folder / "sound.json").read_text())
    target = config["vision_config"] if field.startswith("vision__") else config
    target[field.removeprefix("vision__")] = value
    (folder / "config.json").write_text(json.dumps(config))
    with contextlib.suppress(RnpError):
        assert from_folder(folder).dim == vit.PROJECTION

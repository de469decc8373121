"""The name table is the published one, and no key is matched by luck."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from rnp_jax.errors import ArchitectureError
from rnp_jax.models.vit import Vit
from rnp_jax.models.vit_names import check_keys, check_shapes, count_bytes, entries, find_root, from_tensors
from tests.oracle import vit


@pytest.fixture(scope="module", params=vit.KINDS)
def published(request, tmp_path_factory):
    """(kind, tensors) as the library saves them."""
    folder = tmp_path_factory.mktemp(request.param)
    vit.build(request.param).save_pretrained(folder)
    return request.param, safetensors.numpy.load_file(folder / "model.safetensors")


def test_the_table_covers_the_tower_and_nothing_else(published):
    kind, tensors = published
    shape = vit.shape_of(kind)
    root = find_root(shape.family, tensors)
    assert root == {"clip": "vision_model.", "clip_projected": "vision_model.", "vit_classifier": "vit."}.get(kind, "")
    check_keys(shape, root, tensors)
    table = entries(shape, root)
    check_shapes(table, {key: value.shape for key, value in tensors.items()})
    assert len({entry.path for entry in table}) == len({entry.key for entry in table}) == len(table)
    outside = ("text_", "logit_scale", "pooler.", "classifier.")
    assert {entry.key for entry in table} == {key for key in tensors if not key.startswith(outside)}
    assert count_bytes(shape) == sum(tensors[entry.key].nbytes for entry in table)


def test_parameters_have_the_module_s_shapes(published):
    kind, tensors = published
    shape = vit.shape_of(kind)
    params = from_tensors(shape, find_root(shape.family, tensors), tensors)
    images = np.zeros((1, *shape.image_shape), np.float32)
    expected = jax.eval_shape(Vit(shape).init, jax.random.key(0), images)["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, expected)


def test_missing_and_unexpected_keys_are_listed():
    shape = vit.shape_of("clip")
    keys = {entry.key for entry in entries(shape, "vision_model.")}
    keys ^= {"vision_model.pre_layrnorm.bias", "vision_model.extra", "vision_model.encoder.layers.2.mlp.fc1.bias"}
    with pytest.raises(ArchitectureError) as caught:
        check_keys(shape, "vision_model.", keys | {"text_model.anything", "vision_model.embeddings.position_ids"})
    assert str(caught.value).splitlines()[1:] == [
        " - vision_model.pre_layrnorm.bias",
        " + vision_model.encoder.layers.2.mlp.fc1.bias",
        " + vision_model.extra",
    ]


def test_long_lists_are_cut():
    with pytest.raises(ArchitectureError, match=r"… and 26 more") as caught:
        check_keys(vit.shape_of("vit"), "", [])
    assert len(str(caught.value).splitlines()) == 14


def test_a_file_without_the_tower_says_what_it_holds():
    with pytest.raises(ArchitectureError, match=r"embeddings\.cls_token is missing; there is conv1\.weight"):
        find_root("vit", ["conv1.weight"])
    with pytest.raises(ArchitectureError, match="no tensor at all"):
        find_root("clip", [])


def test_shapes_that_differ_are_listed():
    shape = vit.shape_of("clip")
    table = entries(shape, "")
    found = {entry.key: entry.shape for entry in table} | {"embeddings.class_embedding": (9,)}
    with pytest.raises(ArchitectureError, match=r"class_embedding: \(9,\), expected \(8,\)"):
        check_shapes(table, found)


def test_half_precision_becomes_float32():
    shape = vit.shape_of("clip")
    tensors = {entry.key: np.full(entry.shape, 0.1, np.float16) for entry in entries(shape, "")}
    params = from_tensors(shape, "", tensors)
    assert all((leaf == np.float32(np.float16(0.1))).all() for leaf in jax.tree.leaves(params))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}

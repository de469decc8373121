"""Image towers against the library that publishes them, layer by layer."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import ArchitectureError
from rnp_jax.models.vit import Block, Vit, VitShape, vit_features
from rnp_jax.models.vit_names import find_root, from_tensors
from rnp_jax.types import Tree
from tests.oracle import vit

features_of = jax.jit(vit_features, static_argnums=(0, 3))
PIXELS = np.random.default_rng(0).standard_normal((3, vit.SIZE, vit.SIZE, 3)).astype(np.float32)


def params_of(shape: VitShape, model, tmp_path) -> Tree:
    """Our parameters, by way of the names that the library publishes."""
    model.save_pretrained(tmp_path)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    return from_tensors(shape, find_root(shape.family, tensors), tensors)


def random_params(shape: VitShape) -> Tree:
    """Parameters of the module's own shapes."""
    rng, declared = np.random.default_rng(1), jax.eval_shape(Vit(shape).init, jax.random.key(0), PIXELS)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), declared["params"])


@partial(jax.jit, static_argnums=0)
def run_capturing(shape: VitShape, params: Tree) -> tuple[jax.Array, Any]:
    """Features, and what each block gives."""
    return Vit(shape).apply(
        {"params": params}, jnp.asarray(PIXELS), capture_intermediates=lambda module, _: isinstance(module, Block)
    )


@pytest.mark.parametrize("kind", vit.KINDS)
def test_features_and_every_block_s_output_are_the_library_s(kind, tmp_path):
    model, shape = vit.build(kind), vit.shape_of(kind)
    params = params_of(shape, model, tmp_path)
    features, state = run_capturing(shape, params)
    blocks = [state["intermediates"][f"block{i}"]["__call__"][0] for i in range(shape.depth)]
    expected = vit.hidden_states(kind, model, PIXELS)[1:]
    for ours, theirs in zip(blocks, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features, vit.features(kind, model, PIXELS), rtol=1e-5, atol=1e-5)
    assert features.shape == (3, shape.dim)


@pytest.mark.parametrize(
    ("kind", "changes", "ours"),
    [
        ("clip_projected", {"hidden_act": "gelu"}, {"activation": "gelu"}),
        ("vit", {"hidden_act": "gelu_new"}, {"activation": "gelu_new"}),
        ("vit", {"hidden_act": "gelu_pytorch_tanh"}, {"activation": "gelu_pytorch_tanh"}),
        ("vit", {"qkv_bias": False}, {"attention_bias": False}),
        ("vit", {"image_size": [12, 8], "patch_size": [3, 4]}, {"image_shape": (12, 8, 3), "patch": (3, 4)}),
        ("clip_projected", {"image_size": 11}, {"image_shape": (11, 11, 3)}),
        ("vit", {"num_channels": 1, "num_attention_heads": 4}, {"image_shape": (12, 12, 1), "heads": 4}),
    ],
    ids=["gelu", "gelu_new", "tanh", "no qkv bias", "oblong", "pixels left over", "grey"],
)
def test_variants_are_the_library_s(kind, changes, ours, tmp_path):
    model, shape = vit.build(kind, **changes), vit.shape_of(kind, **ours)
    height, width, channels = shape.image_shape
    pixels = PIXELS[:, :height, :width, :channels]
    found = features_of(shape, params_of(shape, model, tmp_path), pixels)
    np.testing.assert_allclose(found, vit.features(kind, model, pixels), rtol=1e-5, atol=1e-5)


def test_lower_precision_stays_near_and_gives_float32(tmp_path):
    shape = vit.shape_of("clip")
    params = params_of(shape, vit.build("clip"), tmp_path)
    exact = features_of(shape, params, PIXELS)
    rough = features_of(shape, params, PIXELS, "bfloat16")
    assert rough.dtype == np.float32
    assert 0 < abs(rough - exact).max() < 0.1


def test_a_tower_without_attention_between_patches_reads_the_class_token_alone():
    """Where blocks add nothing, every block is the identity, and the images do not matter."""
    shape = vit.shape_of("vit")
    params = random_params(shape)
    for i in range(shape.depth):
        for name in ("out", "fc2"):
            params[f"block{i}"][name] = jax.tree.map(np.zeros_like, params[f"block{i}"][name])
    found = features_of(shape, params, PIXELS)
    token = np.asarray(params["class_token"] + params["position"][0])
    expected = (token - token.mean()) / np.sqrt(token.var() + shape.epsilon)
    expected = expected * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(found, np.tile(expected, (3, 1)), rtol=1e-5, atol=1e-6)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(order=st.permutations(range(9)))
def test_patches_are_a_set_once_their_positions_are_equal(order):
    """Permutation equivariance of attention: the class token's features do not depend on the order of the patches."""
    shape = vit.shape_of("vit")
    params = random_params(shape)
    params["position"] = np.zeros_like(params["position"])
    grid = PIXELS.reshape(3, 3, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 9, 4, 4, 3)
    shuffled = grid[:, order].reshape(3, 3, 3, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(PIXELS.shape)
    np.testing.assert_allclose(
        features_of(shape, params, shuffled), features_of(shape, params, PIXELS), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"heads": 3}, "a multiple of the heads"),
        ({"depth": 0}, "1 or more"),
        ({"projection": -1}, "1 or more"),
        ({"patch": (13, 4)}, "smaller than a patch"),
        ({"image_shape": (400, 400, 3)}, r"10001 tokens .* at most 4096"),
        ({"depth": 129}, "129 blocks"),
    ],
)
def test_sizes_that_make_no_tower(changes, reason):
    with pytest.raises(ArchitectureError, match=reason):
        vit.shape_of("clip", **changes)

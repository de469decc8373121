"""The name table: torch's keys and shapes, and a lossless change of layout."""

import jax
import numpy as np
import pytest
import torch

from rnp_jax.models import ARCHITECTURES
from rnp_jax.models.torch_names import from_torch, table, to_torch
from tests.networks import build, network_of


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_table_is_torch_s_state_dict(name):
    network = network_of(name)
    with torch.device("meta"):
        state = build(name).state_dict()
    entries = table(jax.eval_shape(network.init, jax.random.key(0)))
    assert {entry.key: entry.shape for entry in entries} == {
        key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("name", ["resnet18", "mlp"])
def test_layouts_invert_each_other_bit_for_bit(name):
    network, rng = network_of(name), np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    for entry in table(shapes):
        leaf = shapes
        for part in entry.path:
            leaf = leaf[part]
        value = rng.standard_normal(entry.shape).astype(np.float32)
        ours = from_torch(value, entry, network.architecture)
        assert ours.shape == leaf.shape
        assert to_torch(ours, entry, network.architecture).tobytes("C") == value.tobytes()


def test_sources_of_other_precision_become_float32():
    network = network_of("resnet18")
    entry = table(jax.eval_shape(network.init, jax.random.key(0)))[0]
    value = np.full(entry.shape, 0.1, np.float16)
    ours = from_torch(value, entry, network.architecture)
    assert ours.dtype == np.float32
    assert (ours == np.float32(np.float16(0.1))).all()


def test_the_first_layer_of_an_mlp_reads_pixels_channels_last():
    """Torch flattens [C, H, W]; input c·H·W + h·W + w becomes our input h·W·C + w·C + c."""
    network = network_of("mlp")
    entries = {entry.key: entry for entry in table(jax.eval_shape(network.init, jax.random.key(0)))}
    height, width, channels = network.architecture.image_shape
    weight = np.tile(np.arange(height * width * channels, dtype=np.float32), (7, 1))
    ours = from_torch(weight, entries["0.weight"], network.architecture)
    grid = ours[:, 0].reshape(height, width, channels)
    h, w, c = np.indices(grid.shape)
    np.testing.assert_array_equal(grid, c * height * width + h * width + w)
    second = np.arange(42, dtype=np.float32).reshape(6, 7)
    np.testing.assert_array_equal(from_torch(second, entries["2.weight"], network.architecture), second.T)

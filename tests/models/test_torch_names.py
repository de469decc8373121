"""The name table: torch's keys and shapes, and a lossless change of layout."""

import jax
import numpy as np
import pytest
import torch

from rnp_jax.models import Architecture, Network
from rnp_jax.models.torch_names import TorchEntry, from_torch, table, to_torch
from tests.networks import DEEP, SHALLOW, build, network_of


def entries_of(network: Network) -> list[TorchEntry]:
    return table(jax.eval_shape(network.init, jax.random.key(0)), network.architecture)


@pytest.mark.parametrize("name", [*SHALLOW, *DEEP])
def test_the_table_is_torch_s_state_dict(name):
    network = network_of(name)
    with torch.device("meta"):
        state = build(name).state_dict()
    entries = entries_of(network)
    assert {entry.key: entry.shape for entry in entries} == {
        key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("name", ["resnet18", "mlp"])
def test_layouts_invert_each_other_bit_for_bit(name):
    network, rng = network_of(name), np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    for entry in table(shapes, network.architecture):
        leaf = shapes
        for part in entry.path:
            leaf = leaf[part]
        value = rng.standard_normal(entry.shape).astype(np.float32)
        ours = from_torch(value, entry, network.architecture)
        assert ours.shape == leaf.shape
        assert to_torch(ours, entry, network.architecture).tobytes("C") == value.tobytes()


def test_sources_of_other_precision_become_float32():
    network = network_of("resnet18")
    entry = entries_of(network)[0]
    value = np.full(entry.shape, 0.1, np.float16)
    ours = from_torch(value, entry, network.architecture)
    assert ours.dtype == np.float32
    assert (ours == np.float32(np.float16(0.1))).all()


def test_the_first_layer_of_an_mlp_reads_pixels_channels_last():
    """Torch flattens [C, H, W]; input c·H·W + h·W + w becomes our input h·W·C + w·C + c."""
    network = network_of("mlp")
    entries = {entry.key: entry for entry in entries_of(network)}
    height, width, channels = network.architecture.image_shape
    weight = np.tile(np.arange(height * width * channels, dtype=np.float32), (7, 1))
    ours = from_torch(weight, entries["0.weight"], network.architecture)
    grid = ours[:, 0].reshape(height, width, channels)
    h, w, c = np.indices(grid.shape)
    np.testing.assert_array_equal(grid, c * height * width + h * width + w)
    second = np.arange(42, dtype=np.float32).reshape(6, 7)
    np.testing.assert_array_equal(from_torch(second, entries["2.weight"], network.architecture), second.T)


TRANSFORMER = Network(Architecture("vit_b_16", 5, 12, image_shape=(32, 32, 3)), placement="unit")
CONVNEXT = Network(Architecture("convnext_tiny", 5, 4, image_shape=(32, 32, 3)), placement="unit")


@pytest.fixture(scope="module")
def transformer_entries():
    """By the layer and leaf of ours."""
    return {".".join(entry.path[1:]): entry for entry in entries_of(TRANSFORMER)}


@pytest.mark.parametrize(("leaf", "suffix", "columns"), [("kernel", "weight", (12,)), ("bias", "bias", ())])
def test_query_key_and_value_are_rows_of_one_tensor(leaf, suffix, columns, transformer_entries):
    layer = "encoder.layers.encoder_layer_11.self_attention"
    whole = np.arange(36 * (12 if columns else 1), dtype=np.float32).reshape(36, *columns)
    back = []
    for part, name in enumerate(("query", "key", "value")):
        entry = transformer_entries[f"{layer}.in_proj.{name}.{leaf}"]
        assert (entry.key, entry.shape) == (f"{layer}.in_proj_{suffix}", whole.shape)
        assert (entry.part, entry.parts) == (part, 3)
        ours = from_torch(whole, entry, TRANSFORMER.architecture)
        np.testing.assert_array_equal(ours, whole[12 * part : 12 * part + 12].T)
        back.append(to_torch(ours, entry, TRANSFORMER.architecture))
    np.testing.assert_array_equal(np.concatenate(back), whole)


@pytest.mark.parametrize(
    ("key", "theirs", "ours"),
    [("class_token", (1, 1, 12), (12,)), ("encoder.pos_embedding", (1, 5, 12), (5, 12))],
)
def test_bare_parameters_have_the_layer_s_own_name(key, theirs, ours, transformer_entries):
    entry = transformer_entries[f"{key}.value"]
    check_bare(entry, key, theirs, ours)


def test_a_layer_scale_stands_before_the_positions():
    entries = {entry.key: entry for entry in entries_of(CONVNEXT)}
    check_bare(entries["features.3.2.layer_scale"], "features.3.2.layer_scale", (8, 1, 1), (8,))


def check_bare(entry, key: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> None:
    assert (entry.key, entry.shape, entry.parts) == (key, theirs, 1)
    value = np.arange(np.prod(theirs), dtype=np.float32).reshape(theirs)
    found = from_torch(value, entry, TRANSFORMER.architecture)
    np.testing.assert_array_equal(found, value.reshape(ours))
    np.testing.assert_array_equal(to_torch(found, entry, TRANSFORMER.architecture), value)


def test_linear_layers_of_images_are_transposed_and_norms_are_not(transformer_entries):
    entries = {entry.key: entry for entry in entries_of(CONVNEXT)}
    unit, norm = entries["features.1.0.block.3.weight"], entries["features.1.0.block.2.weight"]
    assert (unit.shape, unit.path[-1], norm.shape, norm.path[-1]) == ((16, 4), "kernel", (4,), "scale")
    value = np.arange(64, dtype=np.float32).reshape(16, 4)
    np.testing.assert_array_equal(from_torch(value, unit, CONVNEXT.architecture), value.T)
    np.testing.assert_array_equal(from_torch(value[0], norm, CONVNEXT.architecture), value[0])
    assert transformer_entries["encoder.ln.scale"].key == "encoder.ln.weight"

"""Structure of the residual networks; their numbers are compared with torch in test_registry.py."""

import jax
import jax.numpy as jnp
import pytest

from rnp_jax import masks
from tests.networks import network_of
from tests.oracle import models


@pytest.mark.parametrize(
    ("name", "depth", "filters"),
    [("resnet18", 18, 4_800), ("resnet34", 34, 8_512), ("resnet50", 50, 26_560)],
)
def test_filters_are_the_oracle_s_batch_norms_in_natural_order(name, depth, filters):
    """4,800 is what the RNP release counts for a ResNet-18."""
    shapes = jax.eval_shape(network_of(name, width=64).init, jax.random.key(0))
    found = masks.filters(shapes["masks"])
    assert sum(leaf.shape[0] for leaf in found.values()) == filters
    oracle = models.batch_norms(models.resnet(depth, width=1))
    assert list(found) == sorted(oracle, key=masks.natural_key)


def test_a_pre_activated_network_masks_before_each_convolution_and_has_no_last_norm():
    shapes = jax.eval_shape(network_of("preactresnet18").init, jax.random.key(0))
    found = set(masks.filters(shapes["masks"]))
    assert found == {f"layer{stage}.{block}.bn{i}" for stage in range(1, 5) for block in (0, 1) for i in (1, 2)}


@pytest.mark.parametrize(("name", "segments"), [("resnet18", 10), ("resnet34", 18), ("preactresnet18", 10)])
def test_segments_are_stem_blocks_and_head(name, segments):
    assert len(network_of(name).segments) == segments


def test_equal_blocks_are_equal_modules():
    by_name = {segment.layers[0]: segment.module for segment in network_of("resnet18").segments}
    assert by_name["layer1.0"] == by_name["layer1.1"]
    assert by_name["layer2.0"] != by_name["layer2.1"]  # the first of a stage halves the image


@pytest.mark.parametrize("size", [8, 20, 33])
def test_any_image_size(size):
    network = network_of("resnet18")
    variables = jax.eval_shape(network.init, jax.random.key(0))
    logits, _ = jax.eval_shape(network, variables, jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8))
    assert logits.shape == (2, 5)

"""Folded batch norms against the layers one by one."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict, load_model
from rnp_jax.data import load
from rnp_jax.evaluation.predict import predict, predict_variants
from rnp_jax.models.folding import fold_batch_norms
from rnp_jax.models.layers import BatchNorm, Conv
from rnp_jax.types import Batch
from tests.models.test_network import random_filters
from tests.networks import build_random, images_for, network_of, state_of
from tests.tiny_zoos import loaded, register


class Pair(nn.Module):
    """A convolution and its batch norm; with ``reused``, the convolution's output is added to the result."""

    reused: bool = False

    @nn.compact
    def __call__(self, x, train):
        y = Conv(4, 3, pad=1, use_bias=True, placement="conv_output", name="conv")(x)
        out = BatchNorm("channel", name="norm")(y, train)
        return out + y if self.reused else out


def random_pair(reused: bool):
    module, rng = Pair(reused), np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 6, 3)), jnp.float32)
    variables = module.init(jax.random.key(0), x, False)
    return module, jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32), variables), x


def apply(module, folds, variables, x):
    with fold_batch_norms(folds):
        return module.apply(variables, x, False)


@pytest.mark.parametrize("reused", [False, True])
def test_a_convolution_with_bias_and_mask_and_its_batch_norm(reused):
    module, variables, x = random_pair(reused)
    plain, folded = (jax.jit(partial(apply, module, folds)).lower(variables, x).compile() for folds in (False, True))
    np.testing.assert_allclose(folded(variables, x), plain(variables, x), rtol=1e-5, atol=1e-5)
    convolutions = [each.as_text().count("window={size=3x3") for each in (plain, folded)]
    assert convolutions == [1, 1 + reused]  # a convolution that nothing else reads is not computed twice


def test_training_mode_is_not_folded():
    module, variables, x = random_pair(False)
    expected = module.apply(variables, x, True, mutable=["batch_stats"])
    with fold_batch_norms():
        found = module.apply(variables, x, True, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@partial(jax.jit, static_argnums=0)
def logits_of(network, variables, images):
    return network(variables, images)[0]


@pytest.mark.parametrize(
    ("name", "placement"),
    [("resnet18", "bn_scale"), ("preactresnet18", "conv_output")],
)
def test_masked_networks(name, placement):
    network, images = network_of(name, placement), images_for(name, 8)
    variables = from_state_dict(network, state_of(build_random(name)))
    masked = masks.apply_filters(variables, random_filters(variables))
    plain, folded = (logits_of(each, masked, images) for each in (network, replace(network, folded=True)))
    np.testing.assert_allclose(folded, plain, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(folded, plain)


@pytest.mark.parametrize("name", ["densenet", "mobilenet"])
def test_other_families(name):
    _, network, variables = loaded(name)
    images = np.random.default_rng(0).integers(0, 256, (4, *network.architecture.image_shape), np.uint8)
    with register():
        plain, folded = (logits_of(each, variables, images) for each in (network, replace(network, folded=True)))
    np.testing.assert_allclose(folded, plain, rtol=1e-4, atol=1e-4)


def test_a_published_network_predicts_the_same():
    model, data = load_model("checkpoints/digits_badnets.pt"), load("digits", split="test")
    images = np.asarray(data.images)[:256]
    networks = (model.network, replace(model.network, folded=True))
    plain, folded = (np.asarray(logits_of(each, model.variables, images)) for each in networks)
    np.testing.assert_array_equal(folded.argmax(-1), plain.argmax(-1))
    np.testing.assert_allclose(folded, plain, rtol=0, atol=1e-4)


def test_float32_is_not_folded_and_every_other_precision_is():
    network = network_of("resnet18")
    assert network.evaluator == network.fixed == network
    fast = replace(network, precision="tf32", evaluation="bfloat16")
    assert fast.fixed == replace(fast, folded=True)
    assert fast.evaluator == replace(network, precision="bfloat16", folded=True)
    assert replace(fast, evaluation="float32").evaluator == network
    assert [each.arithmetic for each in (network, fast)] == ["float32", "tf32, bfloat16 in evaluation"]


def test_predictions_are_in_the_precision_of_evaluation():
    """Of the network as it is and of its variants."""
    network, images = network_of("mlp"), images_for("mlp", 8)
    variables = network.init(jax.random.key(0))
    batch = Batch(images, np.zeros(8, np.int32))
    coarse = replace(network, evaluation="bfloat16")
    exact, rough = (predict(each, variables, batch).loss for each in (network, coarse))
    assert 1e-5 < np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()
    filters = random_filters(variables)
    sweep = predict_variants(coarse, variables, [masks.filters(variables["masks"]), filters], batch)
    expected = logits_of(coarse.evaluator, masks.apply_filters(variables, filters), images)
    np.testing.assert_array_equal(sweep.labels[1], np.asarray(expected).argmax(-1))

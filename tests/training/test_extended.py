import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.models import Architecture, Network
from rnp_jax.training import extended
from rnp_jax.training.extended import Extended, extract, feature_width, fit_probe, head_on, join, split
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Batch
from tests.compiled import count_compiled

IMAGE = (4, 2, 3)
EXTRACTOR = Network(Architecture("mlp", 3, 0, (("0", 9), ("2", 7), ("4", 3)), IMAGE), (0.4,) * 3, (0.3,) * 3)
HEAD = head_on(EXTRACTOR, 5, hidden=(6,))
PARTS = EXTRACTOR.init(jax.random.key(0)), HEAD.init(jax.random.key(1))
IMAGES = np.random.default_rng(0).integers(0, 256, (11, *IMAGE), np.uint8)


def test_it_is_the_head_of_the_features():
    logits, stats = Extended(EXTRACTOR, HEAD)(join(*PARTS), jnp.asarray(IMAGES))
    features, _ = EXTRACTOR.features(PARTS[0], jnp.asarray(IMAGES))
    expected, _ = HEAD(PARTS[1], features.reshape(11, 1, 1, 7))
    assert logits.shape == (11, 5)
    np.testing.assert_array_equal(logits, expected)
    assert stats == join(*PARTS)["batch_stats"]


def test_split_undoes_join():
    for found, part in zip(split(join(*PARTS)), PARTS, strict=True):
        assert found.keys() == part.keys()
        assert all(found[name] is part[name] for name in part)


def test_masks_of_both_parts_are_the_network_s():
    names = set(masks.filters(join(*PARTS)["masks"]))
    assert names == {"extractor.0", "extractor.2", "head.0"}


def test_a_pruned_unit_of_the_head_is_silent():
    pruned = masks.apply_filters(PARTS[1], {"0": np.zeros(6, np.float32)})
    logits, _ = Extended(EXTRACTOR, HEAD)(join(PARTS[0], pruned), jnp.asarray(IMAGES))
    np.testing.assert_array_equal(logits, jnp.broadcast_to(PARTS[1]["params"]["2"]["bias"], (11, 5)))


def test_equal_networks_share_compiled_programs():
    assert Extended(EXTRACTOR, HEAD) == Extended(EXTRACTOR, head_on(EXTRACTOR, 5, hidden=(6,)))
    assert hash(Extended(EXTRACTOR, HEAD)) == hash(Extended(EXTRACTOR, head_on(EXTRACTOR, 5, hidden=(6,))))


def test_training_moves_the_extractor_s_statistics():
    network = Network(Architecture("resnet18", 3, 2, image_shape=(8, 8, 3)))
    head = head_on(network, 3, hidden=(4,))
    with jax.default_prng_impl("rbg"):
        variables = join(network.init(jax.random.key(0)), head.init(jax.random.key(1)))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8))
    _, stats = jax.jit(Extended(network, head), static_argnames="train")(variables, images, train=True)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("batch_size", [1, 4, 11, 256])
def test_extract_gives_every_image_s_features(batch_size):
    expected, _ = EXTRACTOR.features(PARTS[0], jnp.asarray(IMAGES))
    found = extract(EXTRACTOR, PARTS[0], IMAGES, batch_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_extract_compiles_once_whatever_is_left_over():
    before = count_compiled(extended._features)
    for count in (6, 7, 9, 11):
        assert extract(EXTRACTOR, PARTS[0], IMAGES[:count], 6).shape == (count, 7)
    assert count_compiled(extended._features) - before == 1


def test_images_of_another_size():
    with pytest.raises(DataError, match=r"\(0, 4, 2, 3\), expected \[N, 4, 2, 3\]"):
        extract(EXTRACTOR, PARTS[0], IMAGES[:0])
    with pytest.raises(DataError, match=r"\(11, 4, 6\)"):
        extract(EXTRACTOR, PARTS[0], IMAGES.reshape(11, 4, 6))


def test_a_head_takes_as_many_features_as_there_are():
    assert HEAD.architecture.layers == (("0", 6), ("2", 5))
    assert HEAD.architecture.image_shape == (1, 1, 7)
    assert HEAD.placement == "unit"
    assert feature_width(Network(Architecture("resnet50", 10, 4))) == 4 * 8 * 4


def test_a_head_that_takes_images():
    with pytest.raises(ConfigError, match=r"\(4, 2, 3\), expected \(1, 1, D\)"):
        Extended(EXTRACTOR, EXTRACTOR)


def test_a_linear_probe_is_the_last_layer_trained_on_frozen_features():
    data = Batch(IMAGES, np.arange(11, dtype=np.int32) % 3)
    config = TrainConfig(epochs=3, batch_size=5, learning_rate=0.1)
    key = jax.random.key(2)
    found, history = fit_probe(EXTRACTOR, PARTS[0], data, key, config)
    linear = head_on(EXTRACTOR, 3, hidden=())
    init_key, fit_key = jax.random.split(key)
    features = extract(EXTRACTOR, PARTS[0], IMAGES)[:, None, None]
    fitted, expected = train(linear, linear.init(init_key), Batch(features, data.labels), fit_key, config)
    np.testing.assert_array_equal(history["loss"], expected["loss"])
    np.testing.assert_allclose(
        EXTRACTOR(found, jnp.asarray(IMAGES))[0], linear(fitted, jnp.asarray(features))[0], rtol=1e-5, atol=1e-6
    )
    for name, layer in PARTS[0]["params"].items():
        same = [np.array_equal(layer[leaf], found["params"][name][leaf]) for leaf in layer]
        assert all(same) == (name != "4")
    assert {name: found[name] for name in ("batch_stats", "masks")} == {
        name: PARTS[0][name] for name in ("batch_stats", "masks")
    }


def test_a_head_of_no_units():
    with pytest.raises(ConfigError, match=r"\[0\] hidden units"):
        head_on(EXTRACTOR, 3, hidden=(0,))

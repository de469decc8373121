"""EP: entropies against plain histograms, and neurons with two narrow modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses import METHODS, ep
from rnp_jax.defenses.ep import EpConfig, ep_scores, measure_entropy, read_peaks
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.errors import ConfigError, DefenseError
from tests.networks import build_random, images_for, network_of, state_of, torch_input

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
TWO = EpConfig(threshold=ThresholdConfig("number", number=2))


def test_the_entropy_is_that_of_a_histogram_from_the_layer_s_lowest_value_on():
    peaks = rng.normal(size=(200, 3)) * [1, 5, 0.1] + [0, 7, -2]
    standard = (peaks - peaks.mean(0)) / peaks.std(0, ddof=1)
    edges = np.arange(standard.min(), standard.max() + 0.1, 0.1)
    for column, found in enumerate(measure_entropy(peaks, 0.1)):
        share = np.histogram(standard[:, column], edges)[0] / 200
        share = share[share > 0]
        assert found == pytest.approx(-(share * np.log(share)).sum(), abs=0.02)


def test_it_is_that_of_any_affine_image_of_the_activations():
    """Each column is standardised; shared bins begin at the layer's lowest value, so all columns are changed alike."""
    peaks = rng.normal(size=(300, 4))
    np.testing.assert_allclose(measure_entropy(peaks, 0.05), measure_entropy(3 * peaks + 2, 0.05), atol=0.03)


def test_two_narrow_modes_have_a_low_entropy_and_a_constant_none():
    spread = rng.normal(size=(500, 1))
    two = np.where(np.arange(500) < 50, 9.0, 0.0)[:, None]
    found = measure_entropy(np.concatenate([spread, two, np.zeros((500, 1))], 1), 0.01)
    assert found[1] == pytest.approx(-(0.1 * np.log(0.1) + 0.9 * np.log(0.9)))
    assert found[2] == 0
    assert found[0] > 4


def test_peaks_are_the_largest_values_that_torch_s_batch_norms_read():
    module, network = build_random("resnet18"), network_of("resnet18")
    images, read = images_for("resnet18", 3), {}
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(lambda _, given, __, name=name: read.update({name: given[0].amax((2, 3))}))
    with torch.no_grad():
        module(torch_input("resnet18", images))
    found = read_peaks(network, from_state_dict(network, state_of(module)), images, batch_size=2)
    assert set(found) <= set(read)
    for layer in ("bn1", "layer1.0.bn1", "layer3.0.bn2"):
        np.testing.assert_allclose(found[layer], read[layer], rtol=1e-3, atol=1e-3)


def test_the_neurons_of_the_lowest_entropy_are_pruned_and_nothing_else_changes(features):
    images = np.asarray(features.data.images)
    scores = ep_scores(features.network, features.variables, images)
    assert all(row.min() == 0 for row in scores.values())
    found = ep(
        features.network,
        features.variables,
        features.data,
        KEY,
        TWO,
    )
    for layer, row in scores.items():
        pruned = np.flatnonzero(np.asarray(found.variables["masks"][layer]["filter"]) == 0)
        assert sorted(pruned) == sorted(np.argsort(-row, kind="stable")[:2])
    jax.tree.map(np.testing.assert_array_equal, found.variables["params"], features.variables["params"])
    relabelled = features.data._replace(labels=jnp.zeros(48, jnp.int32))
    again = ep(features.network, features.variables, relabelled, KEY, TWO)
    np.testing.assert_array_equal(again.candidates.order, found.candidates.order)
    assert (METHODS["ep"].anew, found.network, found.prunes) == (False, None, True)


def test_what_does_not_fit(features):
    with pytest.raises(ConfigError, match=r"bin_width 0\.0"):
        EpConfig(bin_width=0.0)
    with pytest.raises(ConfigError, match="needs clean held-out images"):
        EpConfig(threshold=ThresholdConfig("budget"))
    with pytest.raises(DefenseError, match="1 images: EP needs two or more"):
        ep_scores(features.network, features.variables, np.asarray(features.data.images[:1]))

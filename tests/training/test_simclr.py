"""The loss against plain loops and torch; training on networks small enough to compile at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.training import simclr
from rnp_jax.training.simclr import SimclrConfig, nt_xent, pretrain, start
from rnp_jax.training.views import Views
from tests.compiled import count_compiled

rng = np.random.default_rng(0)
EMBEDDINGS = rng.standard_normal((12, 5)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_equation_1_written_out(temperature):
    unit = EMBEDDINGS.astype(np.float64) / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    expected, nearest = [], []
    for i in range(12):
        others = [k for k in range(12) if k != i]
        weights = {k: np.exp(unit[i] @ unit[k] / temperature) for k in others}
        partner = i + 6 if i < 6 else i - 6
        expected.append(-np.log(weights[partner] / sum(weights.values())))
        nearest.append(max(weights, key=weights.__getitem__) == partner)
    loss, found = nt_xent(jnp.asarray(EMBEDDINGS), temperature)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(found, nearest)


def test_its_gradient_is_torch_s():
    z = torch.tensor(EMBEDDINGS, requires_grad=True)
    unit = torch.nn.functional.normalize(z, dim=1)
    similarity = (unit @ unit.T / 0.5).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf)
    torch.nn.functional.cross_entropy(similarity, (torch.arange(12) + 6) % 12).backward()
    assert z.grad is not None
    gradient = jax.grad(lambda z: nt_xent(z, 0.5)[0].mean())(jnp.asarray(EMBEDDINGS))
    np.testing.assert_allclose(gradient, z.grad, rtol=1e-4, atol=1e-6)


def test_closed_forms():
    pairs = jnp.tile(jnp.eye(4), (2, 1))  # partners equal, all others orthogonal
    loss, found = nt_xent(3 * pairs, 0.5)
    np.testing.assert_allclose(loss, -2 + np.log(np.exp(2) + 6), rtol=1e-6)
    assert found.sum() == 8
    same, _ = nt_xent(jnp.ones((10, 3)), 0.5)
    np.testing.assert_allclose(same, np.log(9), rtol=1e-6)


def test_embeddings_of_dead_units_have_a_gradient():
    dead = jnp.asarray(EMBEDDINGS).at[2].set(0)
    assert jnp.isfinite(jax.grad(lambda z: nt_xent(z, 0.5)[0].sum())(dead)).all()


IMAGE = (4, 4, 3)
NETWORK = Network(Architecture("mlp", 3, 0, (("0", 16), ("2", 8), ("4", 3)), IMAGE))
CROPS = Views(scale=(0.6, 1.0), jitter=0.2)
SHORT = SimclrConfig(epochs=4, batch_size=5, learning_rate=0.05, projection=6)
IMAGES = rng.integers(0, 256, (17, *IMAGE), np.uint8)


def run(config: SimclrConfig = SHORT, network: Network = NETWORK, seed: int = 0, **options: Any):
    variables = network.init(jax.random.key(7))
    return variables, *pretrain(network, variables, IMAGES, jax.random.key(seed), config, views=CROPS, **options)


def assert_equal_trees(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert all(map(np.array_equal, jax.tree.leaves(actual), jax.tree.leaves(expected)))


def test_all_layers_but_the_last_learn():
    before, after, _ = run()
    assert_equal_trees(after["params"]["4"], before["params"]["4"])
    assert_equal_trees(after["masks"], before["masks"])
    for name in ("0", "2"):
        assert not np.array_equal(after["params"][name]["kernel"], before["params"][name]["kernel"])


def test_the_loss_falls_and_views_find_their_partners_in_one_program():
    config = SimclrConfig(epochs=150, batch_size=16, learning_rate=0.1, projection=8)  # compiled by no other test
    before, seen = count_compiled(simclr._pretrain_epoch), []
    _, _, history = run(config, progress=lambda *row: seen.append((*row[:3], row[3]["loss"])))
    run(config, seed=3)
    assert count_compiled(simclr._pretrain_epoch) - before == 1
    assert seen == [("simclr", epoch, config.epochs, loss) for epoch, loss in enumerate(history["loss"], 1)]
    assert history["loss"][-5:].mean() < history["loss"][:5].mean() - 0.4
    assert history["accuracy"][-5:].mean() > 2 * history["accuracy"][:5].mean()


def test_resuming_equals_an_uninterrupted_run_bit_for_bit():
    states = []
    _, whole, history = run(save=states.append)
    assert [int(state.epoch) for state in states] == [1, 2, 3, 4]
    from_disk = jax.tree.map(np.asarray, states[1]._replace(key=jax.random.key_data(states[1].key)))
    state = from_disk._replace(key=jax.random.wrap_key_data(from_disk.key))
    _, resumed, rest = run(state=state)
    assert_equal_trees(resumed, whole)
    np.testing.assert_array_equal(rest["loss"], history["loss"][2:])


def test_the_same_key_gives_the_same_weights_and_another_does_not():
    first, again, other = (run(seed=seed)[1]["params"] for seed in (0, 0, 1))
    assert_equal_trees(first, again)
    assert not np.array_equal(first["0"]["kernel"], other["0"]["kernel"])


@pytest.mark.slow
def test_batch_norm_sees_both_views_and_moves_its_statistics():
    network = Network(Architecture("resnet18", 3, 2, image_shape=(8, 8, 3)))
    images = rng.integers(0, 256, (4, 8, 8, 3), np.uint8)
    config = SimclrConfig(epochs=1, batch_size=4, learning_rate=1e-9, projection=4)
    still = Views(scale=(1.0, 1.0), aspect=1.0, flip=False, jitter=0.0, grayscale=0.0)
    with jax.default_prng_impl("rbg"):
        variables = network.init(jax.random.key(0))
        trained, _ = pretrain(network, variables, images, jax.random.key(1), config, views=still)
    _, moved = network.features(variables, jnp.concatenate([images, images]), train=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), trained["batch_stats"], moved)


def test_a_fresh_state_has_the_trunk_and_a_projection_as_wide_as_the_features():
    state = start(NETWORK, NETWORK.init(jax.random.key(0)), jax.random.key(0), SHORT, 17)
    assert set(state.params["trunk"]) == {"0", "2"}
    assert state.params["projection"]["hidden"]["kernel"].shape == (8, 8)
    assert state.params["projection"]["out"]["kernel"].shape == (8, 6)
    assert state.epoch == 0


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"temperature": 0.0}, {"projection": 0}]
)
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        SimclrConfig(**options)


def test_fewer_images_than_a_batch():
    with pytest.raises(ConfigError, match="batch_size 18 exceeds the 17 training images"):
        run(SimclrConfig(batch_size=18))

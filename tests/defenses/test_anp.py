"""ANP against torch, step for step, and what it does to a network whose answer is known."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses.anp import AnpConfig, Noise, _run_until, anp, draw_noise, optimize_masks
from rnp_jax.defenses.prune import PruneConfig
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import anp as oracle
from tests.oracle import models, rnp

KEY = jax.random.key(5)
ORDERED = AnpConfig(iterations=4, batch_size=6, shuffle=False, log_every=2, random_start=False, learning_rate=1.0)


def problem(name: str):
    """A random network, its masked layers, 12 images, and the oracle's batches of 6 in the order ours are taken."""
    module, network = build_random(name), network_of(name)
    images, labels = images_for(name, 12), np.arange(12, dtype=np.int32) % CLASSES
    batches = [(x.flatten(1) if name == "mlp" else x, y) for x, y in rnp.make_batches(images, labels, 6)]
    layers = ["0", "2"] if name == "mlp" else list(models.batch_norms(module))
    return module, layers, batches * 2, network, from_state_dict(network, state_of(module)), Batch(images, labels)


def agree(found: masks.Filters, history: dict, steps: list[oracle.Step]) -> None:
    assert set(found) == set(steps[-1].masks)
    for epoch, row in enumerate(history["masks"]):
        for name, values in masks.unflatten(row, found).items():
            np.testing.assert_allclose(values, steps[2 * epoch + 1].masks[name], rtol=0, atol=1e-4, err_msg=name)
    for name in ("loss", "accuracy"):
        expected = np.array([getattr(step, name) for step in steps]).reshape(2, 2).mean(1)
        np.testing.assert_allclose(history[name], expected, rtol=1e-4)
    assert min(float(mask.min()) for mask in steps[-1].masks.values()) < 0.95


@pytest.mark.parametrize("options", [{}, {"ascent_steps": 3}, {"eps": 0.2, "alpha": 0.6, "ascent_steps": 2}])
def test_masks_of_hidden_units_are_torch_s(options):
    module, layers, batches, network, variables, data = problem("mlp")
    found, history = optimize_masks(network, variables, data, KEY, replace(ORDERED, **options))
    agree(found, history, oracle.optimize_masks(module, layers, batches, lr=1.0, **options))


@pytest.mark.parametrize("project", [False, True])
def test_perturbations_start_at_random_and_are_projected_if_asked(project):
    module, layers, batches, network, variables, data = problem("mlp")
    config = replace(ORDERED, random_start=True, project=project, ascent_steps=2)
    like = masks.filters(variables["masks"])

    def start(step: int) -> oracle.Noise:
        noise_key = jax.random.split(jax.random.fold_in(KEY, step), 3)[2]
        drawn = draw_noise(noise_key, Noise(dict(like), dict(like)), 0.4)
        weight, bias = ({name: torch.tensor(np.asarray(row)) for name, row in part.items()} for part in drawn)
        return oracle.Noise(weight, bias)

    found, history = optimize_masks(network, variables, data, KEY, config)
    agree(
        found,
        history,
        oracle.optimize_masks(module, layers, batches, lr=1.0, start=start, ascent_steps=2, project=project),
    )


@pytest.mark.parametrize("name", ["resnet18", pytest.param("preactresnet18", marks=pytest.mark.slow)])
def test_masks_of_batch_norm_channels_are_torch_s(name):
    module, layers, batches, network, variables, data = problem(name)
    found, history = optimize_masks(network, variables, data, KEY, ORDERED)
    agree(found, history, oracle.optimize_masks(module, layers, batches, lr=1.0))


def test_noise_is_uniform_within_eps():
    like = {"a": jnp.zeros(4000), "b": jnp.zeros(3)}
    drawn = draw_noise(KEY, Noise(like, like), 0.3)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, Noise(like, like))
    row = np.asarray(drawn.weight["a"])
    assert np.abs(row).max() <= 0.3
    np.testing.assert_allclose(np.quantile(row, [0.25, 0.5, 0.75]), [-0.15, 0, 0.15], atol=0.02)
    assert not np.array_equal(row, drawn.bias["a"])


FAST = AnpConfig(iterations=60, batch_size=16, log_every=20)


def test_a_sensitive_unit_is_given_up_first(features):
    """A spare unit that floods one class when its bias rises by a third, silent as it is: only perturbation tells."""
    params = {name: dict(leaves) for name, leaves in features.variables["params"].items()}
    params["2"]["kernel"] = params["2"]["kernel"].at[:, 5].set(0.01)
    params["2"]["bias"] = params["2"]["bias"].at[5].set(0.5)
    params["4"]["kernel"] = params["4"]["kernel"].at[5].set(jnp.array([40.0, 0, 0]))
    params["4"]["bias"] = params["4"]["bias"].at[0].add(-20.0)
    variables = {**features.variables, "params": params}
    found, _ = optimize_masks(features.network, variables, features.data, KEY, replace(FAST, iterations=10))
    assert np.argmin(np.asarray(found["2"])) == 5


def test_defends_a_head(features):
    calls = []
    result = anp(
        features.network,
        features.variables,
        features.data,
        KEY,
        FAST,
        holdout=features.holdout,
        progress=lambda *call: calls.append(call),
    )
    assert result.kind == "mask"
    assert result.history["anp"]["masks"].shape == (3, 24)
    np.testing.assert_array_equal(result.history["anp"]["masks"][-1], masks.flatten(result.values))
    assert [call[:3] for call in calls] == [("anp", epoch, 3) for epoch in (1, 2, 3)]
    assert [call[3]["loss"] for call in calls] == result.history["anp"]["loss"].tolist()
    assert (np.diff(result.candidates.values) >= 0).all()
    assert result.choice.holdout_acc_before is not None
    assert result.choice.holdout_acc_after is not None
    assert result.choice.holdout_acc_after.value >= result.choice.holdout_acc_before.value - 0.03 - 1e-9
    pruned = np.flatnonzero(masks.flatten(masks.filters(result.variables["masks"])) == 0)
    assert pruned.tolist() == sorted(result.candidates.order[: result.choice.pruned])
    assert set(result.timing) == {"optimize", "rank", "choose"}
    # A threshold as the release has it, and the other rankings, from masks that the same key gives again.
    for prune in (
        PruneConfig("release", threshold=0.2),
        PruneConfig("path", number=1),
        PruneConfig("damage", number=1),
    ):
        other = anp(features.network, features.variables, features.data, KEY, replace(FAST, prune=prune))
        np.testing.assert_array_equal(masks.flatten(other.values), masks.flatten(result.values))
        if prune.threshold is not None:
            assert other.choice.pruned == (np.round(masks.flatten(result.values), 4) <= 0.2).sum()


def test_one_program_whatever_is_asked_of_it(features):
    anp(features.network, features.variables, features.data, KEY, replace(FAST, prune=PruneConfig("release", number=1)))
    before = count_compiled(_run_until)
    for rate, threshold in ((0.11, 0.2), (0.07, 0.5)):
        other = replace(FAST, learning_rate=rate, eps=rate, prune=PruneConfig("release", threshold=threshold))
        anp(features.network, features.variables, features.data, KEY, other)
    assert count_compiled(_run_until) == before
    short = replace(FAST, iterations=70)
    _, history = optimize_masks(features.network, features.variables, features.data, KEY, short)
    assert history["loss"].shape == (4,)  # the last of 10 steps
    assert count_compiled(_run_until) - before == 1  # 70 iterations are another program


def test_masks_the_network_came_with_become_weights(features):
    like = masks.filters(features.variables["masks"])
    masked = masks.apply_filters(features.variables, {name: mask * 0.5 for name, mask in like.items()})
    result = anp(features.network, masked, features.data, KEY, replace(FAST, prune=PruneConfig("release", number=1)))
    np.testing.assert_array_equal(
        result.variables["params"]["0"]["kernel"], features.variables["params"]["0"]["kernel"] * 0.5
    )


def test_masks_that_stay_at_one_prune_nothing(features):
    result = anp(
        features.network,
        features.variables,
        features.data,
        KEY,
        replace(FAST, iterations=2, learning_rate=1e-6),
        holdout=features.holdout,
    )
    assert result.choice.pruned == 0
    assert result.warnings == ("Nothing was pruned: no mask fell to 0.90.",)


def test_a_loss_that_diverges(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    with pytest.raises(DefenseError, match="the masks diverged"):
        anp(features.network, {**features.variables, "params": params}, features.data, KEY, FAST)


def test_a_network_without_masks(features):
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    with pytest.raises(DefenseError, match="no maskable layer"):
        anp(network, network.init(KEY), features.data, KEY, FAST)


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"eps": 0.0}, {"alpha": 1.5},
        {"ascent_steps": 0}, {"log_every": 0},
    ],
)  # fmt: skip
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected"):
        AnpConfig(**options)

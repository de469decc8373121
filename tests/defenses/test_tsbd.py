"""TSBD: what counts as changed, what is set to zero, and which share is chosen; its tuning is tested on its own."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.defenses.activeness import ActiveTuneConfig, tune_actively
from rnp_jax.defenses.tsbd import SHARES, TsbdConfig, rank_changes, tsbd, zero_changed
from rnp_jax.defenses.unlearn import UnlearnConfig, unlearn
from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch

KEY = jax.random.key(0)
UNLEARN = UnlearnConfig(max_epochs=20, batch_size=16, learning_rate=0.03, stop_accuracy=0.4)
QUICK = TsbdConfig(UNLEARN, finetune=ActiveTuneConfig(epochs=1, batch_size=16))


@pytest.fixture
def layers() -> SimpleNamespace:
    """Kernels of two convolutions, and the same moved at random."""
    rng = np.random.default_rng(3)
    before = {"a": rng.normal(size=(3, 3, 2, 5)), "b": rng.normal(size=(1, 1, 5, 4))}
    before = {name: kernel.astype(np.float32) for name, kernel in before.items()}
    after = {name: kernel + rng.normal(size=kernel.shape).astype(np.float32) for name, kernel in before.items()}
    params = {name: {"kernel": jnp.asarray(kernel)} for name, kernel in before.items()} | {"fc": {"bias": jnp.ones(1)}}
    return SimpleNamespace(before=before, after=after, variables={"params": params, "batch_stats": {}, "masks": {}})


def torch_zeroed(layers: SimpleNamespace, share: float, zeroed: float) -> dict[str, np.ndarray]:
    """As the release does it, filter by filter, on weights [F, C, h, w]."""
    ours = {name: torch.tensor(kernel).permute(3, 2, 0, 1).clone() for name, kernel in layers.before.items()}
    moved = {name: torch.tensor(kernel).permute(3, 2, 0, 1) for name, kernel in layers.after.items()}
    rows = [(name, k, (moved[name][k] - w[k]).abs().sum().item()) for name, w in ours.items() for k in range(len(w))]
    rows.sort(key=lambda row: -row[2])
    top = [row[:2] for row in rows[: int(len(rows) * share)]]
    pooled = torch.cat([(moved[name][k] - ours[name][k]).abs().flatten() for name, k in top]) if top else torch.zeros(0)
    order = pooled.argsort(descending=True)[: int(zeroed * len(pooled))]
    keep = torch.ones(len(pooled))
    keep[order] = 0
    for (name, k), part in zip(top, keep.split([ours[name][k].numel() for name, k in top]), strict=True):
        ours[name][k] *= part.reshape(ours[name][k].shape)
    return {name: w.permute(2, 3, 1, 0).numpy() for name, w in ours.items()}


@pytest.mark.parametrize(("share", "zeroed"), [(0.3, 0.7), (0.5, 0.25), (1.0, 0.7), (0.34, 1.0)])
def test_the_weights_set_to_zero_are_the_release_s(layers, share, zeroed):
    ranking = rank_changes(layers.before, layers.after)
    found = zero_changed(layers.variables, ranking, share, zeroed)["params"]
    for name, expected in torch_zeroed(layers, share, zeroed).items():
        np.testing.assert_array_equal(found[name]["kernel"], expected)
        assert found[name]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(found["fc"]["bias"], 1)


@pytest.mark.parametrize(("share", "zeroed"), [(0.0, 1.0), (1.0, 0.0), (0.1, 0.7)])
def test_no_filter_or_no_weight_leaves_the_network_as_it_is(layers, share, zeroed):
    found = zero_changed(layers.variables, rank_changes(layers.before, layers.after), share, zeroed)["params"]
    for name, kernel in layers.before.items():
        np.testing.assert_array_equal(found[name]["kernel"], kernel)


def test_all_weights_of_the_most_changed_filters_can_be_zero(layers):
    ranking = rank_changes(layers.before, layers.after)
    found = zero_changed(layers.variables, ranking, 1 / 3, 1.0)["params"]
    empty = np.concatenate([(np.asarray(found[name]["kernel"]) == 0).all((0, 1, 2)) for name in ("a", "b")])
    assert set(np.flatnonzero(empty)) == set(np.argsort(-ranking.changes)[:3])


def test_changes_move_with_the_filters(layers):
    order = np.array([3, 0, 4, 1, 2])
    plain = rank_changes(layers.before, layers.after).changes
    moved = rank_changes(*({**each, "a": each["a"][..., order]} for each in (layers.before, layers.after))).changes
    np.testing.assert_allclose(moved, np.concatenate([plain[:5][order], plain[5:]]), rtol=1e-6)


def test_nothing_has_changed_if_nothing_moved(layers):
    np.testing.assert_array_equal(rank_changes(layers.before, layers.before).changes, 0)


def test_the_steps_are_unlearning_zeros_and_tuning(features):
    config = replace(QUICK, share=0.5)
    found = tsbd(features.network, features.variables, features.data, KEY, config)
    unlearn_key, tune_key = jax.random.split(KEY)
    unlearned = unlearn(features.network, features.variables, features.data, unlearn_key, UNLEARN).variables["params"]
    before, after = (
        {name: params[name]["kernel"] for name in ("0", "2")} for params in (features.variables["params"], unlearned)
    )
    start = zero_changed(features.variables, rank_changes(before, after), 0.5, 0.7)
    expected, _ = tune_actively(features.network, start, features.data, tune_key, config.finetune)
    for one, other in zip(jax.tree.leaves(found.variables), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(found.history) == ["unlearn", "tsbd"]
    assert list(found.timing) == ["unlearn", "choose", "tsbd"]
    assert found.choice.rule == (
        "In the 50.0% of filters that unlearning changed most, 70% of the weights are set to zero, and then all "
        "weights are tuned. The share was requested."
    )


@pytest.mark.parametrize(("budget", "expected"), [(1.0, f"{SHARES[-1]:.1%}"), (0.0, None)])
def test_the_share_is_the_largest_within_the_budget(features, budget, expected):
    config = replace(QUICK, accuracy_budget=budget)
    found = tsbd(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    assert found.choice.budget == budget
    assert f"at most {budget:.1%} before tuning" in found.choice.rule
    if expected is not None:
        assert f"In the {expected} of filters" in found.choice.rule
    assert found.choice.holdout_acc_after is not None


def test_no_share_is_within_the_budget():
    """Of 100 hidden units one decides, and it alone moves: the first one per cent takes it away."""
    network = Network(Architecture("mlp", 2, 0, (("0", 100), ("2", 2)), (1, 1, 1)), (0.0,), (1.0,))
    params = {
        "0": {"kernel": jnp.zeros((1, 100)).at[0, 7].set(1), "bias": jnp.zeros(100)},
        "2": {"kernel": jnp.zeros((100, 2)).at[7, 1].set(2), "bias": jnp.array([1.0, 0.0])},
    }
    masks = {"0": {"neuron": jnp.ones(100), "filter": jnp.ones(100)}, "2": {"neuron": jnp.ones(2)}}
    variables = {"params": params, "batch_stats": {}, "masks": masks}
    data = Batch(np.array([0, 1] * 8, np.float32).reshape(16, 1, 1, 1), np.array([0, 1] * 8, np.int32))
    config = replace(QUICK, unlearn=replace(UNLEARN, max_epochs=1, learning_rate=0.01), zeroed=1.0)
    found = tsbd(network, variables, data, KEY, config, holdout=data)
    assert found.choice.rule.startswith("In the 0.0% of filters")
    slow, nothing = found.warnings
    assert slow.startswith("Unlearning never reached the stop accuracy 0.40: after 1 epochs it stood at ")
    assert nothing == "No weight was set to zero: every share of filters costs more than the budget."


def test_nothing_is_held_out_to_choose_by(features):
    with pytest.raises(ConfigError, match="choose the share of filters by: hold some out, or give the share"):
        tsbd(features.network, features.variables, features.data, KEY, QUICK)


@pytest.mark.parametrize("options", [{"share": 1.5}, {"share": -0.1}, {"accuracy_budget": 2.0}, {"zeroed": -0.1}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected share, accuracy_budget and zeroed"):
        TsbdConfig(**options)

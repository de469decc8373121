"""UNIT against its release's loop in torch and in plain Python, and what it may and may not change."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.defenses.finetune import FinetuneConfig
from rnp_jax.defenses.ft import FtConfig, ft
from rnp_jax.defenses.registry import METHODS
from rnp_jax.defenses.unit import Control, Given, UnitConfig, adjust, begin_steps, mean_bounds, run_steps, start_bounds
from rnp_jax.errors import ConfigError, DataError, DefenseError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.models.bounds import apply_bounds, find_bounds
from rnp_jax.types import Batch
from tests.compiled import count_compiled

unit = METHODS["unit"]
KEY = jax.random.key(0)
FAST = UnitConfig(steps=60, learning_rate=0.05, batch_size=16)


def release_control(row: list[bool], cost: float = 1e-3, patience: int = 5) -> list[float]:
    """The release's counters, as they are; the cost after each step."""
    first, up, down, back, costs = cost, 0, 0, 0, []
    for fits in row:
        if cost < first * 0.999 and fits:  # what the release's rounding leaves to chance
            back += 1
            if back >= patience:
                cost, up, down = first, 0, 0
        else:
            back = 0
        up, down = (up + 1, 0) if fits else (0, down + 1)
        if up >= patience:
            up, cost = 0, cost * 2
        if down >= patience:
            down, cost = 0, cost / 2**1.5
        costs.append(cost)
    return costs


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("patience", [1, 2, 5])
def test_the_cost_is_controlled_as_in_the_release(share, patience):
    for seed in range(20):
        rng, row, fits = np.random.default_rng(seed), [], True
        while len(row) < 60:  # in runs, as accuracies come
            row += [fits] * int(rng.geometric(0.15))
            fits = bool(rng.random() < share)

        def step(control: Control, fits: jax.Array) -> tuple[Control, jax.Array]:
            control = adjust(control, fits, patience)
            return control, control.level

        start = Control(jnp.int32(0), jnp.int32(0), jnp.int32(0))
        _, levels = jax.lax.scan(step, start, jnp.array(row[:60]))
        np.testing.assert_allclose(1e-3 * 2 ** (np.asarray(levels) / 2), release_control(row[:60], patience=patience))


def test_ten_good_steps_quadruple_the_cost_and_five_bad_ones_lower_it():
    costs = np.array(release_control([True] * 10 + [False] * 10 + [True] * 6))
    np.testing.assert_allclose(costs[[4, 9, 14, 19, 24]] / 1e-3, [2, 4, 2**0.5, 0.5, 1], rtol=1e-6)


@pytest.fixture(scope="module")
def deep() -> SimpleNamespace:
    """A perceptron with four activations, in torch and here, and images that it predicts well."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = (6, 9, 8, 7, 6, 3)
        layers = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
    module = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])
    names = tuple((str(2 * i), layer.out_features) for i, layer in enumerate(layers))
    network = Network(Architecture("mlp", 3, 0, names, (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    params = {
        name: {
            "kernel": jnp.asarray(layer.weight.detach().numpy().T),
            "bias": jnp.asarray(layer.bias.detach().numpy()),
        }
        for (name, _), layer in zip(names, layers, strict=True)
    }
    variables = {**network.init(KEY), "params": params}
    rng = np.random.default_rng(0)

    def draw(count: int) -> Batch:
        images = rng.normal(0, 1, (count, 1, 1, 6)).astype(np.float32)
        with torch.no_grad():
            return Batch(images, module(torch.from_numpy(images).flatten(1)).argmax(1).numpy().astype(np.int32))

    return SimpleNamespace(module=module, network=network, variables=variables, data=draw(45), holdout=draw(50))


def run_torch(given: SimpleNamespace, config: UnitConfig, least: int) -> tuple[list[dict], list[float], list[bool]]:
    """The release's loop: after each step the bounds, the cost used in it, and whether it was good."""
    pixels, labels = torch.from_numpy(given.data.images).flatten(1), torch.from_numpy(given.data.labels).long()
    held, truth = torch.from_numpy(given.holdout.images).flatten(1), given.holdout.labels

    def forward(x, bounds):
        for name, layer in given.module.named_children():
            x = layer(x)
            if isinstance(layer, nn.ReLU) and bounds is not None:
                x = torch.clamp(x, max=bounds[str(int(name) - 1)].unsqueeze(0))
        return x

    bounds, x = {}, pixels
    with torch.no_grad():
        for name, layer in given.module.named_children():
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                bounds[str(int(name) - 1)] = (x.mean(0) + config.spread * x.std(0)).requires_grad_()
    optimizer = torch.optim.Adam(bounds.values(), lr=config.learning_rate, betas=config.betas)
    states, costs, row = [], [], []
    for _ in range(config.steps):
        costs.append(([config.cost, *release_control(row, config.cost, config.patience)])[-1])
        clipped = {name: torch.clamp(value, min=0) for name, value in bounds.items()}
        loss = F.cross_entropy(forward(pixels, clipped), labels)
        loss = loss + costs[-1] * sum(value.mean() for value in clipped.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            now = {name: torch.clamp(value, min=0) for name, value in bounds.items()}
            row.append(bool((forward(held, now).argmax(1).numpy() == truth).sum() >= least))
        states.append({name: value.detach().numpy().copy() for name, value in bounds.items()})
    return states, costs, row


def test_bounds_and_cost_are_torch_s_over_20_steps(deep):
    """Steps so large that some are good and some are not."""
    config = UnitConfig(steps=20, learning_rate=0.3, cost=0.03, patience=2, batch_size=20)
    start = start_bounds(deep.network, 20, deep.variables, jnp.asarray(deep.data.images), jnp.float32(config.spread))
    given = Given(
        deep.variables, Batch(*map(jnp.asarray, deep.data)), Batch(*map(jnp.asarray, deep.holdout)), jnp.int32(44)
    )
    expected, costs, row = run_torch(deep, config, 44)
    assert 4 < sum(row) < 16
    assert len({round(cost, 6) for cost in costs}) > 3
    state = begin_steps(config, start)
    for step in range(config.steps):
        state = run_steps(deep.network, config, state, given, jnp.int32(step + 1))
        for name, value in expected[step].items():
            np.testing.assert_allclose(state.bounds[name], value, rtol=1e-3, atol=1e-3, err_msg=f"{name}, step {step}")
    np.testing.assert_allclose(state.history["cost"], costs, rtol=1e-4)
    assert ((np.asarray(state.history["holdout_accuracy"]) * 50 >= 43.5) == row).all()
    sizes = [sum(np.maximum(value, 0).mean() for value in each.values()) for each in expected]
    np.testing.assert_allclose(state.history["size"], sizes, rtol=1e-3, atol=1e-3)
    best = min((size, i) for i, size in enumerate(sizes) if row[i])[1]
    assert float(state.smallest) == pytest.approx(sizes[best], rel=1e-3)
    for name, value in expected[best].items():
        np.testing.assert_allclose(state.best[name], value, rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("batch_size", [7, 45, 100])
def test_bounds_start_4_deviations_above_the_mean(deep, batch_size):
    images = jnp.asarray(deep.data.images)
    found = start_bounds(deep.network, batch_size, deep.variables, images, jnp.float32(4))
    for name, values in deep.network.activated(deep.variables, images).items():
        expected = values.mean(0) + 4 * np.std(values, axis=0, ddof=1)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def test_the_penalty_s_slope_is_one_share_of_a_neuron():
    bounds = {"a": jnp.array([[[2.0, -1.0], [0.5, 3.0]]]), "b": jnp.array([-2.0, 1.0])}
    found = jax.grad(lambda values: 1e-3 * mean_bounds(values))(bounds)
    np.testing.assert_allclose(found["a"], 1e-3 / 4 * np.array([[[1, 0], [1, 1]]]))
    np.testing.assert_allclose(found["b"], 1e-3 / 2 * np.array([0, 1]))
    assert float(mean_bounds(bounds)) == pytest.approx(5.5 / 4 + 0.5)


def test_it_keeps_the_tightest_bounds_that_the_held_out_images_allow(features):
    found = unit(features.network, features.variables, features.data, KEY, FAST, holdout=features.holdout)
    history = found.history["unit"]
    assert {name: rows.shape for name, rows in history.items()} == dict.fromkeys(
        ("loss", "accuracy", "size", "cost", "holdout_accuracy"), (60,)
    )
    before, after = found.choice.holdout_acc_before, found.choice.holdout_acc_after
    assert before is not None
    assert after is not None
    assert after.count >= before.count - 0.03 * 60
    kept = find_bounds(found.variables["masks"])
    good = history["holdout_accuracy"] * 60 >= before.count - 0.03 * 60 - 0.5
    assert float(mean_bounds(kept)) == pytest.approx(history["size"][good].min(), rel=1e-5)
    hits = predict(features.network, found.variables, features.holdout).labels[0] == features.holdout.labels
    assert (
        hits.sum()
        == after.count
        == round(history["holdout_accuracy"][np.where(good, history["size"], 9e9).argmin()] * 60)
    )
    assert (found.kind, found.values, found.choice.pruned, found.unchanged, found.warnings) == (
        "bounds",
        {},
        0,
        False,
        (),
    )
    assert "24 neurons of 2 activations have upper bounds" in found.choice.rule
    start = start_bounds(features.network, 48, features.variables, features.data.images, jnp.float32(4))
    assert float(mean_bounds(kept)) < float(mean_bounds(start))


def test_weights_filters_and_statistics_stay_as_they_are(features):
    found = unit(features.network, features.variables, features.data, KEY, FAST, holdout=features.holdout)
    jax.tree.map(np.testing.assert_array_equal, apply_bounds(found.variables, {}), features.variables)


def test_the_same_run_gives_the_same_bounds_with_or_without_a_report_of_progress(features):
    told = []

    def note(name: str, done: int, most: int, last: dict[str, float]) -> None:
        told.append((name, done, most, sorted(last)))

    runs = [
        unit(
            features.network,
            features.variables,
            features.data,
            KEY,
            replace(FAST, steps=25),
            holdout=features.holdout,
            progress=each,
        )
        for each in (None, None, note)
    ]
    for other in runs[1:]:
        jax.tree.map(np.testing.assert_array_equal, runs[0].variables, other.variables)
    assert told == [("unit", done, 25, ["accuracy", "loss"]) for done in (10, 20, 25)]


def test_without_a_good_step_the_network_stays_as_it_is(features):
    config = UnitConfig(steps=3, learning_rate=100.0, accuracy_budget=0.0, batch_size=16)
    found = unit(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    jax.tree.map(np.testing.assert_array_equal, found.variables, features.variables)
    assert found.unchanged
    assert "Each of 3 steps lowered accuracy" in found.warnings[0]


def test_images_are_augmented_once(features):
    calls = []

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        calls.append(images.shape)
        return images[::-1] * 0.5

    config = replace(FAST, steps=3)
    runs = [
        unit(features.network, features.variables, data, KEY, config, holdout=features.holdout, augment=each)
        for each, data in (
            (augment, features.data),
            (None, features.data._replace(images=features.data.images[::-1] * 0.5)),
        )
    ]
    assert calls == [(48, 1, 1, 6)]
    jax.tree.map(np.testing.assert_array_equal, runs[0].history["unit"], runs[1].history["unit"])


def test_another_defense_keeps_the_bounds(features):
    found = unit(
        features.network, features.variables, features.data, KEY, replace(FAST, steps=5), holdout=features.holdout
    )
    config = FtConfig(finetune=FinetuneConfig(epochs=1, batch_size=16))
    tuned = ft(features.network, found.variables, features.data, KEY, config)
    kept, before = find_bounds(tuned.variables["masks"]), find_bounds(found.variables["masks"])
    jax.tree.map(np.testing.assert_array_equal, kept, before)
    free = ft(features.network, features.variables, features.data, KEY, config)
    assert not np.array_equal(free.variables["params"]["0"]["kernel"], tuned.variables["params"]["0"]["kernel"])


def test_a_second_model_compiles_nothing(features):
    config = replace(FAST, steps=4)
    before = count_compiled(run_steps)
    for seed in (0, 1):
        params = jax.tree.map(lambda leaf, scale=1 + seed: leaf * scale, features.variables["params"])
        unit(
            features.network,
            {**features.variables, "params": params},
            features.data,
            KEY,
            config,
            holdout=features.holdout,
        )
    assert count_compiled(run_steps) - before == 1


def test_what_it_cannot_work_with(features):
    arguments = (features.network, features.variables, features.data, KEY, FAST)
    with pytest.raises(ConfigError, match="no held-out images to judge the bounds by"):
        unit(*arguments)
    one = Batch(*(part[:1] for part in features.data))
    with pytest.raises(ConfigError, match="1 images to start from: expected 2"):
        unit(*arguments[:2], one, KEY, FAST, holdout=features.holdout)
    wide = Batch(np.zeros((4, 1, 2, 6), np.float32), np.zeros(4, np.int32))
    with pytest.raises(DataError, match=r"images of shape \(1, 2, 6\): the bounds need images of the shape"):
        unit(*arguments[:2], wide, KEY, FAST, holdout=features.holdout)
    linear = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    with pytest.raises(DefenseError, match="mlp has no activation to bound"):
        unit(linear, linear.init(KEY), features.data, KEY, FAST, holdout=features.holdout)


def test_a_loss_that_is_not_a_number(features):
    params = jax.tree.map(lambda leaf: leaf * np.nan, features.variables["params"])
    with pytest.raises(DefenseError, match="unit diverged"):
        unit(
            features.network,
            {**features.variables, "params": params},
            features.data,
            KEY,
            FAST,
            holdout=features.holdout,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps, patience and batch_size >= 1"),
        ({"learning_rate": 0.0}, "learning_rate and cost above 0"),
        ({"betas": (0.5, 1.0)}, r"betas in \[0, 1\)"),
        ({"accuracy_budget": -0.1}, r"accuracy_budget in \[0, 1\]"),
        ({"spread": -1.0}, "spread >= 0"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        UnitConfig(**options)

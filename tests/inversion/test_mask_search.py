from dataclasses import asdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import ConfigError
from rnp_jax.inversion import mask_search
from rnp_jax.inversion.mask_search import (
    TriggerConfig,
    advance_schedule,
    bound,
    draw_order,
    run_until,
    search,
    start_schedule,
    start_search,
)
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.inversion.planted import CLASSES, CONFIG, TARGET, Rows, rows_data, rows_variables
from tests.oracle import neural_cleanse

KEY = jax.random.key(3)
NETWORK = Rows()
ALL = np.arange(CLASSES, dtype=np.int32)


def plain(config: TriggerConfig) -> neural_cleanse.Settings:
    return neural_cleanse.Settings(**{k: v for k, v in asdict(config).items() if k in neural_cleanse.Settings._fields})


def device_data() -> Batch:
    return Batch(*map(jnp.asarray, rows_data()))


SMALL = TriggerConfig(weight=0.125, patience=2, factor=2.0, stop_patience=3)
LOOKS = st.lists(st.tuples(st.sampled_from([0.0, 0.98, 0.99, 1.0]), st.integers(1, 9)), min_size=1, max_size=40)
ADVANCE = jax.jit(partial(advance_schedule, config=SMALL))


@settings(deadline=None, derandomize=True, max_examples=80)
@given(LOOKS)
def test_the_schedule_is_the_releases(looks: list[tuple[float, int]]):
    ours, theirs = start_schedule(), neural_cleanse.PlainSchedule(plain(SMALL))
    for success, norm in looks:
        before = float(ours.least)
        ours = ADVANCE(ours, jnp.float32(success), jnp.float32(norm))
        assert (float(ours.least) < before) == theirs.look(success, float(norm))
        assert bool(ours.stopped) == theirs.stopped
        if theirs.stopped:
            return
        assert float(ours.weight) == pytest.approx(theirs.weight, rel=1e-5)
        assert (bool(ours.raised), bool(ours.lowered)) == (theirs.went_up, theirs.went_down)


def test_the_weight_waits_for_success_rises_and_falls():
    state, weights = start_schedule(), []
    for success in [0.5] * 3 + [1.0] * 6 + [0.5] * 2:
        state = ADVANCE(state, jnp.float32(success), jnp.float32(5))
        weights.append(float(state.weight))
    # Two looks with success set it; one more, and then each two, double it; two without divide it by 2 ** 1.5.
    assert weights == pytest.approx([0] * 4 + [0.125, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5 / 2**1.5])


def test_a_search_is_torchs_loop_over_labels():
    config, data, variables = CONFIG, device_data(), rows_variables()
    found = search(NETWORK, variables, data, KEY, config, ALL, None)
    start_key, order_key = jax.random.split(KEY)
    free = start_search(config, data.images.shape[1:], start_key, jnp.asarray(ALL)).free
    orders = [
        np.asarray(draw_order(jax.random.fold_in(order_key, t), 48, config.batches, config.batch_size))
        for t in range(config.steps)
    ]
    kernel = torch.tensor(np.array(variables["params"]["fc"]["kernel"]))
    linear = torch.nn.Linear(*kernel.shape, bias=False).requires_grad_(False)
    linear.weight.copy_(kernel.T)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return linear(x.permute(0, 2, 3, 1).flatten(1))

    images = torch.tensor(np.array(data.images)).permute(0, 3, 1, 2).float() / 255
    for label in (0, TARGET):
        start = np.array(free[0][label]), np.array(free[1][label])
        theirs = neural_cleanse.recover(Model(), images, label, start, orders, plain(config))
        rows = np.array(theirs.rows)
        assert int(found.step[label]) == len(rows)
        for column, name in enumerate(("success", "norm", "weight")):
            ours = np.asarray(found.history[name])[label, : len(rows)]
            np.testing.assert_allclose(ours, rows[:, column], rtol=2e-3, atol=1e-4, err_msg=f"{label} {name}")
        np.testing.assert_allclose(bound(found.best[0][label]), theirs.mask, atol=2e-3)


def test_labels_are_searched_alike_together_and_one_after_another(monkeypatch):
    """Together in groups of two, of which the last is not full."""
    monkeypatch.setattr(mask_search, "_AT_ONCE", 2 * CONFIG.batch_size)
    data, variables = device_data(), rows_variables()
    start_key, order_key = jax.random.split(KEY)
    start = start_search(CONFIG, data.images.shape[1:], start_key, jnp.asarray(ALL))
    both = [
        run_until(NETWORK, CONFIG, together, variables, data.images, order_key, start, ALL, jnp.int32(CONFIG.steps))
        for together in (False, True)
    ]
    np.testing.assert_array_equal(both[0].step, both[1].step)
    assert int(both[0].step.min()) < CONFIG.steps, "some end before the others, or nothing is shown"
    for one, other in zip(jax.tree.leaves(both[0].best), jax.tree.leaves(both[1].best), strict=True):
        np.testing.assert_allclose(bound(one), bound(other), atol=1e-4)


def test_a_search_of_other_weights_labels_or_seeds_compiles_nothing():
    data = device_data()
    search(NETWORK, rows_variables(), data, KEY, CONFIG, ALL, None)
    before = count_compiled(run_until)
    for seed in (1, 2):
        search(NETWORK, rows_variables(float(seed)), data, jax.random.key(seed), CONFIG, ALL[::-1].copy(), None)
    calls = []
    search(NETWORK, rows_variables(), data, KEY, CONFIG, ALL, lambda *each: calls.append(each))
    assert count_compiled(mask_search.run_until) == before
    assert [done for _, done, _, _ in calls] == sorted({done for _, done, _, _ in calls})
    assert {(name, most) for name, _, most, _ in calls} == {("trigger", CONFIG.steps)}


@pytest.mark.parametrize(("count", "size"), [(48, 16), (10, 16), (90, 16)])
def test_images_come_equally_often(count: int, size: int):
    order = np.asarray(draw_order(KEY, count, CONFIG.batches, CONFIG.batch_size))
    assert order.shape == (CONFIG.batches, min(size, count))
    seen = np.bincount(order.reshape(-1), minlength=count)
    assert seen.max() - seen.min() <= 1
    assert (order != np.asarray(draw_order(jax.random.key(4), count, CONFIG.batches, CONFIG.batch_size))).any()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batches": 0},
        {"patience": 0},
        {"weight": 0.0},
        {"factor": 1.0},
        {"success": 0.0},
        {"success": 1.1},
        {"betas": (1.0, 0.9)},
        {"learning_rate": float("nan")},
    ],
)
def test_impossible_settings_are_refused(change: dict):
    with pytest.raises(ConfigError, match="expected counts of 1 or more"):
        TriggerConfig(**change)

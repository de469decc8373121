"""Short searches: planted triggers, a plain torch loop, and one program for all labels, starts, steps and rates."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.errors import ConfigError, DataError
from rnp_jax.inversion import short_search as module
from rnp_jax.inversion.checks import NEXT
from rnp_jax.inversion.mask_search import bound, draw_order, unbound
from rnp_jax.inversion.short_search import WARM, InversionConfig, Inverted, invert
from rnp_jax.inversion.stamps import Stamps, measure_stamps
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.inversion.planted import CLASSES, PIXEL, SIDE, TARGET, Rows, Turning, rows_data, rows_variables

KEY = jax.random.key(5)
NETWORK = Rows()
CONFIG = InversionConfig(batch_size=16)
HELD = rows_data(60, seed=9)


@pytest.fixture(scope="module")
def found() -> Inverted:
    return invert(NETWORK, rows_variables(), rows_data(), KEY, CONFIG, holdout=HELD)


def test_the_planted_label_needs_the_smallest_mask(found: Inverted):
    np.testing.assert_array_equal(found.labels, np.arange(CLASSES))
    assert found.reached.all()
    assert found.sizes.argmin() == TARGET
    assert found.sizes[TARGET] < 1.5
    assert np.delete(found.sizes, TARGET).min() > 3
    mask = found.stamps.masks[TARGET]
    assert np.unravel_index(mask.argmax(), mask.shape) == PIXEL


def test_the_next_class_is_searched_for_like_a_label():
    config = replace(CONFIG, success=0.9)
    found = invert(Turning(), rows_variables(0.0), rows_data(), KEY, config, labels=(NEXT,), holdout=HELD)
    assert found.reached[0]
    assert found.sizes[0] < 1.5
    assert found.success[0] > 0.9
    mask = found.stamps.masks[0]
    assert np.unravel_index(mask.argmax(), mask.shape) == PIXEL
    both = found.join(found)
    assert both.labels.tolist() == [NEXT, NEXT]
    np.testing.assert_array_equal(both.stamps.masks, np.repeat(found.stamps.masks, 2, 0))


def test_figures_are_of_the_arrays_returned(found: Inverted):
    masks, patterns = found.stamps[:2]
    assert masks.shape == (CLASSES, SIDE, SIDE)
    assert patterns.shape == (CLASSES, SIDE, SIDE, 3)
    np.testing.assert_allclose(found.sizes, masks.sum((1, 2)), rtol=1e-5)
    expected = measure_stamps(NETWORK, rows_variables(), HELD, masks, patterns, found.labels)
    np.testing.assert_array_equal(found.success, expected)
    two = found.select((TARGET, 0))
    np.testing.assert_array_equal(two.masks, masks[[TARGET, 0]])


def test_a_label_alone_gives_what_it_gives_among_all(found: Inverted):
    alone = invert(NETWORK, rows_variables(), rows_data(), KEY, CONFIG, labels=(TARGET,), holdout=HELD)
    np.testing.assert_allclose(alone.stamps.masks[0], found.stamps.masks[TARGET], atol=1e-5)
    assert alone.success[0] == found.success[TARGET]


def test_labels_are_searched_alike_together_and_one_after_another(found: Inverted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "an accelerator")
    monkeypatch.setattr(module, "_TOGETHER", 4)  # the second group holds two labels twice
    together = invert(NETWORK, rows_variables(), rows_data(), KEY, CONFIG, holdout=HELD)
    np.testing.assert_allclose(together.stamps.masks, found.stamps.masks, atol=1e-3)
    np.testing.assert_array_equal(together.labels, found.labels)


def test_a_warm_search_keeps_a_small_trigger_that_works_and_enlarges_one_that_does_not(found: Inverted):
    labels = (TARGET, 0)
    starts = found.select(labels)
    kept = invert(NETWORK, rows_variables(), rows_data(), KEY, WARM, labels=labels, starts=starts)
    assert kept.sizes[0] < 1.5
    cleaned = invert(NETWORK, rows_variables(planted=0.0), rows_data(), KEY, WARM, labels=labels, starts=starts)
    assert cleaned.sizes[0] > 3
    np.testing.assert_allclose(cleaned.sizes[1], kept.sizes[1], rtol=0.2)


def torch_search(start: Stamps, orders: list[np.ndarray], label: int, config: InversionConfig):
    """The smallest mask by a loop in torch; the size after every check, and the cost of each."""
    kernel = torch.tensor(np.array(rows_variables()["params"]["fc"]["kernel"]))
    images = torch.tensor(rows_data().images).float() / 255
    free = [torch.tensor(np.array(unbound(jnp.asarray(each)))).requires_grad_() for each in start[:2]]
    adam = torch.optim.Adam(free, lr=config.learning_rate, betas=config.betas)
    cost, up, down, best, rows = config.cost, 0, 0, (np.inf, None), []
    for order in orders:
        hits = []
        for index in order:
            mask, pattern = ((torch.tanh(each) + 1) / 2 for each in free)
            x = images[index] * (1 - mask[None, :, :, None]) + (mask[..., None] * pattern)[None]
            logits = x.flatten(1) @ kernel
            wanted = torch.full((len(index),), label)
            adam.zero_grad()
            (F.cross_entropy(logits, wanted) + cost * mask.sum()).backward()
            adam.step()
            hits.append((logits.argmax(-1) == label).float().mean().item())
        mask = (torch.tanh(free[0]) + 1) / 2
        good = np.mean(hits) >= config.success
        if good and mask.sum().item() < best[0]:
            best = mask.sum().item(), mask.detach().numpy().copy()
        up, down = (up + 1, 0) if good else (0, down + 1)
        rows.append(cost)
        if up == config.raise_after:
            cost, up = cost * config.raised, 0
        elif down == config.lower_after:
            cost, down = cost / config.lowered, 0
    return best, rows


@pytest.mark.parametrize("label", [0, TARGET])
def test_a_search_is_a_torch_loop(label: int):
    rng = np.random.default_rng(2)
    start = Stamps(rng.random((1, SIDE, SIDE), np.float32), rng.random((1, SIDE, SIDE, 3), np.float32))
    config = replace(CONFIG, success=0.95, cost=0.05)  # so that the cost is lowered too
    found = invert(NETWORK, rows_variables(), rows_data(), KEY, config, labels=(label,), starts=start)
    orders = [np.array(draw_order(jax.random.fold_in(KEY, t), 48, 5, 16)) for t in range(30)]
    with torch.enable_grad():
        (size, mask), costs = torch_search(Stamps(start.masks[0], start.patterns[0]), orders, label, config)
    assert max(costs) > config.cost
    np.testing.assert_allclose(found.sizes[0], size, rtol=5e-3)
    np.testing.assert_allclose(found.stamps.masks[0], mask, atol=5e-3)


def test_one_program_serves_weights_labels_starts_steps_and_rates(found: Inverted):
    before = count_compiled(module._search)
    invert(NETWORK, rows_variables(1.0), rows_data(), jax.random.key(1), CONFIG, labels=(3, 1))
    other = replace(
        CONFIG, steps=20, learning_rate=0.05, betas=(0.9, 0.99), success=0.5, cost=0.1, raise_after=3, lowered=2.0
    )
    invert(NETWORK, rows_variables(), rows_data(), KEY, other)
    invert(NETWORK, rows_variables(), rows_data(), KEY, replace(WARM, batch_size=16), starts=found.stamps)
    assert count_compiled(module._search) == before


def test_an_unreachable_label_is_told_and_keeps_its_last_mask():
    bias = (-1000.0, *[0.0] * (CLASSES - 1))
    found = invert(NETWORK, rows_variables(bias=bias), rows_data(), KEY, CONFIG, labels=(0, TARGET))
    assert found.reached.tolist() == [False, True]
    assert found.success[0] == 0
    assert np.isfinite(found.sizes).all()


def test_progress_changes_nothing(found: Inverted):
    calls = []
    again = invert(
        NETWORK, rows_variables(), rows_data(), KEY, CONFIG, holdout=HELD, progress=lambda *each: calls.append(each)
    )
    np.testing.assert_array_equal(again.stamps.masks, found.stamps.masks)
    assert [call[:3] for call in calls] == [("invert", done, CLASSES) for done in range(1, CLASSES + 1)]
    assert [call[3]["loss"] for call in calls] == pytest.approx(found.sizes, rel=1e-5)


def test_bounds_are_undone():
    values = jnp.asarray([0.0, 0.2, 0.5, 1.0])
    np.testing.assert_allclose(bound(unbound(values)), values, atol=3e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 4},
        {"check": 0},
        {"batch_size": 0},
        {"raise_after": 0},
        {"success": 0.0},
        {"cost": 0.0},
        {"raised": 1.0},
        {"lowered": 0.5},
        {"betas": (0.5, 1.0)},
        {"learning_rate": float("inf")},
    ],
)
def test_impossible_settings_are_refused(change: dict):
    with pytest.raises(ConfigError, match="expected counts of 1 or more"):
        InversionConfig(**change)


def test_what_cannot_be_searched_is_refused(found: Inverted):
    data = rows_data()
    with pytest.raises(DataError, match="a mask and a pattern of the images' size for each label"):
        invert(NETWORK, rows_variables(), data, KEY, WARM, labels=(0,), starts=found.stamps)
    with pytest.raises(DataError, match="expected uint8"):
        invert(NETWORK, rows_variables(), Batch(data.images[0], data.labels), KEY, CONFIG)
    with pytest.raises(ConfigError, match="different integers from 0 to 5"):
        invert(NETWORK, rows_variables(), data, KEY, CONFIG, labels=(7,))

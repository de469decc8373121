"""PAM against torch, what its step is, and what it does to a network whose backdoor is known by construction."""

from dataclasses import replace
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.defenses import phase
from rnp_jax.defenses.pam import PamConfig, pam, start_stepping_back, step_back
from rnp_jax.defenses.phase import run_phase
from rnp_jax.errors import ConfigError, DataError, DefenseError
from rnp_jax.inversion import InversionConfig, Stamps, measure_stamps
from rnp_jax.types import Batch, Tree, Variables
from tests.compiled import count_compiled
from tests.defenses.test_nc import HELD, NETWORK, planted, true_trigger
from tests.defenses.twin import SIDE, TorchTwin, Twin, assert_same, torch_batches, twin_data, variables_of
from tests.inversion.planted import TARGET, rows_data

KEY = jax.random.key(4)
STEPS = PamConfig(epochs=1, batch_size=6, learning_rate=0.05, rho=0.4, stamped=1.0, shift=0, shuffle=False)
CONFIG = PamConfig(
    InversionConfig(batch_size=16), rounds=2, epochs=60, batch_size=16, learning_rate=0.5, momentum=0.9, stamped=0.5,
    shift=0,
)  # fmt: skip


def one_stamp() -> Stamps:
    rng = np.random.default_rng(5)
    mask = np.zeros((1, SIDE, SIDE), np.float32)
    mask[0, 1:3, 2:5] = 0.75
    return Stamps(mask, rng.uniform(0, 1, (1, SIDE, SIDE, 3)).astype(np.float32))


def torch_steps(module: TorchTwin, origin: list[torch.Tensor], batches, rho: float, momentum: float) -> None:
    """Every gradient is that of the stamped batch at the step back; the step is made from where the network stands."""
    sgd = torch.optim.SGD(module.parameters(), lr=STEPS.learning_rate, momentum=momentum)
    stamp = one_stamp()
    mask, pattern = torch.tensor(stamp.masks), torch.tensor(stamp.patterns).permute(0, 3, 1, 2)
    for x, y in batches:
        here = [each.detach().clone() for each in module.parameters()]
        ahead = [old - each for old, each in zip(origin, here, strict=True)]
        norm = torch.sqrt(torch.stack([each.square().sum() for each in ahead]).sum())
        with torch.no_grad():
            for weights, each in zip(module.parameters(), ahead, strict=True):
                weights += each * (rho / (norm + 1e-12))
        sgd.zero_grad()
        F.cross_entropy(module((1 - mask[:, None]) * x + mask[:, None] * pattern), y).backward()
        with torch.no_grad():
            for weights, each in zip(module.parameters(), here, strict=True):
                weights.copy_(each)
        sgd.step()


def tune(variables: Variables, data: Batch, config: PamConfig, origin: Tree | None = None) -> Variables:
    origin = variables["params"] if origin is None else origin
    fixed = {"masks": variables["masks"], "origin": origin, "stamps": one_stamp()}
    run = start_stepping_back(Twin(), config)
    params, stats, _, _ = run_phase(run, variables["params"], fixed, variables["batch_stats"], data, KEY, None)
    return {**variables, "params": params, "batch_stats": stats}


@pytest.mark.parametrize("rho", [0.0, 0.4])
@pytest.mark.parametrize("other", [False, True], ids=["from_origin", "from_elsewhere"])
def test_three_steps_are_torch_s(rho, other):
    """Without ρ they are those of SGD."""
    module, data = TorchTwin(1).train(), twin_data(18)
    start = variables_of(module)
    origin = TorchTwin(0) if other else module
    weights = [each.detach().clone() for each in origin.parameters()]
    found = tune(start, data, replace(STEPS, rho=rho), variables_of(origin)["params"])
    torch_steps(module, weights, torch_batches(data, 6), rho, STEPS.momentum)
    assert_same(found, module, rtol=2e-3, atol=1e-4)


def test_without_a_radius_the_origin_does_not_count_and_with_one_it_does():
    start, other, data = variables_of(TorchTwin(1)), variables_of(TorchTwin(0))["params"], twin_data(18)
    for rho, same in ((0.0, True), (0.4, False)):
        one, two = (tune(start, data, replace(STEPS, rho=rho), origin)["params"] for origin in (None, other))
        assert jax.tree.all(jax.tree.map(np.array_equal, one, two)) == same


def test_the_first_step_is_plain():
    start, data = variables_of(TorchTwin(1)), twin_data(6)
    one, two = (tune(start, data, replace(STEPS, rho=rho)) for rho in (0.0, 0.4))
    for found, expected in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not jax.tree.all(jax.tree.map(np.array_equal, one["params"], start["params"]))


def test_the_step_back_has_the_length_rho_and_leads_to_the_origin():
    here, origin = (variables_of(TorchTwin(seed))["params"] for seed in (0, 1))
    step = step_back(here, origin, 0.7)
    flat, whole = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (step, jax.tree.map(jnp.subtract, origin, here))
    )
    assert np.linalg.norm(flat) == pytest.approx(0.7, rel=1e-5)
    np.testing.assert_allclose(flat / 0.7, whole / np.linalg.norm(whole), atol=1e-6)
    for nothing in (step_back(here, here, 0.7), step_back(here, origin, 0.0)):
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(nothing))


def test_the_planted_trigger_is_flagged_and_unlearned():
    variables = planted()
    before = jax.tree.map(np.array, variables)
    found = pam(NETWORK, variables, rows_data(), KEY, CONFIG, holdout=HELD)
    label = np.array([TARGET])
    assert measure_stamps(NETWORK, variables, HELD, *true_trigger(), label)[0] == 1
    assert measure_stamps(NETWORK, found.variables, HELD, *true_trigger(), label)[0] < 0.2
    assert found.choice.holdout_acc_before is not None
    assert found.choice.holdout_acc_after is not None
    assert found.choice.holdout_acc_after.value > found.choice.holdout_acc_before.value - 0.05
    assert f"label {TARGET} (" in found.choice.rule
    assert (found.kind, found.choice.pruned, found.unchanged, found.warnings) == ("weights", 0, False, ())
    assert found.history["pam"]["loss"].shape == (120,)
    assert list(found.timing) == ["invert", "pam"]
    assert jax.tree.all(jax.tree.map(np.array_equal, before, variables))


def test_a_network_without_an_outlier_is_returned_as_it_came_with_a_warning():
    variables = planted(0.0)
    found = pam(NETWORK, variables, rows_data(), KEY, CONFIG, holdout=HELD)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.variables, variables))
    (warning,) = found.warnings
    assert warning.startswith("No label stands out by its recovered trigger.")
    assert warning.endswith("The network is unchanged.")
    assert found.choice.rule == warning
    assert (found.history, list(found.timing), found.unchanged) == ({}, ["invert"], True)


def test_later_rounds_search_the_tuned_network_for_the_same_labels(monkeypatch):
    module = import_module("rnp_jax.defenses.pam")
    search, seen = module.search, []

    def watch(network, variables, *args, **options):
        seen.append((args[-1], jax.tree.map(np.array, variables["params"])))
        return search(network, variables, *args, **options)

    monkeypatch.setattr(module, "search", watch)
    variables = planted()
    pam(NETWORK, variables, rows_data(), KEY, replace(CONFIG, rounds=3, epochs=2))
    assert [labels for labels, _ in seen] == [(TARGET,)] * 2
    weights = [variables["params"], *(params for _, params in seen)]
    kernels = [np.asarray(each["0"]["kernel"]) for each in weights]
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])


def test_rounds_and_other_searches_compile_nothing():
    config = replace(CONFIG, epochs=3)
    before = count_compiled(phase._run_until)
    for each in (config, replace(config, starts=2, suspicious=1.9, rounds=3)):
        pam(NETWORK, planted(), rows_data(), KEY, each)
    assert count_compiled(phase._run_until) - before == 1


def test_a_loss_that_diverges():
    with pytest.raises(DefenseError, match="pam diverged"):
        pam(NETWORK, planted(), rows_data(), KEY, replace(CONFIG, learning_rate=1e38, epochs=3))


def test_features_carry_no_trigger(features):
    with pytest.raises(DataError, match="expected uint8"):
        pam(features.network, features.variables, features.data, KEY, CONFIG)


@pytest.mark.parametrize(
    "options", [{"rounds": 0}, {"batch_size": 1}, {"rho": -1.0}, {"stamped": 1.5}, {"shift": -1}, {"margin": 2.0}]
)
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected"):
        PamConfig(**options)

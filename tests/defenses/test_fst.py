"""FST against torch, step for step, and what its penalty and its constraint are."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses import FinetuneConfig, FstConfig, fst, phase
from rnp_jax.defenses.finetune import start_finetuning
from rnp_jax.defenses.fst import reinitialize, rescale, start_shifting
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import rnp

KEY = jax.random.key(0)
HEADS = {"mlp": "4", "resnet18": "linear"}
QUICK = FinetuneConfig(epochs=2, batch_size=16, weight_decay=0.0, schedule="cosine")


def torch_head(module: torch.nn.Module, name: str) -> torch.nn.Linear:
    head = module.get_submodule(HEADS[name])
    assert isinstance(head, torch.nn.Linear)
    return head


def torch_shift(module, head, original: torch.Tensor, batches, epochs: int, alpha: float) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    module.train()
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            (F.cross_entropy(module(x), y) + alpha * (head.weight * original).sum()).backward()
            optimizer.step()
            with torch.no_grad():
                head.weight *= original.norm() / head.weight.norm()
        scheduler.step()


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("name", ["mlp", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_weights_are_torch_s(name, epochs):
    """After one step and after five, each a batch of all ten images, from the same new head."""
    module, network = build_random(name), network_of(name)
    variables = from_state_dict(network, state_of(module))
    images, labels = images_for(name, 10), np.arange(10, dtype=np.int32) % CLASSES
    settings = FinetuneConfig(epochs, 10, 0.02, weight_decay=0.0, schedule="cosine", shuffle=False)
    found = fst(network, variables, Batch(images, labels), KEY, FstConfig(0.3, settings))

    head = torch_head(module, name)
    original = head.weight.detach().clone()
    fresh = reinitialize(variables["params"][HEADS[name]], jax.random.split(KEY)[0])
    with torch.no_grad():
        head.weight.copy_(torch.tensor(np.asarray(fresh["kernel"]).T))
        head.bias.copy_(torch.tensor(np.asarray(fresh["bias"])))
    batches = [(x.flatten(1) if name == "mlp" else x, y) for x, y in rnp.make_batches(images, labels, 10)]
    torch_shift(module, head, original, batches, epochs, 0.3)
    ours, tolerance = to_state_dict(network, found.variables), 1e-5 if name == "mlp" else 1e-3
    for key, expected in state_of(module).items():
        if "tracked" not in key:
            np.testing.assert_allclose(ours[key], expected, rtol=tolerance, atol=tolerance, err_msg=key)
    norms = [torch.linalg.norm(each).item() for each in (original, torch.tensor(ours[f"{HEADS[name]}.weight"]))]
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)
    assert (found.kind, found.choice.pruned) == ("weights", 0)


def shifted(features, alpha: float, scale: float = 1.0):
    """The phase, what it trains and what it holds fixed, for an old head ``scale`` times as large."""
    head, params = features.network.head, features.variables["params"]
    original = scale * params[head]["kernel"]
    fixed = {"masks": features.variables["masks"], "original": original}
    return start_shifting(features.network, FstConfig(alpha, QUICK)), params, fixed


def loss_of(features, shift, trained) -> tuple[jax.Array, dict]:
    steps, _, fixed = shift
    batch = Batch(jnp.asarray(features.data.images), jnp.asarray(features.data.labels))
    value, slopes = jax.value_and_grad(lambda each: steps.loss(each, fixed, {}, batch)[0])(trained)
    return value, slopes


def test_the_penalty_s_gradient_is_alpha_times_the_old_weights_and_nothing_elsewhere(features):
    shift = shifted(features, 0.4)
    _, params, fixed = shift
    with_penalty, without = (loss_of(features, each, params)[1] for each in (shift, shifted(features, 0.0)))
    added = jax.tree.map(jnp.subtract, with_penalty, without)
    head = features.network.head
    np.testing.assert_allclose(added.pop(head)["kernel"], 0.4 * fixed["original"], atol=1e-5)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(added))
    assert len(added) == 2


def test_the_penalty_lies_within_alpha_times_the_squared_norm(features):
    """The old weights are the upper end, their negative the lower one. An old head scaled by c has c² the penalty."""
    head, limit = features.network.head, {}
    for scale in (1.0, 3.0):
        shift, plain = shifted(features, 0.4, scale), shifted(features, 0.0, scale)
        original = shift[2]["original"]
        limit[scale] = 0.4 * float(jnp.square(original).sum())
        for sign, kernel in (
            (1, original),
            (-1, -original),
            (None, rescale(jax.random.normal(KEY, original.shape), original)),
        ):
            trained = {**shift[1], head: {**shift[1][head], "kernel": kernel}}
            penalty = float(loss_of(features, shift, trained)[0] - loss_of(features, plain, trained)[0])
            if sign is None:
                assert abs(penalty) < 0.9 * limit[scale]
            else:
                assert penalty == pytest.approx(sign * limit[scale], rel=1e-4)
    assert limit[3.0] == pytest.approx(9 * limit[1.0], rel=1e-5)


def test_without_a_penalty_a_step_is_fine_tuning_s_but_for_the_norm_of_the_head(features):
    steps, params, fixed = shifted(features, 0.0)
    plain = start_finetuning(features.network, QUICK)
    batch = Batch(jnp.asarray(features.data.images), jnp.asarray(features.data.labels))
    slopes = [
        jax.grad(lambda each: steps.loss(each, fixed, {}, batch)[0])(params),
        jax.grad(lambda each: plain.loss(each, fixed["masks"], {}, batch)[0])(params),
    ]
    jax.tree.map(np.testing.assert_array_equal, *slopes)
    updates = jax.tree.map(lambda slope: -3 * slope, slopes[0])
    ours, theirs = steps.update(params, updates, fixed), plain.update(params, updates, fixed["masks"])
    head = features.network.head
    kernels = [each.pop(head) for each in (ours, theirs)]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_array_equal(kernels[0]["bias"], kernels[1]["bias"])
    norm = np.linalg.norm(fixed["original"])
    assert np.linalg.norm(kernels[0]["kernel"]) == pytest.approx(norm, rel=1e-6)
    assert np.linalg.norm(kernels[1]["kernel"]) != pytest.approx(norm, rel=1e-3)
    ratio = norm / np.linalg.norm(kernels[1]["kernel"])
    np.testing.assert_allclose(kernels[0]["kernel"], ratio * kernels[1]["kernel"], rtol=1e-6)


def test_a_new_head_is_uniform_within_one_over_the_root_of_its_inputs():
    head = {"kernel": jnp.zeros((400, 50)), "bias": jnp.zeros(50)}
    found = reinitialize(head, KEY)
    for name, leaf in found.items():
        assert leaf.shape == head[name].shape
        assert 0.9 / 20 < jnp.abs(leaf).max() <= 1 / 20
    assert float(found["kernel"].mean()) == pytest.approx(0, abs=1e-3)
    assert float(found["kernel"].std()) == pytest.approx(1 / 20 / np.sqrt(3), rel=0.01)


def test_the_task_is_learnt_again_away_from_the_old_head(features):
    config = FstConfig(finetune=replace(QUICK, epochs=20, learning_rate=0.1))
    found = fst(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    old, new = (each["params"][features.network.head]["kernel"] for each in (features.variables, found.variables))
    assert float((old * new).sum()) < 0
    assert list(found.timing) == list(found.history) == ["fst"]
    assert found.choice.holdout_acc_after is not None
    assert found.choice.holdout_acc_after.value > 0.9
    assert found.warnings == ()


def test_a_second_model_compiles_nothing(features):
    config = FstConfig(finetune=replace(QUICK, epochs=3))
    before = count_compiled(phase._run_until)
    for seed in (0, 1):
        fst(features.network, features.variables, features.data, jax.random.key(seed), config)
    assert count_compiled(phase._run_until) - before == 1


def test_a_loss_that_diverges(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    with pytest.raises(DefenseError, match="fst diverged: the loss became"):
        fst(features.network, {**features.variables, "params": params}, features.data, KEY, FstConfig())


@pytest.mark.parametrize("alpha", [-0.1, float("nan")])
def test_impossible_settings(alpha):
    with pytest.raises(ConfigError, match="expected 0 or more"):
        FstConfig(alpha)

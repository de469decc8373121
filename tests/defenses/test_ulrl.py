"""ULRL against torch, step for step: clipped unlearning, the rows that it flags, and relearning away from them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses import FinetuneConfig, UlrlConfig, UnlearnConfig, phase, ulrl, unlearn
from rnp_jax.defenses.finetune import finetune
from rnp_jax.defenses.ulrl import cosines, flag, reinitialize
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import rnp

KEY = jax.random.key(0)
HEADS = {"mlp": "4", "resnet18": "linear"}
QUICK = UlrlConfig(
    UnlearnConfig(max_epochs=3, batch_size=16),
    suspicious=0.1,
    most=1,
    relearn=FinetuneConfig(epochs=2, batch_size=16, weight_decay=0.0, schedule="cosine"),
)


def torch_head(module: torch.nn.Module, name: str) -> torch.nn.Linear:
    head = module.get_submodule(HEADS[name])
    assert isinstance(head, torch.nn.Linear)
    return head


def torch_unlearn(module, batches, epochs: int, clip: float) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    module.train()
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            (-F.cross_entropy(module(x), y)).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()


def torch_flag(changes: torch.Tensor, suspicious: float) -> list[int]:
    median = changes.median()
    z = ((changes - median) / (1.4826 * (changes - median).abs().median())).abs()
    return torch.where((z > suspicious) & (changes > median))[0].tolist()


def torch_relearn(module, head, original: torch.Tensor, rows: list[int], batches, epochs: int, alpha: float) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    module.train()
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            likeness = F.cosine_similarity(head.weight[rows], original[rows], dim=1)
            (F.cross_entropy(module(x), y) + alpha * likeness.sum()).backward()
            optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("name", ["mlp", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_weights_are_torch_s(name, epochs):
    """Two steps of unlearning, clipped by half; after one and after five steps of relearning from the same new row."""
    module, network = build_random(name), network_of(name)
    variables = from_state_dict(network, state_of(module))
    images, labels = images_for(name, 10), np.arange(10, dtype=np.int32) % CLASSES
    config = UlrlConfig(
        UnlearnConfig(2, 10, 0.02, stop_accuracy=0, shuffle=False),
        clip=0.5,
        suspicious=0.5,
        most=CLASSES,
        relearn=FinetuneConfig(epochs, 10, 0.02, weight_decay=0.0, schedule="cosine", shuffle=False),
    )
    found = ulrl(network, variables, Batch(images, labels), KEY, config)

    batches = [(x.flatten(1) if name == "mlp" else x, y) for x, y in rnp.make_batches(images, labels, 10)]
    forgetful = build_random(name)
    torch_unlearn(forgetful, batches, 2, 0.5)
    head, moved = (torch_head(each, name).weight.detach() for each in (module, forgetful))
    changes = (moved - head).abs().sum(1)
    rows = torch_flag(changes, 0.5)
    assert 0 < len(rows) < CLASSES / 2
    assert all(f"label {k} ({changes[k].item():.3g})" in found.choice.rule for k in rows)

    head, original = torch_head(module, name), head.clone()
    chosen = jnp.zeros(CLASSES).at[jnp.asarray(rows)].set(1)
    fresh = reinitialize(variables["params"][HEADS[name]], chosen, jax.random.split(KEY, 3)[1])
    with torch.no_grad():
        head.weight.copy_(torch.tensor(np.asarray(fresh["kernel"]).T))
        head.bias.copy_(torch.tensor(np.asarray(fresh["bias"])))
    torch_relearn(module, head, original, rows, batches, epochs, 0.7)
    ours, tolerance = to_state_dict(network, found.variables), 1e-5 if name == "mlp" else 1e-3
    for key, expected in state_of(module).items():
        if "tracked" not in key:
            np.testing.assert_allclose(ours[key], expected, rtol=tolerance, atol=tolerance, err_msg=key)
    assert (found.kind, found.choice.pruned) == ("weights", 0)


def test_a_wide_clip_is_rnp_s_unlearning_and_a_narrow_one_keeps_steps_short(features):
    """Seen from outside: how far the last layer moved is what the rule tells."""
    key = jax.random.split(KEY, 3)[0]
    plain = unlearn(features.network, features.variables, features.data, key, QUICK.unlearn)
    for clip, same in ((1e9, True), (1e-3, False)):
        found = ulrl(features.network, features.variables, features.data, KEY, replace(QUICK, clip=clip))
        assert np.array_equal(found.history["unlearn"]["loss"], plain.history["loss"]) == same
    stopped = found.stops["unlearn"]
    assert stopped == "did not reach the stop accuracy 0.2 after 3 epochs"


@pytest.mark.parametrize("count", [9, 10])
def test_one_outlier_among_the_rows_is_flagged_whatever_the_scale(count):
    changes = np.random.default_rng(count).uniform(1, 1.2, count)
    assert flag(changes) == ()
    changes[4] = 3
    for scale in (1e-3, 1.0, 1e3):
        assert flag(scale * changes) == (4,)
        assert torch_flag(torch.tensor(scale * changes), 3.5) == [4]
    changes[4] = -3  # far below the median is not suspicious
    assert flag(changes) == ()


def test_of_several_outliers_those_that_moved_most():
    changes = np.array([1.0, 1.1, 5.0, 1.2, 7.0, 0.9, 1.05, 6.0, 0.95, 1.15])
    assert torch_flag(torch.tensor(changes), 3.5) == [2, 4, 7]
    assert flag(changes) == (4, 7)
    assert flag(changes, most=1) == (4,)
    assert flag(changes, most=9) == (4, 7, 2)


def test_medians_are_the_lower_ones():
    """Of four rows: median 1, deviations 0, 1, 2 and 9 of which the lower median is 1."""
    changes = np.array([1.0, 0.0, 3.0, 10.0])
    assert flag(changes, suspicious=1.3) == (3, 2)
    assert flag(changes, suspicious=1.4) == (3,)
    assert torch_flag(torch.tensor(changes), 1.3) == [2, 3]


def test_rows_that_moved_alike():
    assert flag(np.full(10, 2.0)) == ()
    assert flag(np.zeros(10)) == ()
    changes = np.full(10, 2.0)
    changes[3] = 2.5
    assert flag(changes) == (3,)
    assert torch_flag(torch.tensor(changes), 3.5) == [3]


def test_cosines_ignore_scale_and_their_slope_turns_only():
    kernel, other = (jax.random.normal(key, (6, 4)) for key in jax.random.split(KEY))
    expected = F.cosine_similarity(torch.tensor(np.asarray(kernel)), torch.tensor(np.asarray(other)), dim=0)
    np.testing.assert_allclose(cosines(kernel, other), expected, atol=1e-6)
    np.testing.assert_allclose(cosines(7 * kernel, other), expected, atol=1e-6)
    slope = jax.jacrev(cosines)(kernel, other)  # [K, D, K]
    own = jnp.stack([slope[k, :, k] for k in range(4)], 1)
    assert (jnp.abs(own).max(0) > 0.05).all()
    np.testing.assert_allclose((own * kernel).sum(0), 0, atol=1e-6)
    zeros = jax.grad(lambda each: cosines(each, other).sum())(jnp.zeros((6, 4)))
    assert np.isfinite(zeros).all()


def test_only_flagged_rows_are_drawn_anew():
    head = {"kernel": jnp.full((200, 4), 9.0), "bias": jnp.full(4, 9.0)}
    found = reinitialize(head, jnp.array([0.0, 1.0, 0.0, 1.0]), KEY)
    fresh = found["kernel"][:, 1::2]
    np.testing.assert_array_equal(found["kernel"][:, ::2], 9)
    np.testing.assert_array_equal(found["bias"], [9, 0, 9, 0])
    assert 0.09 < jnp.abs(fresh).max() <= 0.1
    assert float(fresh.std()) == pytest.approx(0.1 / np.sqrt(3), rel=0.1)
    assert not np.array_equal(fresh[:, 0], fresh[:, 1])


def test_without_a_flag_it_is_fine_tuning_and_says_so(features):
    config = replace(QUICK, suspicious=1e6)
    found = ulrl(features.network, features.variables, features.data, KEY, config)
    tuned, history = finetune(
        features.network, features.variables, features.data, jax.random.split(KEY, 3)[2], config.relearn
    )
    jax.tree.map(np.testing.assert_array_equal, found.variables, tuned)
    np.testing.assert_allclose(found.history["relearn"]["loss"], history["loss"], rtol=1e-5)
    assert found.choice.rule.startswith("No label stands out by how far unlearning moved its row of the last layer")
    slow, nothing = found.warnings
    assert slow.startswith("Unlearning never reached the stop accuracy 0.20: after 3 epochs")
    assert nothing == found.choice.rule


def test_a_flagged_row_turns_away_and_the_task_is_learnt_again(features):
    config = replace(QUICK, relearn=replace(QUICK.relearn, epochs=20, learning_rate=0.1))
    found = ulrl(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    assert found.choice.rule.startswith("Flagged by how far unlearning moved its row of the last layer: label ")
    k = int(found.choice.rule.split("label ")[1].split(" ")[0])
    kernels = (each["params"][features.network.head]["kernel"] for each in (found.variables, features.variables))
    likeness = np.asarray(cosines(*kernels))
    assert likeness[k] < 0
    assert (np.delete(likeness, k) > 0).all()
    assert found.choice.holdout_acc_after is not None
    assert found.choice.holdout_acc_after.value > 0.9
    assert list(found.timing) == list(found.history) == ["unlearn", "relearn"]
    assert len(found.warnings) == 1  # three epochs do not unlearn


def test_a_second_model_compiles_nothing_whatever_is_flagged(features):
    configs = [replace(QUICK, relearn=replace(QUICK.relearn, epochs=3), suspicious=each) for each in (0.1, 1e6)]
    before = count_compiled(phase._run_until)
    found = [ulrl(features.network, features.variables, features.data, jax.random.key(1), each) for each in configs]
    assert found[0].choice.rule != found[1].choice.rule
    assert count_compiled(phase._run_until) - before <= 2  # unlearning, relearning


def test_a_loss_that_diverges(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    with pytest.raises(DefenseError, match="unlearn diverged: the loss became"):
        ulrl(features.network, {**features.variables, "params": params}, features.data, KEY, QUICK)


@pytest.mark.parametrize("options", [{"clip": 0.0}, {"suspicious": 0.0}, {"most": 0}, {"alpha": -1.0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected clip and suspicious > 0"):
        UlrlConfig(**options)

"""SAU against torch: the perturbation, the losses and the weights after steps of Adam."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.defenses import phase
from rnp_jax.defenses.phase import run_phase
from rnp_jax.defenses.sau import Logits, SauConfig, _SharedUnlearning, divergence, find_shared, sau, shared_loss
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.defenses.twin import TorchTwin, Twin, assert_same, torch_batches, twin_data, variables_of

KEY = jax.random.key(0)
QUICK = SauConfig(rounds=2, batch_size=6, learning_rate=0.01, inner_step=0.07, mislead=0.3, shuffle=False)


def logits_of(module: TorchTwin) -> Logits:
    variables = variables_of(module)
    return lambda images: Twin()(variables, images)[0]


def torch_shared(ours, theirs, x, y, config: SauConfig) -> torch.Tensor:
    """As released: the loop ends once all images are shared."""
    delta = torch.full_like(x, config.radius)
    plain = [net(x).argmax(1) for net in (ours, theirs)]
    for _ in range(config.inner_steps):
        delta.requires_grad_()
        logits = [net(x + delta) for net in (ours, theirs)]
        guesses = [each.argmax(1) for each in logits]
        fooled = [guess != before for guess, before in zip(guesses, plain, strict=True)]
        shared = fooled[0] & fooled[1] & (guesses[0] == guesses[1])
        loss = torch.zeros(())
        for each, done in zip(logits, fooled, strict=True):
            loss = loss - config.mislead * F.cross_entropy(each, y, reduction="none")[~done].sum() / 2 / len(x)
        p, q = (F.softmax(each, 1).clamp(min=1e-8) for each in logits)
        m = (p + q) / 2
        js = 0.5 * (p * p.log() + q * q.log()) - 0.5 * (p * m.log() + q * m.log())
        loss = loss + config.agree * js[~shared].sum() / len(x)
        (slope,) = torch.autograd.grad(loss, delta)
        delta = (delta - config.inner_step * slope.sign()).clamp(-config.radius, config.radius).detach()
        if shared.all():
            break
    return delta


def torch_loss(ours, theirs, x, delta, y, config: SauConfig) -> tuple[torch.Tensor, torch.Tensor]:
    logits, perturbed = ours(x), ours(x + delta)
    with torch.no_grad():
        target = theirs(x + delta).argmax(1)
        poison = (target != y) & (target != theirs(x).argmax(1))
    hot = F.one_hot(target, logits.shape[1])
    p = F.softmax(perturbed, 1)
    others, own = (p * (1 - hot)).sum(1)[poison], (p * hot).sum(1)[poison]
    shared = -(1e-6 + others.clamp(max=0.999)).log().sum() - (1 + 1e-6 - own.clamp(min=0.001)).log().sum()
    shared = shared / 2 / len(x)
    loss = config.clean * F.cross_entropy(logits, y) + config.perturbed * F.cross_entropy(perturbed, y)
    return loss + config.shared * shared, shared.detach()


@pytest.mark.parametrize("options", [{}, {"agree": 0.0}, {"mislead": 0.0}])
def test_perturbations_are_torch_s(options):
    config = replace(QUICK, **options)
    ours, theirs, data = TorchTwin(1).eval(), TorchTwin().eval(), twin_data(8)
    ((x, y),) = torch_batches(data, 8)
    expected = torch_shared(ours, theirs, x, y, config)
    images = jnp.asarray(data.images).astype(jnp.float32) / 255
    found = find_shared(logits_of(ours), logits_of(theirs), images, jnp.asarray(data.labels), config)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), atol=1e-6)
    assert len(np.unique(np.round(np.asarray(found), 5))) > 2  # steps went both ways


@pytest.mark.parametrize("options", [{}, {"perturbed": 0.5, "clean": 0.7}])
def test_weights_are_torch_s(options):
    """A second network is unlearned against the first, so that both differ from the start."""
    config = replace(QUICK, **options)
    ours, theirs, data = TorchTwin(1).eval(), TorchTwin().eval(), twin_data()
    start, original = variables_of(ours), variables_of(theirs)
    run = _SharedUnlearning("sau", Twin(), config.rounds, config.batch_size, False, None, config)
    fixed = {"masks": start["masks"], "original": original}
    params, stats, history, _ = run_phase(run, start["params"], fixed, start["batch_stats"], data, KEY, None)
    adam, shared = torch.optim.Adam(ours.parameters(), lr=config.learning_rate), []
    losses = []
    for x, y in torch_batches(data, 6) * 2:
        loss, part = torch_loss(ours, theirs, x, torch_shared(ours, theirs, x, y, config), y, config)
        adam.zero_grad()
        loss.backward()
        adam.step()
        shared.append(float(part))
        losses.append(len(x) * loss.item())
    assert min(shared) > 0  # the term was there
    assert_same({**start, "params": params, "batch_stats": stats}, ours, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(history["loss"], np.reshape(losses, (2, 2)).sum(1) / 10, rtol=1e-3)


def test_the_original_itself_is_where_it_starts_and_only_weights_move(features):
    config = SauConfig(rounds=2, batch_size=16)
    found = sau(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    assert (found.kind, found.choice.pruned, list(found.history), list(found.timing)) == (
        "weights",
        0,
        ["sau"],
        ["sau"],
    )
    assert found.choice.holdout_acc_after is not None
    kept = jax.tree.map(np.array_equal, found.variables["batch_stats"], features.variables["batch_stats"])
    assert jax.tree.all(kept)


def test_divergence_is_that_of_jensen_and_shannon():
    rng = np.random.default_rng(0)
    one, other = (jax.nn.softmax(jnp.asarray(rng.normal(0, 5, (50, 4)).astype(np.float32))) for _ in range(2))
    found = divergence(one, other)
    np.testing.assert_allclose(found, divergence(other, one), rtol=1e-5)
    np.testing.assert_allclose(divergence(one, one), 0, atol=1e-7)
    assert (found > 0).all()
    assert (found <= np.log(2) + 1e-6).all()
    np.testing.assert_allclose(divergence(jnp.eye(2)[:1], jnp.eye(2)[1:]), np.log(2), rtol=1e-5)


def test_both_halves_of_the_shared_loss_are_one_away_from_the_clamps():
    own = jnp.array([0.01, 0.3, 0.9])
    rows, targets = jnp.stack([own, 1 - own], 1), jnp.zeros(3, jnp.int32)
    found = [float(shared_loss(rows[i : i + 1], targets[:1], jnp.array([True]))) for i in range(3)]
    np.testing.assert_allclose(found, -np.log(1 + 1e-6 - np.asarray(own)), rtol=1e-3)


def test_the_shared_loss_of_rare_classes_is_flat_and_others_do_not_count():
    rows, targets = jnp.array([[0.0005, 0.9995], [0.4, 0.6]]), jnp.zeros(2, jnp.int32)
    some = jnp.array([True, False])
    slope = jax.grad(shared_loss)(rows, targets, some)
    np.testing.assert_array_equal(slope, 0)
    assert float(shared_loss(rows, targets, ~some)) == pytest.approx(-np.log(0.6) / 2, rel=1e-4)
    assert float(shared_loss(rows, targets, jnp.array([False, False]))) == 0


def test_without_a_radius_nothing_is_shared_and_the_clean_loss_alone_is_trained(features):
    """f₀ answers x + 0 as it answers x, so nothing misleads it."""
    data = features.data
    config = SauConfig(rounds=1, batch_size=48, radius=0.0, learning_rate=0.01, shuffle=False)
    found = sau(features.network, features.variables, data, KEY, config)
    plain = sau(features.network, features.variables, data, KEY, replace(config, radius=0.2, shared=0.0))
    for one, other in zip(jax.tree.leaves(found.variables), jax.tree.leaves(plain.variables), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_perturbations_stay_within_the_radius():
    one, other = (logits_of(TorchTwin(seed)) for seed in (0, 1))
    images = jnp.asarray(twin_data(8).images).astype(jnp.float32) / 255
    for step in (0.0, 0.05, 0.2, 3.0):
        config = replace(QUICK, inner_step=step, radius=0.1)
        found = find_shared(one, other, images, jnp.arange(8, dtype=jnp.int32) % 4, config)
        assert jnp.abs(found).max() <= jnp.float32(0.1)
        assert step or (found == jnp.float32(0.1)).all()


def test_a_second_model_compiles_nothing(features):
    config = SauConfig(rounds=2, batch_size=24)
    before = count_compiled(phase._run_until)
    for seed in (0, 1):
        sau(features.network, features.variables, features.data, jax.random.key(seed), config)
    assert count_compiled(phase._run_until) - before == 1


def test_fewer_images_than_a_batch(features):
    few = Batch(features.data.images[:5], features.data.labels[:5])
    found = sau(features.network, features.variables, few, KEY, SauConfig(rounds=1))
    assert found.history["sau"]["loss"].shape == (1,)


def test_a_loss_that_diverges(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    with pytest.raises(DefenseError, match="sau diverged"):
        sau(features.network, {**features.variables, "params": params}, features.data, KEY, SauConfig(rounds=1))


@pytest.mark.parametrize("options", [{"rounds": 0}, {"learning_rate": 0.0}, {"radius": -1.0}, {"shared": -1.0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected"):
        SauConfig(**options)

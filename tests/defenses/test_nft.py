"""NFT against torch, step for step, and its mixing, its floors, its penalty and what becomes of the factors."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses import NftConfig, nft, phase
from rnp_jax.defenses.nft import find_floors, fix, start_nft
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import models, rnp

KEY = jax.random.key(0)
QUICK = NftConfig(rounds=2, steps=6, batch_size=16)


def torch_loss(logits: torch.Tensor, labels, factors, per_class: float, penalty: float) -> torch.Tensor:
    first, second = (torch.tensor(np.asarray(each), dtype=torch.int64) for each in (labels.first, labels.second))
    share, away = float(labels.share), sum((1 - each).abs().sum() for each in factors)
    mixed = share * F.cross_entropy(logits, first) + (1 - share) * F.cross_entropy(logits, second)
    return mixed + penalty / per_class * away


@pytest.mark.parametrize("name", ["resnet18", pytest.param("preactresnet18", marks=pytest.mark.slow)])
def test_factors_are_torch_s(name):
    """Three steps in two rounds, from factors at random in their box, on batches mixed here. Some end at the floor."""
    module, network = build_random(name), network_of(name)
    variables = from_state_dict(network, state_of(module))
    data = Batch(images_for(name, 10), np.arange(10, dtype=np.int32) % CLASSES)
    config = NftConfig(rounds=2, steps=2, batch_size=6, learning_rate=2.0, final_rate=0.5, penalty=0.02)
    steps, fixed = start_nft(network, config), fix(network, variables, data, config)
    floors, rng = find_floors(network, masks.filters(variables["masks"]), config), np.random.default_rng(0)
    like = masks.filters(variables["masks"])
    drawn = {layer: rng.uniform(floors[layer], 1, len(like[layer])).astype(np.float32) for layer in floors}

    layers = models.batch_norms(module)
    assert list(layers) == list(floors), "the release's order"
    theirs = {layer: torch.tensor(drawn[layer], requires_grad=True) for layer in layers}
    models.set_masks(module, theirs)
    optimizer = torch.optim.SGD(theirs.values(), lr=2.0, momentum=0.95)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2, 0.5)
    module.train()

    tx = steps.optimizer(2)
    step = jax.jit(jax.grad(steps.loss, has_aux=True))
    ours = {layer: jnp.asarray(each) for layer, each in drawn.items()}
    state, statistics = tx.init(ours), variables["batch_stats"]
    for number in range(3):
        counted = Batch(jnp.zeros(6, jnp.int32), jnp.zeros(6, jnp.int32))
        batch = steps.prepare(counted, fixed, jax.random.fold_in(KEY, number))
        gradient, (statistics, _) = step(ours, fixed, statistics, batch)
        updates, state = tx.update(gradient, state, ours)
        ours = steps.update(ours, updates, fixed)  # pyright: ignore[reportArgumentType]

        pixels = torch.tensor(np.asarray(network.normalize(batch.images)).transpose(0, 3, 1, 2))
        optimizer.zero_grad()
        torch_loss(module(pixels), batch.labels, theirs.values(), 10 / CLASSES, 0.02).backward()
        optimizer.step()
        with torch.no_grad():
            for i, factors in enumerate(theirs.values(), 1):
                factors.clamp_(0.8 * math.exp(-0.5 * i), 1)
        if number % 2:
            scheduler.step()
    for layer, expected in theirs.items():
        np.testing.assert_allclose(ours[layer], expected.detach(), atol=1e-3, err_msg=layer)
    row = np.concatenate([np.asarray(ours[layer]) - floors[layer] for layer in ours])
    assert (row == 0).any()
    assert (row > 0.01).any()
    found = to_state_dict(network, {**variables, "batch_stats": statistics})
    for key, value in state_of(module).items():
        if "running" in key:
            np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-3, err_msg=key)


def test_floors_fall_with_depth_from_the_published_first_to_almost_nothing():
    network = network_of("resnet18")
    like = {layer: np.ones(1) for layer in models.batch_norms(build_random("resnet18"))}
    floors = find_floors(network, like, NftConfig())
    row = list(floors.values())
    assert (len(row), row[0]) == (20, pytest.approx(0.485, abs=1e-3))
    assert row[-1] == pytest.approx(4e-5, abs=5e-6)
    assert row == sorted(row, reverse=True)
    assert list(floors)[:3] == ["bn1", "layer1.0.bn1", "layer1.0.bn2"]


def prepared(features, config: NftConfig, count: int = 16):
    """The phase, what it holds fixed and one batch."""
    steps = start_nft(features.network, config)
    fixed = fix(features.network, features.variables, features.data, config)
    return steps, fixed, steps.prepare(Batch(jnp.zeros(count, jnp.int32), jnp.zeros(count, jnp.int32)), fixed, KEY)


def test_an_unmixed_batch_is_of_the_clean_images_and_its_loss_is_cross_entropy(features):
    steps, fixed, batch = prepared(features, replace(QUICK, mixup=0.0, penalty=0.0))
    known = [bytes(np.asarray(image)) for image in features.data.images]
    places = [known.index(bytes(np.asarray(image))) for image in batch.images]
    np.testing.assert_array_equal(batch.labels.first, features.data.labels[places])
    assert batch.labels.share == 1
    ones = masks.ones(masks.filters(features.variables["masks"]))
    loss, (_, metrics) = steps.loss(ones, fixed, {}, batch)
    logits, _ = features.network(features.variables, batch.images)
    expected = F.cross_entropy(torch.tensor(np.asarray(logits)), torch.tensor(features.data.labels[places]).long())
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    assert float(metrics["accuracy"]) == (np.asarray(logits).argmax(1) == features.data.labels[places]).sum()


def test_a_mixed_batch_has_one_share_for_images_and_labels(features):
    _, _, batch = prepared(features, QUICK)
    _, _, plain = prepared(features, replace(QUICK, mixup=0.0))
    share = float(batch.labels.share)
    assert 0 < share < 1
    np.testing.assert_array_equal(batch.labels.first, plain.labels.first)
    others = (np.asarray(batch.images) - share * np.asarray(plain.images)) / (1 - share)
    order = [int(np.abs(np.asarray(plain.images) - other).sum((1, 2, 3)).argmin()) for other in others]
    np.testing.assert_allclose(np.asarray(plain.images)[order], others, atol=1e-4)
    np.testing.assert_array_equal(batch.labels.second, np.asarray(plain.labels.first)[order])


def test_images_are_drawn_with_replacement_and_shares_are_uniform(features):
    steps, fixed, batch = prepared(features, replace(QUICK, mixup=0.0), 4800)
    known = [bytes(np.asarray(image)) for image in features.data.images]
    counts = np.bincount([known.index(bytes(np.asarray(image))) for image in batch.images], minlength=48)
    assert 60 < counts.min() < counts.max() < 145
    steps = start_nft(features.network, QUICK)
    one = Batch(jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.int32))
    shares = jax.vmap(lambda key: steps.prepare(one, fixed, key).labels.share)(jax.random.split(KEY, 2000))
    np.testing.assert_allclose(np.quantile(shares, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.04)


def test_the_penalty_pulls_every_lowered_factor_alike_and_leaves_a_whole_one(features):
    """η / N_c, for 16 images a class."""
    slopes = []
    for penalty in (0.0, 0.4):
        steps, fixed, batch = prepared(features, replace(QUICK, penalty=penalty))
        factors = {"0": jnp.full(16, 0.3), "2": jnp.ones(8)}
        slopes.append(jax.grad(steps.loss, has_aux=True)(factors, fixed, {}, batch)[0])
    added = jax.tree.map(jnp.subtract, slopes[1], slopes[0])
    np.testing.assert_allclose(added["0"], -0.4 / 16, atol=1e-6)
    np.testing.assert_allclose(added["2"], 0, atol=1e-6)


def test_a_penalty_beyond_all_measure_keeps_the_network(features):
    config = replace(QUICK, penalty=1e6, learning_rate=0.5)
    found = nft(features.network, features.variables, features.data, KEY, config)
    jax.tree.map(np.testing.assert_array_equal, found.variables, features.variables)
    assert "0 of 24 to less than half" in found.choice.rule


def test_factors_end_in_their_box_and_in_the_weights(features):
    """Large steps drive some to the floor. A hidden unit's factor multiplies its weights and its bias."""
    config = replace(QUICK, learning_rate=2.0, rounds=5, steps=20)
    found = nft(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    assert masks.flatten(masks.filters(found.variables["masks"])).min() == 1
    before, after = features.variables["params"], found.variables["params"]
    floors = {"0": 0.8 * math.exp(-0.5), "2": 0.8 * math.exp(-1)}
    lowest = []
    for layer, floor in floors.items():
        ratio = np.divide(*(np.linalg.norm(each[layer]["kernel"], axis=0) for each in (after, before)))
        np.testing.assert_allclose(after[layer]["bias"], ratio * before[layer]["bias"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(after[layer]["kernel"], ratio[None] * before[layer]["kernel"], rtol=1e-4, atol=1e-6)
        assert floor - 1e-4 <= ratio.min() < ratio.max() <= 1 + 1e-4
        lowest.append(abs(float(ratio.min()) - floor))
    assert min(lowest) < 1e-4
    np.testing.assert_array_equal(after["4"]["kernel"], before["4"]["kernel"])
    assert (found.kind, found.values, found.choice.pruned) == ("weights", {}, 0)
    assert found.choice.rule.startswith("No filter is pruned: filters are scaled, ")
    assert found.history["nft"]["loss"].shape == (5,)
    assert found.choice.holdout_acc_after is not None
    assert found.choice.holdout_acc_after.value > 0.9


def test_the_exported_network_is_the_masked_one():
    """In torch, what the factors in their place compute here; the running statistics have moved too."""
    module, network = build_random("resnet18"), network_of("resnet18")
    variables = from_state_dict(network, state_of(module))
    data = Batch(images_for("resnet18", 10), np.arange(10, dtype=np.int32) % CLASSES)
    config = NftConfig(rounds=1, steps=2, batch_size=6, learning_rate=2.0)
    found = nft(network, variables, data, KEY, config)
    state = {key: torch.tensor(np.array(value)) for key, value in to_state_dict(network, found.variables).items()}
    module.load_state_dict(state, strict=False)
    assert (found.variables["params"]["bn1"]["scale"] < variables["params"]["bn1"]["scale"]).any()
    ((pixels, _),) = rnp.make_batches(data.images, data.labels, 10)
    with torch.no_grad():
        expected = module.eval()(pixels).numpy()
    np.testing.assert_allclose(jax.jit(network)(found.variables, data.images)[0], expected, atol=1e-4)
    assert not np.array_equal(found.variables["batch_stats"]["bn1"]["mean"], variables["batch_stats"]["bn1"]["mean"])
    for key, value in state_of(build_random("resnet18")).items():
        if "conv" in key or "linear" in key:
            np.testing.assert_array_equal(state[key], value, err_msg=key)


def test_learning_rates_fall_by_rounds_along_a_cosine_that_has_not_ended():
    tx = start_nft(network_of("mlp"), NftConfig()).optimizer(200)
    state, rates = tx.init({"a": jnp.ones(1)}), []
    slope = {"a": jnp.ones(1)}
    for _ in range(1000):
        updates, state = tx.update(slope, state)
        rates.append(float(updates["a"][0]))  # pyright: ignore
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.05)
    scheduler, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5, 0.02), []
    velocity = 0.0
    for number in range(1000):
        velocity = 0.95 * velocity + 1
        expected.append(-optimizer.param_groups[0]["lr"] * velocity)
        optimizer.step()
        if number % 200 == 199:
            scheduler.step()
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_a_second_model_compiles_nothing(features):
    config = replace(QUICK, rounds=3)
    before = count_compiled(phase._run_until)
    for seed in (0, 1):
        params = jax.tree.map(lambda leaf, scale=1 + seed: leaf * scale, features.variables["params"])
        nft(features.network, {**features.variables, "params": params}, features.data, jax.random.key(seed), config)
    assert count_compiled(phase._run_until) - before == 1


def test_a_network_without_masks():
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    data = Batch(np.zeros((4, 1, 1, 6), np.float32), np.zeros(4, np.int32))
    with pytest.raises(DefenseError, match="no maskable layer: NFT needs"):
        nft(network, network.init(KEY), data, KEY, QUICK)


def test_a_loss_that_diverges(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    with pytest.raises(DefenseError, match="nft diverged: the loss became"):
        nft(features.network, {**features.variables, "params": params}, features.data, KEY, QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds and steps >= 1"),
        ({"final_rate": 0.1}, "final_rate <= learning_rate"),
        ({"final_rate": 0.0}, "0 < final_rate"),
        ({"mixup": -1.0}, "expected mixup"),
        ({"floor": 1.5}, r"floor in \[0, 1\]"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        NftConfig(**options)

"""Distillation against torch, what stays fixed in it, and what teacher and student see."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses import phase
from rnp_jax.defenses.corruptions import CORRUPTIONS
from rnp_jax.defenses.distil import DistilConfig, _Distilling, distil, divergence, mix, one_cycle, stamp_some
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.inversion.stamps import Stamps, stamp
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import CLASSES, build_random, images_for, network_of, state_of

KEY = jax.random.key(0)
QUICK = DistilConfig(epochs=2, batch_size=16, learning_rate=0.05)
CORNER = Stamps(np.zeros((1, 8, 8), np.float32), np.ones((1, 8, 8, 3), np.float32))
CORNER.masks[0, -2:, -2:] = 1


def test_the_divergence_and_its_gradient_are_torchs():
    ours, theirs = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32) * 3
    logits = torch.tensor(ours, requires_grad=True)
    with torch.enable_grad():
        soft = F.softmax(torch.tensor(theirs) / 2, 1)
        expected = F.kl_div(F.log_softmax(logits / 2, 1), soft, reduction="batchmean") * 4
        expected.backward()
    found, gradient = jax.value_and_grad(lambda each: divergence(each, jnp.asarray(theirs), 2.0).mean())(ours)
    np.testing.assert_allclose(found, expected.item(), rtol=1e-5)
    assert logits.grad is not None
    np.testing.assert_allclose(gradient, logits.grad, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(divergence(jnp.asarray(ours), jnp.asarray(ours), 2.0), 0, atol=1e-6)


@pytest.mark.parametrize("steps", [20, 120])
def test_the_schedule_is_torchs_one_cycle(steps: int):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps, cycle_momentum=False)
    expected = []
    for _ in range(steps):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step() if len(expected) < steps else None
    found = [float(one_cycle(step, 0.02, steps)) for step in range(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
    assert max(found) == pytest.approx(0.02, rel=1e-3)


def views_of(config: DistilConfig, network, data: Batch, fixed: dict):
    """What the phase prepares of its first batch, by the keys of ``run_phase``."""
    whole = _Distilling("distil", network, config.epochs, config.batch_size, config.shuffle, None, config)
    _, step_key = jax.random.split(jax.random.fold_in(KEY, 0))
    batch = Batch(data.images[: config.batch_size], data.labels[: config.batch_size])
    return whole.prepare(batch, fixed, jax.random.split(step_key, 1)[0]).images


@pytest.mark.parametrize("name", ["mlp", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_a_step_is_torchs(name: str):
    """The loss, its gradient's norm cut to a limit that it exceeds, weight decay and the step of SGD."""
    network, student, teacher = network_of(name), build_random(name), build_random(name, seed=1)
    images = images_for(name, 6)
    data = Batch(images, np.zeros(6, np.int32))
    stamps = Stamps(np.full((1, *images.shape[1:3]), 0.5, np.float32), np.ones((1, *images.shape[1:]), np.float32))
    config = DistilConfig(epochs=1, batch_size=6, learning_rate=5.0, clip=0.05, shuffle=False, stamped=0.5)
    ours, theirs = (from_state_dict(network, state_of(each)) for each in (student, teacher))
    found, history = distil(network, ours, theirs, data, KEY, config, stamps=stamps)
    views = views_of(config, network, data, {"stamps": stamps})
    seen, taught = (
        torch.tensor(np.array(network.normalize(each))).permute(0, 3, 1, 2) for each in (views.student, views.teacher)
    )
    if name == "mlp":
        seen, taught = seen.flatten(1), taught.flatten(1)
    optimizer = torch.optim.SGD(student.parameters(), lr=5.0 / 25, momentum=0.9, weight_decay=5e-4)
    student.train()
    with torch.enable_grad():
        soft = F.softmax(teacher(taught).detach() / 2, 1)
        loss = F.kl_div(F.log_softmax(student(seen) / 2, 1), soft, reduction="batchmean") * 4
        loss.backward()
    assert torch.nn.utils.clip_grad_norm_(student.parameters(), 0.05) > 0.05
    optimizer.step()
    assert history["loss"][0] == pytest.approx(loss.item(), rel=1e-3)
    tuned = to_state_dict(network, found)
    for key, expected in state_of(student).items():
        if "tracked" not in key:
            np.testing.assert_allclose(tuned[key], expected, rtol=1e-3, atol=2e-4, err_msg=key)


@pytest.mark.parametrize("placement", ["bn_scale", pytest.param("channel", marks=pytest.mark.slow)])
def test_what_is_pruned_stays_pruned_and_the_rest_moves(placement):
    """By a mask, and by a scale of zero that came in the file."""
    network = network_of("resnet18", placement)
    variables = network.init(KEY)
    pruned = masks.keep(masks.filters(variables["masks"]), [0, 5, 20])
    baked = masks.bake(masks.apply_filters(variables, pruned), placement)
    student = masks.apply_filters(baked, masks.keep(masks.filters(variables["masks"]), [7]))
    data = Batch(images_for("resnet18", 8), np.arange(8, dtype=np.int32) % CLASSES)
    found, _ = distil(network, student, variables, data, KEY, replace(QUICK, batch_size=8))
    assert jax.tree.all(jax.tree.map(np.array_equal, found["masks"], student["masks"]))
    index = masks.index(masks.filters(variables["masks"]))

    def scale(tree, place):
        (layer, i), node = index[place], tree["params"]
        block, _, name = layer.rpartition(".")
        return float((node[block][name] if block else node[name])["scale"][i])

    assert [scale(found, place) for place in (0, 5, 20)] == [0, 0, 0]
    assert scale(found, 7) == scale(student, 7)
    assert all(scale(found, place) != scale(student, place) for place in (1, 2, 6, 21))


def test_pruned_units_of_a_head_stay_pruned(features):
    units = masks.keep(masks.filters(features.variables["masks"]), [3])
    student = masks.bake(masks.apply_filters(features.variables, units), features.network.placement)
    found, _ = distil(features.network, student, features.variables, features.data, KEY, QUICK)
    kernel = np.asarray(found["params"]["0"]["kernel"])
    assert (kernel[:, 3] == 0).all()
    assert float(found["params"]["0"]["bias"][3]) == 0
    assert (kernel[:, 4] != np.asarray(student["params"]["0"]["kernel"])[:, 4]).all()


def test_a_damaged_student_learns_its_teachers_answers(features):
    ruined = jax.tree.map(lambda leaf: leaf * 0.5, features.variables["params"])
    student = {**features.variables, "params": {**ruined, "4": jax.tree.map(jnp.zeros_like, ruined["4"])}}
    before = jax.tree.map(np.array, features.variables)
    config = DistilConfig(epochs=60, batch_size=16, learning_rate=0.1, weight_decay=0.0)
    found, history = distil(features.network, student, features.variables, features.data, KEY, config)
    assert history["accuracy"].shape == (60,)
    assert history["loss"][-5:].mean() < 0.2 * history["loss"][0]
    taught, learned = (features.network(each, features.holdout.images)[0] for each in (features.variables, found))
    assert (taught.argmax(-1) == learned.argmax(-1)).mean() > 0.9
    assert jax.tree.all(jax.tree.map(np.array_equal, before, features.variables))


def test_the_student_alone_sees_stamps():
    network, data = network_of("resnet18"), Batch(images_for("resnet18", 16), np.zeros(16, np.int32))
    everywhere = Stamps(np.ones((1, 20, 20), np.float32), np.full((1, 20, 20, 3), 0.25, np.float32))
    config = DistilConfig(batch_size=16, stamped=1.0, shift=0)
    plain = views_of(config, network, data, {"stamps": None})
    stamped = views_of(config, network, data, {"stamps": everywhere})
    np.testing.assert_array_equal(plain.teacher, plain.student)
    np.testing.assert_array_equal(plain.teacher, stamped.teacher)
    np.testing.assert_allclose(stamped.student, 0.25)


def test_the_student_alone_sees_corruptions():
    network, data = network_of("resnet18"), Batch(images_for("resnet18", 16), np.zeros(16, np.int32))
    views = views_of(
        DistilConfig(batch_size=16, corrupted=1.0),
        network,
        data,
        {"stamps": None, "strengths": np.ones(len(CORRUPTIONS))},
    )
    plain = views_of(DistilConfig(batch_size=16), network, data, {"stamps": None})
    np.testing.assert_array_equal(plain.teacher, views.teacher)
    assert (np.abs(views.student - views.teacher).max((1, 2, 3)) > 0).mean() > 0.8


def test_corruptions_lie_one_over_the_other_and_more_of_them_change_nothing_of_the_first():
    network, data = network_of("resnet18"), Batch(images_for("resnet18", 16), np.zeros(16, np.int32))
    given = (network, data, {"stamps": None, "strengths": np.ones(len(CORRUPTIONS))})
    one, two = (views_of(DistilConfig(batch_size=16, corrupted=0.5, corruptions=layers), *given) for layers in (1, 2))
    touched, again = (np.abs(views.student - views.teacher).max((1, 2, 3)) > 0 for views in (one, two))
    np.testing.assert_array_equal(one.teacher, two.teacher)
    assert (again | ~touched).all()
    assert again.sum() > touched.sum()
    alike = np.array([np.array_equal(*pair) for pair in zip(one.student, two.student, strict=True)])
    assert 0.2 < alike.mean() < 0.8


def test_a_share_of_the_images_is_stamped_and_stamps_move_without_wrapping():
    images = jnp.zeros((400, 8, 8, 3))
    found = np.asarray(stamp_some(KEY, images, Stamps(*map(jnp.asarray, CORNER[:2])), 0.3, 2))
    lit = found[..., 0] > 0
    touched = lit.any((1, 2))
    assert 0.2 < touched.mean() < 0.4
    assert not lit[:, :4].any(), "a stamp of rows 6 and 7 reaches row 4 when it moves up by 2, and no further"
    assert not lit[:, :, :4].any()
    sizes = lit[touched].sum((1, 2))
    assert set(sizes.tolist()) <= {0, 1, 2, 4}
    assert {1, 2, 4} <= set(sizes.tolist())


def test_an_unmoved_stamp_is_laid_as_the_search_laid_it_and_all_stamps_come():
    rng = np.random.default_rng(3)
    images = jnp.asarray(rng.random((64, 8, 8, 3), np.float32))
    stamps = Stamps(jnp.asarray(rng.random((2, 8, 8), np.float32)), jnp.asarray(rng.random((2, 8, 8, 3), np.float32)))
    found = np.asarray(stamp_some(KEY, images, stamps, 1.0, 0))
    expected = np.stack([np.asarray(stamp(images, *each)) for each in zip(*stamps[:2], strict=True)])
    which = np.abs(found[None] - expected).max((2, 3, 4)) < 1e-6
    assert which.any(0).all()
    assert which.any(1).all()


def test_a_warp_moves_pixels_of_the_images_that_it_is_drawn_for():
    """Two warps under which nothing is laid: one by a row, and one that moves nothing."""
    images = jnp.asarray(np.random.default_rng(3).random((64, 8, 8, 3), np.float32))
    fields = np.zeros((2, 8, 8, 2), np.float32)
    fields[0, ..., 0] = 1
    nothing = (jnp.zeros((2, 8, 8)), jnp.zeros((2, 8, 8, 3)))
    found = np.asarray(stamp_some(KEY, images, Stamps(*nothing, jnp.asarray(fields)), 0.5, 2))
    moved = np.abs(found[:, :-1] - np.asarray(images)[:, 1:]).max((1, 2, 3)) < 1e-6
    still = np.abs(found - np.asarray(images)).max((1, 2, 3)) < 1e-6
    assert (moved ^ still).all()
    assert 0.1 < moved.mean() < 0.4


def test_images_are_mixed_whole_or_in_a_box():
    values = jnp.broadcast_to(jnp.arange(8, dtype=jnp.float32)[:, None, None, None], (8, 6, 6, 3))
    kinds = set()
    for seed in range(20):
        mixed = np.asarray(mix(jax.random.key(seed), values))
        assert mixed.min() >= 0
        assert mixed.max() <= 7
        np.testing.assert_allclose(mixed.mean(0), 3.5, rtol=1e-5)  # each image goes into the batch once as the other
        flat = (np.ptp(mixed, axis=(1, 2, 3)) < 1e-5).all()
        whole = np.isclose(mixed % 1, 0).all()
        kinds.add("whole" if flat and not whole else "box" if not flat else "none")
    assert {"whole", "box"} <= kinds


def test_two_runs_share_a_program(features):
    before = count_compiled(phase._run_until)
    config = replace(QUICK, learning_rate=0.031)  # compiled by no other test
    for seed in (0, 1):
        distil(features.network, features.variables, features.variables, features.data, jax.random.key(seed), config)
    assert count_compiled(phase._run_until) - before == 1


def test_augmentation_comes_before_mixing(features):
    seen = []

    class Black:
        def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
            del key
            seen.append(images.shape)
            return jnp.zeros_like(images)

    found, _ = distil(
        features.network, features.variables, features.variables, features.data, KEY, QUICK, augment=Black()
    )
    assert seen
    kernels = (each["params"]["0"]["kernel"] for each in (found, features.variables))
    decayed = np.divide(*map(np.asarray, kernels))
    np.testing.assert_allclose(decayed, decayed.flat[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs >= 1"),
        ({"batch_size": 1}, "batch_size >= 2"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"clip": 0.0}, "clip and temperature"),
        ({"stamped": 1.1}, r"corrupted and keeps in"),
        ({"keeps": -0.1}, r"corrupted and keeps in"),
        ({"shift": -1}, "shift >= 0"),
        ({"corruptions": 0}, "corruptions is 0, expected an integer of at least 1"),
    ],
)
def test_impossible_settings(change: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        DistilConfig(**change)


def test_stamps_of_another_size_are_refused(features):
    with pytest.raises(DataError, match="expected the same shape"):
        distil(features.network, features.variables, features.variables, features.data, KEY, QUICK, stamps=CORNER)

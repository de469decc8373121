"""NAD against torch: attention, its gradient, and steps of distillation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses import NadConfig, PruneConfig, RecoverConfig, RnpConfig, UnlearnConfig, nad, phase, unlearn
from rnp_jax.defenses.nad import attention, attention_loss
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import rnp

KEY = jax.random.key(0)
QUICK = NadConfig(teacher_epochs=1, epochs=2, batch_size=6, learning_rates=(0.02, 0.01), milestones=(1,), shuffle=False)


def torch_attention(features: torch.Tensor) -> torch.Tensor:
    """[B, F, H, W] to [B, H, W]."""
    maps = (features**2).sum(1)
    return maps / (torch.linalg.vector_norm(maps, dim=(1, 2), keepdim=True) + 1e-6)


def torch_stages(module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    outputs, handles = [], []
    for stage in (2, 3, 4):
        layer = module.get_submodule(f"layer{stage}")
        handles.append(layer.register_forward_hook(lambda _, __, output: outputs.append(output)))
    logits = module(x)
    for handle in handles:
        handle.remove()
    return logits, outputs


def torch_tune(module, teacher, batches, epochs: int, avoided=None, repel: float = 0.0) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4, nesterov=True)
    module.train()
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 if epoch < 1 else 0.01
        for x, y in batches:
            logits, outputs = torch_stages(module, x)
            loss = F.cross_entropy(logits, y)
            if teacher is not None:
                with torch.no_grad():
                    taught = torch_stages(teacher, x)[1]
                    kept_from = outputs if avoided is None else torch_stages(avoided, x)[1]
                for beta, ours, theirs, bad in zip((500, 1000, 1000), outputs, taught, kept_from, strict=True):
                    loss = loss + beta * F.mse_loss(torch_attention(ours), torch_attention(theirs))
                    loss = loss - repel * beta * F.mse_loss(torch_attention(ours), torch_attention(bad))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_attention_and_its_gradient_are_torch_s():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    ours = torch.tensor(student).permute(0, 3, 1, 2).requires_grad_()
    theirs = torch.tensor(teacher).permute(0, 3, 1, 2)
    loss = F.mse_loss(torch_attention(ours), torch_attention(theirs))
    loss.backward()
    found, gradient = jax.value_and_grad(attention_loss)(jnp.asarray(student), jnp.asarray(teacher))
    assert ours.grad is not None
    np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, ours.grad.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-7)


def test_attention_has_norm_1_and_ignores_the_scale():
    features = np.random.default_rng(1).normal(size=(2, 3, 3, 4)).astype(np.float32)
    found = attention(jnp.asarray(features))
    np.testing.assert_allclose(np.square(found).sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(attention(jnp.asarray(7 * features)), found, rtol=1e-5)


def test_a_map_without_activity_has_no_slope():
    nothing = jnp.zeros((1, 2, 2, 3))
    gradient = jax.grad(attention_loss)(nothing, jnp.ones((1, 2, 2, 3)))
    assert np.isfinite(gradient).all()


@pytest.mark.slow
@pytest.mark.parametrize("repel", [0.0, 0.1])
def test_teacher_and_student_are_torch_s(repel):
    module, network = build_random("resnet18"), network_of("resnet18")
    variables = from_state_dict(network, state_of(module))
    images, labels = images_for("resnet18", 10), np.arange(10, dtype=np.int32) % CLASSES
    data, forgetting = Batch(images, labels), RnpConfig(UnlearnConfig(max_epochs=1, batch_size=6))
    found = nad(network, variables, data, KEY, replace(QUICK, repel=repel, rnp=forgetting if repel else RnpConfig()))
    batches, teacher, avoided = rnp.make_batches(images, labels, 6), build_random("resnet18"), None
    if repel:
        avoided = build_random("resnet18").eval()
        forgotten = to_state_dict(network, unlearn(network, variables, data, KEY, forgetting.unlearn).variables)
        avoided.load_state_dict({key: torch.tensor(value) for key, value in forgotten.items()}, strict=False)
    torch_tune(teacher, None, batches, 1)
    torch_tune(module, teacher.eval(), batches, 2, avoided, repel)
    ours = to_state_dict(network, found.variables)
    for key, expected in state_of(module).items():
        if "tracked" not in key:
            np.testing.assert_allclose(ours[key], expected, rtol=5e-3, atol=2e-3, err_msg=key)
    assert list(found.history) == [*(["unlearn"] if repel else []), "teacher", "distil"]


RNP = RnpConfig(
    UnlearnConfig(max_epochs=1, batch_size=6),
    RecoverConfig(epochs=1, batch_size=6, learning_rate=20.0),
    PruneConfig(number=2),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "teacher", "kind", "pruned"),
    [
        ("rnp", "finetuned", "mask", 2),
        ("original", "pruned", "weights", 0),
        ("unlearned", "pruned", "weights", 0),
    ],
)
def test_what_comes_before_it(start, teacher, kind, pruned):
    network = network_of("resnet18")
    variables = from_state_dict(network, state_of(build_random("resnet18")))
    data = Batch(images_for("resnet18", 12), np.arange(12, dtype=np.int32) % CLASSES)
    before = count_compiled(phase._run_until)
    config = replace(QUICK, start=start, teacher=teacher, rnp=RNP)
    found = nad(network, variables, data, KEY, config)
    assert count_compiled(phase._run_until) - before <= 4  # unlearning, recovery, teacher, student
    assert (found.kind, found.choice.pruned) == (kind, pruned)
    assert (masks.flatten(masks.filters(found.variables["masks"])) == 0).sum() == pruned
    assert list(found.history) == ["unlearn", "recover", "teacher", "distil"]
    before = count_compiled(phase._run_until)
    nad(network, variables, data, jax.random.key(1), config)
    assert count_compiled(phase._run_until) == before


def test_a_head_has_no_attention(features):
    with pytest.raises(DefenseError, match="no feature maps"):
        nad(features.network, features.variables, features.data, KEY, NadConfig())


def test_more_betas_than_stages():
    network = network_of("resnet18")
    data = Batch(images_for("resnet18", 2), np.zeros(2, np.int32))
    with pytest.raises(ConfigError, match="resnet18 has 4 stages"):
        nad(network, network.init(KEY), data, KEY, NadConfig(betas=(1.0,) * 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs >= 1"),
        ({"milestones": (2,)}, "one more rate than milestones"),
        ({"betas": ()}, "expected one or more"),
        ({"repel": -1.0}, "no beta or repel below 0"),
        ({"rnp": RNP}, "nothing starts from it"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        NadConfig(**options)

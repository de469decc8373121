"""SAM's step, Fisher's information and the pull to the anchor against torch, and both phases on a victim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.adaptive.sbl import Anchor, Sbl, _Flat, distance, estimate_fisher
from rnp_jax.errors import ConfigError
from rnp_jax.training.supervised import Moment
from rnp_jax.types import Batch
from tests.adaptive.runs import CONFIG, MLP, digits, equal, run
from tests.linear import Linear, linear_data, linear_variables


def torch_linear(variables) -> torch.nn.Linear:
    model = torch.nn.Linear(12, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(np.asarray(variables["params"]["fc"]["kernel"]).T))
        model.bias.copy_(torch.tensor(np.asarray(variables["params"]["fc"]["bias"])))
    return model


def test_fisher_weights_each_image_s_squared_slope_by_its_likelihood():
    variables, data = linear_variables(), linear_data(70)  # two chunks, the second one filled up
    model, weights, biases = torch_linear(variables), torch.zeros(3, 12), torch.zeros(3)
    for image, label in zip(data.images, data.labels, strict=True):
        model.zero_grad()
        found = torch.log_softmax(model(torch.tensor(image.ravel()) / 255), 0)[int(label)]
        found.backward()
        assert model.weight.grad is not None
        assert model.bias.grad is not None
        weights += found.detach().exp() * model.weight.grad**2 / 70
        biases += found.detach().exp() * model.bias.grad**2 / 70
    fisher = estimate_fisher(Linear(), variables, Batch(*map(jnp.asarray, data)))
    np.testing.assert_allclose(fisher["fc"]["kernel"], weights.T, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(fisher["fc"]["bias"], biases, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("rho", "ewc"), [(0.3, 0.0), (0.0, 2.0), (0.3, 2.0)])
def test_the_slope_at_the_highest_point_nearby_with_the_pull_is_torch_s(rho, ewc):
    variables, data = linear_variables(), linear_data(12)
    model, params = torch_linear(variables), variables["params"]
    rng = np.random.default_rng(2)
    anchor, fisher = (
        jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0, 1, leaf.shape), jnp.float32), params) for _ in range(2)
    )
    there, weight = (
        [torch.tensor(np.asarray(tree["fc"][name]).T) for name in ("kernel", "bias")] for tree in (anchor, fisher)
    )
    x, y = torch.tensor(data.images).reshape(12, -1) / 255, torch.tensor(data.labels).long()

    def slopes() -> list[torch.Tensor]:
        pull = sum((w * (p - c) ** 2).sum() for p, c, w in zip(model.parameters(), there, weight, strict=True))
        value = torch.nn.functional.cross_entropy(model(x), y) + ewc * pull
        return list(torch.autograd.grad(value, list(model.parameters())))

    found = slopes()
    norm = torch.sqrt(sum((each**2).sum() for each in found))  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter, each in zip(model.parameters(), found, strict=True):
            parameter += rho * each / norm
    expected = slopes()

    def loss(params):
        logits, moved = Linear()({**variables, "params": params}, jnp.asarray(data.images), train=True)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(data.labels)[:, None], 1)
        return -picked.mean(), (moved, {})

    moment = Moment(
        loss, params, variables["batch_stats"], {}, data, None, 0.0, Anchor(anchor, fisher), jax.random.key(0)
    )
    gradient, (moved, _), _ = _Flat(rho, ewc).gradient(moment)
    np.testing.assert_allclose(gradient["fc"]["kernel"], expected[0].T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient["fc"]["bias"], expected[1], rtol=1e-4, atol=1e-6)
    assert moved["steps"] == 1  # the second pass moves no statistics


def test_distance_is_weighted():
    anchor = Anchor({"a": jnp.asarray([1.0, 2])}, {"a": jnp.asarray([3.0, 0])})
    assert distance({"a": jnp.asarray([2.0, 9])}, anchor) == 3


def test_the_second_phase_goes_on_from_the_first_and_is_resumed_at_its_beginning_bit_for_bit():
    states = []
    settings = Sbl(second_epochs=2, second_rate=0.01, ewc_weight=10.0)
    whole = run(settings, save=states.append)
    first = run(Sbl(second_epochs=0))
    assert [int(state.epoch) for state in states] == [1, 2, 3, 4]
    assert equal(states[1].params, first.variables["params"])
    assert not equal(first.variables["params"], run(None).variables["params"])
    assert equal(states[2].memory.params, states[1].params)
    for state in states[:3]:
        assert equal(run(settings, state=state).variables, whole.variables)


def test_a_strong_pull_holds_the_weights():
    def moved(weight: float) -> float:
        states = []
        run(Sbl(rho=0.0, second_epochs=2, second_rate=0.01, ewc_weight=weight), save=states.append)
        anchor = states[-1].memory
        return float(distance(states[-1].params, anchor))

    assert moved(100.0) < 0.7 * moved(0.0)


def test_the_second_phase_sees_clean_images_alone():
    """Its own accuracy is that of the clean task: none of the images is poisoned."""
    result = run(Sbl(second_epochs=1, second_rate=1e-9))
    data = digits()
    variables = {**result.variables}
    logits = MLP(variables, jnp.asarray(data.images))[0]
    assert result.history["accuracy"][-1] == pytest.approx(float((logits.argmax(-1) == data.labels).mean()), abs=1e-6)
    assert len(result.history["accuracy"]) == CONFIG.epochs + 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rho": -1.0}, "rho is -1.0"),
        ({"second_epochs": -1}, "second_epochs is -1"),
        ({"ewc_weight": -1.0}, "ewc_weight is -1.0"),
        ({"second_rate": 0.0}, "second_rate 0.0: expected a number above 0"),
    ],
)
def test_impossible_settings(settings, told):
    with pytest.raises(ConfigError, match=told):
        Sbl(**settings)

import jax
import numpy as np
import pytest
import torch

from rnp_jax.attacks.crafting import REPORTED
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.means import Means
from rnp_jax.attacks.narcissus import Narcissus
from rnp_jax.attacks.poison import trigger_test_set
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch
from tests.compiled import watch_compilations

KEY = jax.random.key(0, impl="rbg")
IMAGE = (4, 6, 3)
LINEAR = Network(Architecture("mlp", 2, 0, (("0", 2),), IMAGE), (0.5,) * 3, (0.25,) * 3)
DEEP = Network(Architecture("mlp", 5, 0, (("0", 12), ("2", 5)), IMAGE), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


def draw(count: int = 20, classes: int = 2) -> Batch:
    """Images far enough from black and white for a small perturbation not to be cut off."""
    rng = np.random.default_rng(0)
    return Batch(rng.integers(40, 216, (count, *IMAGE), np.uint8), (np.arange(count) % classes).astype(np.int32))


def means_with(network, variables, data, told=None, **goal) -> Means:
    progress = (lambda *_: None) if told is None else lambda *row: told.append(row)
    return Means(network, data, Goal(**goal), jax.random.key(1, impl="rbg"), lambda _: variables, progress)


def fit(attack, network, variables, data, told=None, target=1):
    means = means_with(network, variables, data, told, num_classes=network.architecture.num_classes, target=target)
    return attack.fit(attack.init(IMAGE), means)["delta"]


@pytest.mark.parametrize(("epsilon", "most"), [(6.0, 6), (6.9, 6)])
def test_on_a_linear_model_it_is_the_sign_of_the_weights(epsilon, most):
    variables, attack = LINEAR.init(KEY), Narcissus(epsilon=epsilon, rounds=150)
    weights = np.asarray(variables["params"]["0"]["kernel"])
    expected = most * np.sign(weights[:, 1] - weights[:, 0]).reshape(IMAGE)
    np.testing.assert_array_equal(fit(attack, LINEAR, variables, draw()), expected)


def test_steps_agree_with_torch_s_radam():
    data, variables = draw(25, 5), DEEP.init(jax.random.key(2, impl="rbg"))
    attack = Narcissus(epsilon=20.0, rounds=12, learning_rate=0.004)
    images = torch.tensor(data.images[data.labels == 3]) / 255
    (w0, b0), (w1, b1) = (
        [torch.tensor(np.asarray(variables["params"][layer][name])) for name in ("kernel", "bias")]
        for layer in ("0", "2")
    )
    delta = torch.zeros(IMAGE, requires_grad=True)
    optimiser = torch.optim.RAdam([delta], lr=attack.learning_rate)
    for _ in range(attack.rounds):
        pixels = ((images + delta).clamp(0, 1) - torch.tensor(DEEP.mean)) / torch.tensor(DEEP.std)
        logits = torch.relu(pixels.flatten(1) @ w0 + b0) @ w1 + b1
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.full((len(images),), 3)).backward()
        optimiser.step()
        with torch.no_grad():
            delta.clamp_(-20 / 255, 20 / 255)
    expected = (delta * 255).detach().numpy()
    found = fit(attack, DEEP, variables, data, target=3)
    assert np.abs(expected).max() > 3
    np.testing.assert_allclose(found, expected, atol=0.51)


def test_it_is_whole_levels_within_the_bound_and_the_same_again():
    data, variables = draw(60, 5), DEEP.init(KEY)
    attack = Narcissus(epsilon=9.5, rounds=30, batch_size=5)  # two batches of the target's twelve images a round
    delta = fit(attack, DEEP, variables, data)
    assert delta.dtype == np.float32
    assert delta.shape == IMAGE
    np.testing.assert_array_equal(delta, np.round(delta))
    assert np.abs(delta).max() == 9
    np.testing.assert_array_equal(delta, fit(attack, DEEP, variables, data))


def test_it_tells_its_rounds_in_one_program_and_the_loss_falls():
    told, rounds = [], 2 * REPORTED + 5
    with watch_compilations() as compiled:
        fit(Narcissus(rounds=rounds), DEEP, DEEP.init(KEY), draw(20, 5), told)
    assert [row[:3] for row in told] == [("trigger", n, rounds) for n in (REPORTED, 2 * REPORTED, rounds)]
    losses = [row[3]["loss"] for row in told]
    assert losses == sorted(losses, reverse=True)
    assert compiled["_learn"] <= 1


def test_it_ends_where_no_gradient_is_left():
    told, variables = [], LINEAR.init(KEY)
    blind = {**variables, "params": jax.tree.map(lambda leaf: 0 * leaf, variables["params"])}
    delta = fit(Narcissus(), LINEAR, blind, draw(), told)
    assert [row[1] for row in told] == [1]
    assert not delta.any()


def test_training_images_show_it_once_and_test_images_three_times():
    attack, images = Narcissus(), np.random.default_rng(1).integers(0, 256, (5, *IMAGE), np.uint8)
    params = attack.init(IMAGE)
    delta = params["delta"].astype(np.int32)
    assert np.abs(delta).max() == 16
    for method, times in ((attack.implant, 1), (attack.trigger, 3)):
        np.testing.assert_array_equal(method(params, images, KEY), np.clip(images + times * delta, 0, 255))


def test_a_victim_learns_it_from_images_whose_labels_stay():
    def digits(split) -> Batch:
        data = load_digits(split, (8, 8))
        return Batch(data.images, data.labels)

    network = Network(Architecture("mlp", 10, 0, (("0", 64), ("2", 10)), (8, 8, 3)))
    attack, goal = Narcissus(epsilon=48.0, rounds=500), Goal(num_classes=10, target=3)
    config = TrainConfig(epochs=8, batch_size=64, learning_rate=0.05)
    with jax.default_prng_impl("rbg"):  # whose draws compile faster
        result = train_backdoored(network, attack, goal, digits("train"), 0, config, PoisonConfig(rate=0.08))
    assert result.plan is not None
    assert (result.plan.labels == 3).all()
    test = digits("test")
    triggered = trigger_test_set(test.images, test.labels, goal, attack, result.params, KEY)
    found = predict(network, result.variables, Batch(triggered.images, triggered.labels)).labels[0]
    assert (predict(network, result.variables, test).labels[0] == test.labels).mean() > 0.9
    assert (found == 3).mean() > 0.9


def test_all_to_all_is_refused():
    means = means_with(LINEAR, {}, draw(), num_classes=2, mapping="all_to_all")
    with pytest.raises(ConfigError, match="use all_to_one"):
        Narcissus().fit(Narcissus().init(IMAGE), means)


@pytest.mark.parametrize(
    ("option", "value"),
    [("epsilon", 0.5), ("epsilon", 256), ("scale", -1), ("rounds", 0), ("learning_rate", -0.1), ("batch_size", 0)],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"^{option} is {value}"):
        Narcissus(**{option: value})

"""Fine-Pruning: which channels sleep, how many go, and the tuning after it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses.fine_pruning import FinePruningConfig, dormancy, fine_pruning, last_site
from rnp_jax.defenses.finetune import FinetuneConfig, finetune
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch
from tests.networks import CLASSES, build_random, images_for, network_of, state_of, torch_input

KEY = jax.random.key(0)
PRUNE_ONLY = FinePruningConfig(fine_tune=False)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet18", "layer4.1.bn1"), ("preactresnet18", "layer4.1.bn2"), ("resnet50", "layer4.2.bn2"), ("mlp", "2")],
)
def test_the_last_site_that_only_a_relu_reads(name, layer):
    assert last_site(network_of(name)).layer == layer


def test_dormancy_is_torch_s():
    module, network = build_random("preactresnet18"), network_of("preactresnet18")
    images = images_for("preactresnet18", 5)
    found = []
    module.get_submodule("layer4.1.bn2").register_forward_hook(lambda _, __, output: found.append(output.relu()))
    with torch.no_grad():
        module(torch_input("preactresnet18", images))
    mean = found[0].mean((0, 2, 3)).numpy()
    ours = dormancy(network, from_state_dict(network, state_of(module)), images, last_site(network))
    np.testing.assert_allclose(ours, 1 - mean / mean.max(), atol=1e-5)
    assert ours.min() == 0


def run(features, config=PRUNE_ONLY, **options):
    arguments = features.network, features.variables, features.data, KEY, config
    return fine_pruning(*arguments, **{"holdout": features.holdout, **options})


def accuracies(features, order: np.ndarray) -> np.ndarray:
    like = masks.filters(features.variables["masks"])
    rows = [masks.apply_filters(features.variables, masks.keep(like, order[:count])) for count in range(len(order) + 1)]
    return np.array(
        [(predict(features.network, row, features.holdout).labels[0] == features.holdout.labels).mean() for row in rows]
    )


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5, 1.0])
def test_the_sleepiest_go_until_a_share_of_the_accuracy_is_lost(features, drop):
    result = run(features, replace(PRUNE_ONLY, accuracy_drop=drop))
    images = jnp.asarray(features.data.images)
    hidden = jax.nn.relu(features.network.activations(features.variables, images)["2"]).mean(0)
    expected = 16 + np.argsort(np.asarray(hidden), kind="stable")[:-1]  # the most active unit stays
    assert result.candidates.order.tolist() == expected.tolist()
    curve = accuracies(features, expected)
    assert result.choice.pruned == np.flatnonzero(curve >= (1 - drop) * curve[0] - 1e-9)[-1]
    pruned = np.flatnonzero(masks.flatten(masks.filters(result.variables["masks"])) == 0)
    assert pruned.tolist() == sorted(expected[: result.choice.pruned])
    assert not result.values["0"].any()
    assert f"{drop:.1%} of the accuracy on 60 held-out clean images" in result.choice.rule
    assert result.kind == "score"


def test_silent_units_are_free(features):
    params = {name: dict(leaves) for name, leaves in features.variables["params"].items()}
    params["2"]["bias"] = params["2"]["bias"].at[jnp.array([1, 6])].set(-1e3)
    silent = {**features.variables, "params": params}
    result = fine_pruning(features.network, silent, features.data, KEY, PRUNE_ONLY, holdout=features.holdout)
    asleep = set(result.candidates.order[result.candidates.values == 1].tolist())
    assert {17, 22} <= asleep < set(range(16, 24))
    assert set(result.candidates.order[: len(asleep)].tolist()) == asleep
    assert result.choice.pruned >= len(asleep)


def test_then_everything_is_tuned(features):
    config = FinePruningConfig(finetune=FinetuneConfig(epochs=3, batch_size=16, learning_rate=0.1))
    calls = []
    result = run(features, config, progress=lambda *call: calls.append(call))
    pruned = run(features)
    expected, history = finetune(features.network, pruned.variables, features.data, KEY, config.finetune)
    assert all(map(np.array_equal, jax.tree.leaves(result.variables), jax.tree.leaves(expected)))
    np.testing.assert_array_equal(result.history["finetune"]["loss"], history["loss"])
    assert [call[:3] for call in calls] == [("finetune", epoch, 3) for epoch in (1, 2, 3)]
    assert set(result.timing) == {"score", "choose", "finetune"}
    before, after = (
        (predict(features.network, each.variables, features.holdout).labels[0] == features.holdout.labels).mean()
        for each in (pruned, result)
    )
    assert after >= before


@pytest.mark.parametrize("placement", ["bn_scale", "conv_output"])
def test_channels_of_a_convolutional_network(placement):
    module, network = build_random("preactresnet18"), network_of("preactresnet18", placement)
    variables = from_state_dict(network, state_of(module))
    data = Batch(images_for("preactresnet18", 4), np.arange(4, dtype=np.int32) % CLASSES)
    result = fine_pruning(network, variables, data, KEY, replace(PRUNE_ONLY, accuracy_drop=1.0), holdout=data)
    layer = "layer4.1.bn2" if placement == "bn_scale" else "layer4.1.conv1"
    left = {name: int(np.asarray(mask).sum()) for name, mask in masks.filters(result.variables["masks"]).items()}
    assert left[layer] == 1
    assert all(count == len(result.values[name]) for name, count in left.items() if name != layer)


def test_nothing_held_out(features):
    empty = Batch(features.holdout.images[:0], features.holdout.labels[:0])
    for holdout in (None, empty):
        with pytest.raises(ConfigError, match="hold some out"):
            run(features, holdout=holdout)


def test_a_network_without_hidden_layers(features):
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    with pytest.raises(DefenseError, match="no hidden layer"):
        fine_pruning(network, network.init(KEY), features.data, KEY, PRUNE_ONLY, holdout=features.holdout)


@pytest.mark.parametrize("drop", [-0.1, 1.1, float("nan")])
def test_impossible_settings(drop):
    with pytest.raises(ConfigError, match="accuracy_drop"):
        FinePruningConfig(accuracy_drop=drop)

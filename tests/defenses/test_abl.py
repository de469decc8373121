"""ABL: its two losses, its isolation and its ascent, each against what the paper and the release say of it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.defenses import abl
from rnp_jax.defenses.abl import AblConfig, isolate_lowest, start_ascent, start_isolating
from rnp_jax.defenses.fitting import FitConfig, start_fitting
from rnp_jax.defenses.phase import run_phase
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.types import Batch
from tests.marked import marked_set

KEY = jax.random.key(0)
QUICK = FitConfig(2, 16, 0.05)
CONFIG = AblConfig(isolate=0.2, tuning=QUICK, finetune=QUICK, unlearn=replace(QUICK, learning_rate=0.01), cutout=0)


def slopes(features, phase, batch):
    def of(params):
        fixed = {"masks": features.variables["masks"]}
        return phase.loss(params, fixed, features.variables["batch_stats"], batch)[0]

    return jax.value_and_grad(of)(features.variables["params"])


@pytest.mark.parametrize("above", [True, False])
def test_both_losses_have_the_gradient_of_the_mean_with_its_sign_and_differ_in_value(features, above):
    batch = Batch(jnp.asarray(features.data.images[:16]), jnp.asarray(features.data.labels[:16]))
    plain, expected = slopes(features, start_fitting("fit", features.network, QUICK), batch)
    gamma = float(plain) + (-0.01 if above else 0.01)
    sign = 1.0 if above else -1.0
    values = {}
    for kind in ("lga", "flooding"):
        phase = start_isolating(features.network, replace(CONFIG, loss=kind, gamma=gamma))
        values[kind], found = slopes(features, phase, batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, sign * b, rtol=1e-5, atol=1e-7), found, expected)
    assert float(values["lga"]) == pytest.approx(sign * float(plain), rel=1e-5)
    assert float(values["flooding"]) == pytest.approx(gamma + 0.01, rel=1e-4)


def test_at_the_threshold_nothing_moves(features):
    batch = Batch(jnp.asarray(features.data.images[:16]), jnp.asarray(features.data.labels[:16]))
    logits, _ = features.network(features.variables, batch.images, train=True)
    mean = cross_entropy(logits, batch.labels).mean()
    phase = start_isolating(features.network, replace(CONFIG, gamma=float(mean)))
    assert phase.combine(mean[None], {}, batch) == 0


def test_the_ascent_is_the_descent_backwards(features):
    """From no momentum and without weight decay."""
    config = FitConfig(1, 48, 0.1, weight_decay=0.0)
    start, moves = features.variables, []
    for phase in (start_fitting("fit", features.network, config), start_ascent(features.network, config)):
        given = (start["params"], {"masks": start["masks"]}, start["batch_stats"], features.data, KEY, None)
        params = run_phase(phase, *given)[0]
        moves.append(jax.tree.map(jnp.subtract, params, start["params"]))
    jax.tree.map(lambda down, up: np.testing.assert_allclose(down, -up, rtol=1e-3, atol=1e-6), *moves)


def test_isolation_depends_on_the_order_of_the_losses_alone():
    losses = np.array([0.3, 0.1, 0.9, 0.05, 0.2, 0.8, 0.1])
    assert isolate_lowest(losses, 0.45).tolist() == [1, 3, 6]
    assert isolate_lowest(np.exp(5 * losses), 0.45).tolist() == [1, 3, 6]
    assert [len(isolate_lowest(losses, share)) for share in (0.1, 0.15, 0.99)] == [0, 1, 6]


def test_images_are_told_apart_by_the_loss_of_the_first_network(features):
    seen = []
    found = abl(features.network, None, features.data, KEY, CONFIG, progress=lambda *row: seen.append(row[:3]))
    (kept,) = found.kept
    assert len(found.isolated) == 9
    assert sorted([*kept, *found.isolated]) == list(range(48))
    assert found.suspicion[found.isolated].min() >= found.suspicion[kept].max()
    assert (found.network, found.kind, found.choice.pruned) == (features.network, "weights", 0)
    assert [name for name, *_ in seen] == ["isolate", "isolate", "finetune", "finetune", "unlearn", "unlearn"]
    assert found.history["unlearn"]["loss"][-1] > found.history["unlearn"]["loss"][0]


def test_only_the_training_on_the_other_images_is_augmented(features):
    shapes = []

    def augment(key, images):
        del key
        shapes.append(images.shape[0])
        return images

    abl(features.network, None, features.data, KEY, CONFIG, augment=augment)
    assert set(shapes) == {16, 7}  # of the 39 images that are not isolated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolate": 0.0}, "isolate 0.0"),
        ({"gamma": -1.0}, "gamma -1.0"),
        ({"loss": "other"}, "expected lga or flooding"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        AblConfig(**options)


def test_a_share_that_isolates_nothing_and_a_loss_that_diverges(features):
    with pytest.raises(ConfigError, match=r"abl.isolate 0.01 isolates 0 of 48 images: raise it to 0.042 or more"):
        abl(features.network, None, features.data, KEY, replace(CONFIG, isolate=0.01))
    wild = replace(CONFIG, tuning=replace(QUICK, epochs=6, learning_rate=1e30))
    with pytest.raises(DefenseError, match="isolate diverged"):
        abl(features.network, None, features.data, KEY, wild)


def test_images_with_a_mark_that_is_easier_than_the_classes_are_isolated(features):
    data, marked = marked_set()
    config = replace(CONFIG, isolate=0.05, tuning=replace(QUICK, epochs=4))
    found = abl(features.network, None, data, KEY, config)
    assert marked[found.isolated].mean() == 1

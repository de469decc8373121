"""The whole defense: its warnings and errors, its determinism, and the recorded run of the released code."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict, load_model, to_state_dict
from rnp_jax.data import NORMALIZATIONS
from rnp_jax.defenses import PruneConfig, RecoverConfig, RnpConfig, UnlearnConfig, recover, rnp, unlearn
from rnp_jax.defenses.prune import THRESHOLDS, rank
from rnp_jax.defenses.result import prune
from rnp_jax.errors import DefenseError
from rnp_jax.evaluation.predict import predict, predict_variants
from rnp_jax.types import Batch

KEY = jax.random.key(0)
CONFIG = RnpConfig(
    UnlearnConfig(max_epochs=60, batch_size=16, learning_rate=0.02, stop_accuracy=0.5),
    RecoverConfig(epochs=10, batch_size=16, learning_rate=0.2),
    PruneConfig("damage", accuracy_budget=0.1),
)


def defend(features, config: RnpConfig = CONFIG, key=KEY, **options):
    options = {"holdout": features.holdout} | options
    return rnp(features.network, features.variables, features.data, key, config, **options)


def assert_equal_trees(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert all(map(np.array_equal, jax.tree.leaves(actual), jax.tree.leaves(expected)))


def test_the_steps_fit_together(features):
    calls = []
    result = defend(features, progress=lambda *call: calls.append(call[:2]))
    assert result.warnings == ()
    assert set(result.timing) == {"unlearn", "recover", "rank", "choose"}
    unlearned, recovered = result.history["unlearn"], result.history["recover"]
    assert unlearned["accuracy"][-1] <= 0.5 < unlearned["accuracy"][-2]
    assert calls == [("unlearn", e + 1) for e in range(len(unlearned["loss"]))] + [
        ("recover", e + 1) for e in range(10)
    ]
    np.testing.assert_array_equal(recovered["masks"][-1], masks.flatten(result.values))
    row = masks.flatten(masks.filters(result.variables["masks"]))
    assert np.flatnonzero(row == 0).tolist() == sorted(result.candidates.order[: result.choice.pruned])
    assert 0 < result.choice.pruned <= len(result.candidates.order)
    assert (result.choice.ranking, result.choice.threshold, result.choice.budget) == ("damage", None, 0.1)
    assert result.stops == {"unlearn": f"reached the stop accuracy 0.5 after {len(unlearned['loss'])} epochs"}
    released = rank("release", result.values, recovered["masks"])
    assert result.release is not None
    np.testing.assert_array_equal(result.release.order, released.order)
    np.testing.assert_array_equal(result.release.values, released.values)
    assert np.isnan(result.release.damage).all()
    assert_equal_trees(result.variables["params"], features.variables["params"])
    found = predict(features.network, result.variables, features.holdout).labels[0]
    assert result.choice.holdout_acc_after is not None
    assert (found == features.holdout.labels).mean() == pytest.approx(result.choice.holdout_acc_after.value)
    assert result.choice.holdout_acc_after.value >= 0.85


def test_the_same_key_gives_the_same_result(features):
    first, again, other = (defend(features, key=jax.random.key(seed)) for seed in (4, 4, 5))
    for field in ("variables", "values", "history"):
        assert_equal_trees(getattr(first, field), getattr(again, field))
    assert (first.choice, first.candidates.order.tolist()) == (again.choice, again.candidates.order.tolist())
    assert not np.array_equal(first.history["recover"]["masks"], other.history["recover"]["masks"])


def test_masks_that_came_with_the_weights_stay_part_of_them(features):
    """Recovery and pruning replace masks: the defended network must not get back what its own masks had taken."""
    like = masks.filters(features.variables["masks"])
    own = masks.unflatten(np.random.default_rng(0).uniform(0.7, 1, 24).astype(np.float32), like)
    masked = masks.apply_filters(features.variables, {name: jnp.asarray(mask) for name, mask in own.items()})
    baked = masks.bake(masked)
    config = replace(CONFIG, prune=PruneConfig(ranking="release", number=0))
    result, expected = (rnp(features.network, each, features.data, KEY, config) for each in (masked, baked))
    assert_equal_trees(result.variables, expected.variables)
    before, after = (predict(features.network, each, features.holdout).loss for each in (masked, result.variables))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_a_stop_accuracy_never_reached_is_a_warning(features):
    config = replace(CONFIG, unlearn=replace(CONFIG.unlearn, max_epochs=2, learning_rate=1e-6))
    result = defend(features, config)
    assert any("never reached the stop accuracy 0.50: after 2 epochs it stood at" in each for each in result.warnings)
    assert result.stops == {"unlearn": "did not reach the stop accuracy 0.5 after 2 epochs"}


def test_a_pass_that_fails_is_begun_again_with_other_steps(features):
    """Steps too short to unlearn become three times as long; those after which masks cannot recover, a third."""
    short = replace(CONFIG.unlearn, max_epochs=3, learning_rate=0.02 / 9, stop_accuracy=0.9)
    assert defend(features, replace(CONFIG, unlearn=short)).warnings[0].startswith("Unlearning never reached")
    again = defend(features, replace(CONFIG, unlearn=short, retries=4))
    assert not any("Unlearning" in each for each in again.warnings)
    noise = replace(CONFIG, recover=replace(CONFIG.recover, epochs=1, learning_rate=1e-9))
    failed, retried = defend(features, noise), defend(features, replace(noise, retries=1))
    assert any(each.startswith("Recovery failed: ") for each in failed.warnings)
    assert retried.history["recover"]["loss"][-1] < failed.history["recover"]["loss"][-1]


def test_filters_are_ranked_by_the_mean_over_passes(features):
    first = defend(features)
    both = defend(features, replace(CONFIG, passes=2))
    second = defend(features, key=jax.random.fold_in(KEY, 1))
    for name, mean in both.values.items():
        np.testing.assert_allclose(mean, (np.asarray(first.values[name]) + np.asarray(second.values[name])) / 2)


def test_nothing_exposed_is_a_warning_and_changes_nothing(features):
    config = replace(CONFIG, recover=replace(CONFIG.recover, learning_rate=1e-9))
    result = defend(features, config)
    assert result.warnings[-1] == "Nothing was pruned: no mask fell to 0.90."
    assert result.choice.pruned == 0
    assert len(result.candidates.order) == 0
    assert_equal_trees(result.variables, features.variables)


def test_a_budget_that_allows_nothing_is_a_warning(features):
    """Of thousands of images that the network is right about, whatever is pruned costs at least one."""
    noise = np.random.default_rng(0).uniform(0, 1, (4000, 1, 1, 6)).astype(np.float32)
    labels = predict(features.network, features.variables, Batch(noise, np.zeros(4000, np.int32))).labels[0]
    config, holdout = replace(CONFIG, prune=replace(CONFIG.prune, accuracy_budget=0.0)), Batch(noise, labels)
    result = defend(features, config, holdout=holdout)
    assert result.choice.pruned == 0
    assert "every choice costs more than the budget" in result.warnings[-1]
    assert_equal_trees(result.variables, features.variables)


def test_divergence_is_an_error(features):
    config = replace(CONFIG, unlearn=replace(CONFIG.unlearn, learning_rate=1e30))
    with pytest.raises(DefenseError, match=r"unlearn diverged: the loss became (nan|inf|-inf) in epoch \d+; lower"):
        defend(features, config)


class Recorded(SimpleNamespace):
    """The released code's own run on a ResNet-18 of width 16: its inputs, states and figures."""

    arrays: dict[str, np.ndarray]
    log: dict

    def state(self, prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): value for key, value in self.arrays.items() if key.startswith(prefix)}

    def masks(self, epoch: int) -> masks.Filters:
        names = [str(name).removesuffix(".neuron_mask") for name in self.arrays["mask_names"]]
        like = masks.filters(self.model.variables["masks"])
        ends = np.cumsum([len(like[name]) for name in names])
        return dict(zip(names, np.split(self.arrays["masks_per_epoch"][epoch], ends[:-1]), strict=True))

    def batch(self, kind: str) -> Batch:
        return Batch(self.arrays[f"x_{kind}"], self.arrays[f"y_{kind}"].astype(np.int32))


@pytest.fixture(scope="module")
def recorded(shared) -> Recorded:
    folder = shared / "golden"
    path = shared / "torch_checkpoints" / "badnets_resnet18w16.tar"
    model = load_model(path, normalization=NORMALIZATIONS["cifar10_rnp"])
    with np.load(folder / "badnets.npz") as arrays:
        return Recorded(
            arrays=dict(arrays),
            log=json.loads((folder / "badnets.json").read_text()),
            model=model,
            network=model.network,
        )


@pytest.mark.slow
def test_recorded_logits(recorded):
    logits, _ = jax.jit(lambda variables, images: recorded.network(variables, images))(
        recorded.model.variables, recorded.arrays["x_test"][:256]
    )
    np.testing.assert_allclose(logits, recorded.arrays["logits_first256"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_recorded_unlearning(recorded):
    """Stops at the same epoch; the weights after the first epoch, and the figures of the first three."""
    config = UnlearnConfig(shuffle=False)
    data = recorded.batch("defense")
    result = unlearn(recorded.network, recorded.model.variables, data, KEY, config)
    rows = np.array([row[:4] for row in recorded.log["unlearn"]])
    assert len(result.history["loss"]) == len(rows) == 6
    assert result.reached
    np.testing.assert_allclose(result.history["accuracy"][:3], rows[:3, 3], atol=2 / 500)
    first = replace(config, stop_accuracy=float(rows[0, 3]) + 1e-3)
    after = to_state_dict(
        recorded.network, unlearn(recorded.network, recorded.model.variables, data, KEY, first).variables
    )
    for key, expected in recorded.state("unlearn_epoch0/").items():
        if key in after:
            assert np.abs(after[key] - expected).max() < 1e-4 * np.abs(expected).max(), key


@pytest.mark.slow
def test_recorded_recovery(recorded):
    variables = from_state_dict(recorded.network, recorded.state("unlearned/"))
    config = RecoverConfig(epochs=2, shuffle=False)
    result = recover(recorded.network, variables, recorded.batch("defense"), KEY, config)
    for epoch, tolerance in enumerate((1e-4, 1e-3)):
        found = masks.unflatten(result.history["masks"][epoch], result.filters)
        for name, expected in recorded.masks(epoch).items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=tolerance, err_msg=name)
    assert result.history["accuracy"][0] == pytest.approx(recorded.log["recover"][0][2], abs=2 / 500)


@pytest.mark.slow
def test_recorded_sweep(recorded):
    """Log columns: pruned, layer and index of the next filter, threshold, triggered CE and accuracy, clean ones."""
    path = np.stack([masks.flatten(recorded.masks(epoch)) for epoch in range(20)])
    candidates = rank("release", recorded.masks(-1), path)
    log = recorded.log["prune"]
    assert [candidates.count_at(threshold) for threshold in THRESHOLDS] == [row[0] for row in log]
    rows = [log[index] for index in (0, 4, 9, 14, 18)]
    variants = [masks.filters(recorded.model.variables["masks"])]
    variants += [masks.filters(prune(recorded.model.variables, candidates, int(row[0]))["masks"]) for row in rows]
    expected = [recorded.log["before"], *(row[4:] for row in rows)]
    for kind, column in (("triggered", 1), ("test", 3)):
        batch = recorded.batch(kind)
        found = predict_variants(recorded.network, recorded.model.variables, variants, batch)
        shares = (found.labels == batch.labels[None]).mean(1)
        np.testing.assert_allclose(shares, [row[column] for row in expected], rtol=0, atol=0.002)

"""Where predictions go while a model unlearns: planted answers, the bundled models, and one compilation for all."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.defenses import UnlearnConfig, unlearn
from rnp_jax.detection.labels import LabelConfig, _watch, detect_label, gentle_unlearning, score_shares
from rnp_jax.errors import ConfigError, DataError, DefenseError
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.linear import Linear, linear_data, linear_variables

KEY = jax.random.key(0)
SMALL = LabelConfig(unlearn=replace(gentle_unlearning(), max_epochs=6, batch_size=6), images=6, draws=2)


def detect(config: LabelConfig = SMALL, variables=None, data: Batch | None = None, key=KEY, **options):
    network: Any = Linear()  # an Apply is all that label detection needs
    return detect_label(network, variables or linear_variables(), data or linear_data(24), key, config, **options)


def test_a_score_is_the_largest_area_and_its_label():
    shares = np.asarray([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0], [0.0, 0.4, 0.6]])
    score, label = score_shares(shares)
    assert label == 1
    assert score == pytest.approx(0.6)
    assert score_shares(np.full((4, 5), 0.2)) == (pytest.approx(0.2), 0)


def test_a_label_that_everything_is_close_to_is_found():
    """A bias just short of beating the true label everywhere: the smallest ascent tips the predictions over to it."""
    variables = linear_variables()
    data = linear_data(24)
    margin = np.asarray(Linear()(variables, jnp.asarray(data.images))[0])
    others = margin[data.labels != 2]
    true = np.take_along_axis(margin, data.labels[:, None], 1)[data.labels != 2, 0]
    lift = float((true - others[:, 2]).min()) * 0.9
    variables["params"]["fc"]["bias"] = jnp.asarray([0.0, 0.0, lift])
    before = np.asarray(Linear()(variables, jnp.asarray(data.images))[0]).argmax(1)
    np.testing.assert_array_equal(before, data.labels)
    found = detect(replace(SMALL, unlearn=replace(SMALL.unlearn, learning_rate=0.05)), variables)
    assert found.label == 2
    assert found.score > 0.5


def test_shares_are_those_of_unlearning_one_epoch_after_the_other():
    """After each epoch, the shares of a separate ``unlearn`` that ends there, on the draw's images."""
    data, config = linear_data(6), replace(SMALL, draws=1)
    found = detect(config, data=data)
    assert found.shares["train"].shape == (6, 3)
    order = np.asarray(jax.random.permutation(KEY, 6))
    for epochs in (1, 3, 6):
        settings = replace(config.unlearn, max_epochs=epochs, stop_accuracy=0.0, shuffle=False)
        alone = unlearn(Linear(), linear_variables(), Batch(*(part[order] for part in data)), KEY, settings)
        predicted = np.asarray(Linear()(alone.variables, jnp.asarray(data.images))[0]).argmax(1)
        np.testing.assert_allclose(found.shares["train"][epochs - 1], np.bincount(predicted, minlength=3) / 6)
        np.testing.assert_allclose(found.history["train"]["accuracy"][:epochs], alone.history["accuracy"], atol=1e-6)


def test_the_model_handed_on_is_that_of_the_stop_accuracy_and_the_watching_goes_on():
    config = replace(SMALL, draws=1, unlearn=replace(SMALL.unlearn, learning_rate=0.2, stop_accuracy=0.6))
    found = detect(config)
    accuracy = found.history["train"]["accuracy"]
    stopped = int(np.flatnonzero(accuracy <= 0.6)[0]) + 1
    assert 1 < stopped < 6
    assert found.unlearned["batch_stats"]["steps"] == stopped
    assert not found.warnings
    never = detect(replace(config, unlearn=replace(config.unlearn, learning_rate=1e-6)))
    assert never.unlearned["batch_stats"]["steps"] == 6
    assert "never reached the stop accuracy 0.60" in never.warnings[0]


def test_every_image_is_used_before_one_is_used_again_and_labels_take_turns():
    """With as many draws as it takes, the mean over draws does not depend on the key but for the order."""
    seen = []
    data = linear_data(24)

    def note(key, images):
        del key
        seen.append(images)
        return images

    detect(replace(SMALL, draws=1), data=data, augment=note)
    assert seen[0].shape == (6, 2, 2, 3)
    still = replace(SMALL, draws=4, unlearn=replace(SMALL.unlearn, max_epochs=1, learning_rate=1e-9))
    uneven = Batch(data.images, np.where(np.arange(24) < 18, np.arange(24) % 2, 2).astype(np.int32))
    lifted = linear_variables()
    found = detect(still, lifted, uneven)
    whole = np.asarray(Linear()(lifted, jnp.asarray(data.images))[0]).argmax(1)
    np.testing.assert_allclose(found.shares["train"][0], np.bincount(whole, minlength=3) / 24, atol=1e-6)
    (one,) = detect(replace(still, draws=1), lifted, uneven).history["train"]["accuracy"]
    assert 0 < one < 1


def test_modes_have_their_own_statistics_and_the_first_decides():
    both = detect(replace(SMALL, modes=("frozen", "train")))
    assert set(both.shares) == set(both.timing) == set(both.history) == {"frozen", "train"}
    assert both.unlearned["batch_stats"]["steps"] == 0
    assert (both.score, both.label) == score_shares(both.shares["frozen"])


def test_the_same_key_gives_the_same_findings():
    first, again, other = (detect(key=jax.random.key(seed)) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first.unlearned, again.unlearned)
    np.testing.assert_array_equal(first.shares["train"], again.shares["train"])
    assert not np.array_equal(first.unlearned["params"]["fc"]["kernel"], other.unlearned["params"]["fc"]["kernel"])


def test_models_of_one_architecture_share_one_program():
    network = Network(Architecture("mlp", 3, 0, (("0", 5), ("2", 3)), (2, 2, 3)))
    before = count_compiled(_watch)
    for seed in range(3):
        detect_label(network, network.init(jax.random.key(seed)), linear_data(24), KEY, SMALL)
    assert count_compiled(_watch) == before + 1


def test_progress_is_told_once_a_draw():
    told = []
    detect(replace(SMALL, draws=3), progress=lambda *each: told.append(each))
    assert [each[:3] for each in told] == [("unlearn (train)", draw, 3) for draw in (1, 2, 3)]
    assert set(told[0][3]) == {"loss", "accuracy"}


def test_too_few_images():
    few = detect(replace(SMALL, images=50), data=linear_data(9))
    assert "There are only 9 clean images, but the settings ask for 50" in few.warnings[0]
    with pytest.raises(DataError, match="1 clean images: expected at least 2"):
        detect(data=linear_data(1))


def test_divergence_is_told():
    wild = UnlearnConfig(max_epochs=6, batch_size=6, learning_rate=1e38, milestones=())
    with pytest.raises(DefenseError, match=r"unlearning \(train\) diverged: the loss became \S+ in epoch"):
        detect(replace(SMALL, unlearn=wild))


@pytest.mark.parametrize("options", [{"modes": ()}, {"modes": ("train", "train")}, {"images": 1}, {"draws": 0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected one or more different modes"):
        LabelConfig(**options)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.detection.stamps import overlap
from rnp_jax.detection.triggers import RecoveredTriggers, recover_triggers
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.inversion.anomaly import anomaly_index
from rnp_jax.inversion.stamps import stamp
from rnp_jax.types import Batch
from tests.inversion.planted import CLASSES, CONFIG, PIXEL, SIDE, TARGET, Rows, rows_data, rows_variables

KEY = jax.random.key(0)
NETWORK = Rows()


@pytest.fixture(scope="module")
def found() -> RecoveredTriggers:
    return recover_triggers(NETWORK, rows_variables(), rows_data(), KEY, CONFIG)


def test_the_planted_trigger_is_found(found: RecoveredTriggers):
    known = np.zeros((SIDE, SIDE), np.bool_)
    known[PIXEL] = True
    assert found.suspected == (TARGET,)
    assert found.index[TARGET] == found.index.max()
    assert overlap(found.masks[TARGET], known) == 1
    assert found.norms[TARGET] < 1.5
    assert np.delete(found.norms, TARGET).min() > 3, "a row has eight pixels, of which most are needed"
    assert found.patterns[TARGET][PIXEL].min() > 0.5
    assert found.reached.all()
    assert not found.warnings


def test_without_the_plant_nobody_is_suspected_whatever_the_index():
    found = recover_triggers(NETWORK, rows_variables(planted=0.0), rows_data(), KEY, CONFIG)
    assert found.norms.min() / found.norms.max() > 0.9
    assert found.index.max() > CONFIG.suspicious, "norms that hardly differ have outliers, too"
    assert found.suspected == ()


def test_figures_are_of_the_arrays_returned(found: RecoveredTriggers):
    data = rows_data()
    np.testing.assert_allclose(found.norms, found.masks.sum((1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(found.index, anomaly_index(found.norms))
    for k in range(CLASSES):
        others = jnp.asarray(data.images[data.labels != k])
        logits, _ = NETWORK(rows_variables(), stamp(others, found.masks[k], found.patterns[k]))
        assert found.success[k] == pytest.approx(float((logits.argmax(-1) == k).mean()))
    assert found.masks.min() >= 0
    assert found.masks.max() <= 1
    assert found.history["norm"].shape == (found.steps.max(), CLASSES)
    for k, steps in enumerate(found.steps):
        assert np.isfinite(found.history["weight"][:steps, k]).all()
        assert np.isnan(found.history["weight"][steps:, k]).all()
    assert set(found.timing) == {"optimise", "measure"}


@pytest.mark.parametrize("label", [0, TARGET])
def test_a_label_alone_gives_what_it_gives_among_all(found: RecoveredTriggers, label: int):
    alone = recover_triggers(NETWORK, rows_variables(), rows_data(), KEY, CONFIG, labels=(label,))
    np.testing.assert_array_equal(alone.labels, [label])
    np.testing.assert_allclose(alone.masks[0], found.masks[label], atol=1e-5)
    np.testing.assert_allclose(alone.patterns[0], found.patterns[label], atol=1e-5)
    assert alone.steps[0] == found.steps[label]
    assert any("1 labels" in text for text in alone.warnings)


def test_the_same_key_gives_the_same_and_progress_changes_nothing(found: RecoveredTriggers):
    calls = []
    again = recover_triggers(
        NETWORK, rows_variables(), rows_data(), KEY, CONFIG, progress=lambda *each: calls.append(each)
    )
    np.testing.assert_array_equal(again.masks, found.masks)
    np.testing.assert_array_equal(again.patterns, found.patterns)
    assert all(set(figures) == {"loss", "accuracy"} and np.isfinite(figures["loss"]) for *_, figures in calls)
    assert 1 < len(calls) <= 20


def test_a_model_collapsed_onto_a_label_needs_no_trigger_and_says_so():
    bias = np.zeros(CLASSES)
    bias[1] = 100.0
    collapsed = rows_variables(planted=0.0, bias=tuple(bias))
    found = recover_triggers(NETWORK, collapsed, rows_data(), KEY, CONFIG)
    assert found.suspected == (1,)
    assert found.baseline[1] == 1
    assert found.norms[1] < 0.1
    assert not found.reached[[0, 2, 3, 4, 5]].any(), "100 is more than any image can overcome"
    missed, collapse = found.warnings
    assert "to label 0, 2, 3, 4, 5" in missed
    assert "label 1 (100%) without any trigger" in collapse


@pytest.mark.parametrize("labels", [(), (6,), (-1, 2), (1, 1), (0.5,)])
def test_labels_that_are_none_are_refused(labels: tuple):
    with pytest.raises(ConfigError, match="different integers from 0 to 5"):
        recover_triggers(NETWORK, rows_variables(), rows_data(), KEY, CONFIG, labels=labels)


@pytest.mark.parametrize(
    "data",
    [
        Batch(rows_data().images / np.float32(255), rows_data().labels),
        Batch(rows_data().images[:0], rows_data().labels[:0]),
        Batch(rows_data().images, rows_data().labels[:5]),
        Batch(rows_data().images[0], rows_data().labels[:1]),
    ],
)
def test_images_that_cannot_be_used_are_refused(data: Batch):
    with pytest.raises(DataError, match=r"expected uint8 \[N, H, W, C\]"):
        recover_triggers(NETWORK, rows_variables(), data, KEY, CONFIG)

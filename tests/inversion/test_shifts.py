import numpy as np
import pytest

from rnp_jax.errors import ConfigError, DataError
from rnp_jax.inversion.shifts import ShiftConfig, Shifts, find_shifts, find_shortest
from rnp_jax.types import Batch
from tests.inversion.planted import CLASSES, NETWORK, SIDE, TARGET, mlp_variables, rows_data


def plain_data(value: int = 200) -> Batch:
    """Black images, each with the row of its class at one grey level: all classes are equally far apart."""
    labels = (np.arange(4 * CLASSES) % CLASSES).astype(np.int32)
    images = np.zeros((len(labels), SIDE, SIDE, 3), np.uint8)
    images[np.arange(len(labels)), labels] = value
    return Batch(images, labels)


def test_on_a_linear_network_it_is_the_analytic_one():
    """Weights orthogonal, of squared length n, and all gaps g: δ = g / (n K) · ((K - 1) w_k - Σ w_j)."""
    data, variables = plain_data(), mlp_variables(0.0)
    found = find_shifts(NETWORK, variables, data)
    kernel = np.asarray(variables["params"]["0"]["kernel"], np.float64)
    squared, pixels = (kernel[:, 0] ** 2).sum(), data.images.reshape(len(data.images), -1) / 255
    gap = 200 / 255 * kernel[:, 0].sum()
    wanted = gap / (squared * CLASSES) * (CLASSES * kernel - kernel.sum(1, keepdims=True)).T
    np.testing.assert_allclose(found.directions, wanted, atol=1e-5)
    spread = np.sqrt(((pixels - pixels.mean(0)) ** 2).sum(1).mean())
    np.testing.assert_allclose(found.sizes, np.linalg.norm(wanted, axis=1) / spread, rtol=1e-5)
    np.testing.assert_allclose(found.shares, 1, rtol=1e-5)
    assert found.find_outliers(ShiftConfig()) == []


def test_a_direction_that_speaks_for_one_label_is_found():
    """The planted pixel adds its squared weights to those of the label; the sizes fall with them."""
    found = find_shifts(NETWORK, mlp_variables(4.0), rows_data())
    assert found.find_outliers(ShiftConfig()) == [TARGET]
    assert found.shares[TARGET] < 0.85
    assert (np.delete(found.shares, TARGET) > 0.95).all()


@pytest.mark.parametrize("success", [0.5, 0.9, 1.0])
def test_so_many_images_of_every_other_class_leave_it(success: float):
    data, variables = rows_data(120), mlp_variables(4.0)
    kernel = np.asarray(variables["params"]["0"]["kernel"], np.float64)
    logits = data.images.reshape(len(data.images), -1) / 255 @ kernel
    found = find_shifts(NETWORK, variables, data, ShiftConfig(success=success))
    for label, direction in enumerate(found.directions):
        moved = logits + direction @ kernel
        for other in set(range(CLASSES)) - {label}:
            own = moved[data.labels == other]
            assert (own[:, label] >= own[:, other] - 1e-4).mean() >= success - 1 / len(own)


def test_it_falls_with_the_share_that_is_asked_for():
    half, most = (find_shifts(NETWORK, mlp_variables(), rows_data(), ShiftConfig(success=s)).sizes for s in (0.5, 1.0))
    assert (half <= most + 1e-9).all()


def test_the_shortest_of_many():
    np.testing.assert_allclose(find_shortest(np.eye(3), np.array([1.0, 2, 0])), [1, 2, 0], atol=1e-9)
    np.testing.assert_allclose(find_shortest(np.array([[3.0, 4.0]]), np.array([5.0])), [0.6, 0.8], atol=1e-9)
    np.testing.assert_allclose(find_shortest(np.array([[1.0, 0], [1, 1]]), np.array([2.0, 1])), [2, 0], atol=1e-9)
    assert np.isinf(find_shortest(np.array([[1.0], [-1.0]]), np.ones(2))).all()


def test_a_label_that_is_reached_anyway_needs_no_shift():
    data = rows_data()
    only = Batch(data.images[data.labels == 1], np.zeros((data.labels == 1).sum(), np.int32))
    found = find_shifts(NETWORK, mlp_variables(0.0), only)
    assert found.sizes[1] == 0
    assert (found.directions[0] == 0).all()


def test_shares_are_of_the_median():
    assert Shifts(np.zeros((3, 1)), np.array([1.0, 2, 4])).shares.tolist() == [0.5, 1, 2]
    for sizes in (np.zeros(3), np.full(3, np.inf)):
        none = Shifts(np.zeros((3, 1)), sizes)
        assert none.shares.tolist() == [1, 1, 1]
        assert none.find_outliers(ShiftConfig()) == []


def test_impossible_input_is_refused():
    with pytest.raises(ConfigError, match="expected success and margin"):
        ShiftConfig(success=0.0)
    data = rows_data()
    with pytest.raises(DataError, match="expected uint8"):
        find_shifts(NETWORK, mlp_variables(), Batch(data.images[:0], data.labels[:0]))

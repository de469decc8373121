import numpy as np
import pytest

from rnp_jax.errors import ConfigError, DataError
from rnp_jax.inversion.checks import NEXT, check_images, choose_labels, find_places
from rnp_jax.types import Batch
from tests.inversion.planted import CLASSES, Rows, rows_data, rows_variables


def test_all_labels_are_the_networks_and_some_are_those_given():
    data = rows_data()
    np.testing.assert_array_equal(choose_labels(Rows(), rows_variables(), data, None), np.arange(CLASSES))
    np.testing.assert_array_equal(choose_labels(Rows(), rows_variables(), data, (4, 1)), [4, 1])


def test_labels_are_found_where_they_stand():
    assert find_places(np.array([3, NEXT, 0]), (0, 3, NEXT)) == [2, 0, 1]
    assert find_places(np.array([3]), ()) == []
    with pytest.raises(KeyError):
        find_places(np.array([3]), (1,))


@pytest.mark.parametrize("labels", [(), (6,), (-1, 2), (1, 1), (0.5,)])
def test_labels_that_are_none_are_refused(labels: tuple):
    with pytest.raises(ConfigError, match="different integers from 0 to 5"):
        choose_labels(Rows(), rows_variables(), rows_data(), labels)


def test_images_need_bytes_and_labels():
    data = rows_data()
    check_images(data)
    with pytest.raises(DataError, match="expected uint8"):
        check_images(Batch(data.images / np.float32(255), data.labels))
    with pytest.raises(DataError, match="a label for each"):
        check_images(Batch(data.images, data.labels[:5]))

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.inversion.anomaly import anomaly_index, find_outliers, find_reached, stands_out

NORMS = st.lists(st.integers(0, 1000), min_size=2, max_size=12)


@settings(deadline=None, derandomize=True)
@given(NORMS, st.integers(1, 50), st.integers(0, 500))
def test_the_index_counts_deviations_whatever_the_unit(norms: list[int], scale: int, shift: int):
    values = np.asarray(norms, np.float64)
    index = anomaly_index(values)
    np.testing.assert_allclose(anomaly_index(values * scale + shift), index, rtol=1e-9)
    np.testing.assert_allclose(anomaly_index(-values), -index, rtol=1e-9)
    assert not np.isnan(index).any()


def test_the_index_by_hand():
    np.testing.assert_allclose(anomaly_index(np.array([1.0, 8, 9, 10, 12])), np.array([8, 1, 0, -1, -3]) / 1.4826)
    np.testing.assert_array_equal(anomaly_index(np.array([1.0, 9, 9, 9, 12])), [np.inf, 0, 0, 0, -np.inf])


def test_an_outlier_is_small_reached_and_far_below_the_others():
    sizes = np.array([30.0, 3, 28, 33, 31, 5, 29])
    reached = np.ones(7, np.bool_)
    assert find_outliers(sizes, reached) == [1, 5]
    assert find_outliers(sizes, reached, margin=0.1) == []
    assert find_outliers(sizes, reached, suspicious=1e6) == []
    assert find_outliers(sizes, reached, suspicious=1e6, clear=0.15) == [1]
    assert find_outliers(sizes, reached, suspicious=1e6, clear=0.2) == [1, 5]
    reached[1] = False
    assert find_outliers(sizes, reached) == [5]


def test_a_large_size_is_no_outlier():
    assert find_outliers(np.array([30.0, 300, 28, 33, 31, 29]), np.ones(6, np.bool_)) == []


def test_a_success_stands_out_if_it_is_high_and_ahead_of_an_ordinary_one():
    success = np.array([0.5, 0.9, 0.49, 0.7])
    assert find_reached(success, 0.1, works=0.5, ahead=2.0) == [1, 3, 0]
    assert find_reached(success, 0.4, works=0.5, ahead=2.0) == [1]
    assert stands_out(0.8, 0.4, works=0.5, ahead=2.0)
    assert not stands_out(0.79, 0.4, works=0.5, ahead=2.0)

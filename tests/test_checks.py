"""The checks of single options."""

import pytest

from rnp_jax.checks import check_choice, check_number
from rnp_jax.errors import ConfigError


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "0.5", True, None])
def test_check_number_refuses(value):
    with pytest.raises(ConfigError, match=r"alpha is .* expected a number between 0 and 1"):
        check_number("alpha", value, 0, 1)


@pytest.mark.parametrize("value", [2, 3.0])
def test_check_number_refuses_as_integer(value):
    with pytest.raises(ConfigError, match=r"seed is .* expected an integer of at least 3"):
        check_number("seed", value, 3, integer=True)


def test_what_is_in_range_passes():
    check_number("alpha", 1, 0, 1)
    check_number("seed", 3, 3, integer=True)
    check_choice("variant", "a", ("a", "b"))


def test_check_choice_names_the_choices():
    with pytest.raises(ConfigError, match="variant is 'c', expected one of a, b"):
        check_choice("variant", "c", ("a", "b"))

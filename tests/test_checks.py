"""The checks of single options."""

import numpy as np
import pytest

from rnp_jax.checks import check_choice, check_image_shape, check_number, check_path, take_option
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


@pytest.mark.parametrize(
    ("value", "shown"), [(10**5000, "a number of 16610 bits"), ("x" * 10**6, "'x{199}…")], ids=("number", "text")
)
def test_what_is_refused_is_shown_briefly(value, shown):
    with pytest.raises(ConfigError, match=f"seed is {shown}, expected an integer between 0 and 9"):
        check_number("seed", value, 0, 9, integer=True)
    with pytest.raises(ConfigError, match=f"variant is {shown}, expected one of a"):
        check_choice("variant", value, ("a",))


def test_an_image_shape_is_three_positive_integers():
    assert check_image_shape([np.int64(3), 4, 1]) == (3, 4, 1)
    assert check_image_shape((1, 1, 2**18)) == (1, 1, 2**18)
    for wrong in ((3, 4), (3, 4, 0), (-1, -1, 3), (3, 4, 1.0)):
        with pytest.raises(ConfigError, match=r"expected \(height, width, channels\), each a positive integer"):
            check_image_shape(wrong)
    for huge in ((4097, 1, 1), (1, 10**30, 3), (1, 1, 2**18 + 1), (4096, 4096, 5)):
        with pytest.raises(ConfigError, match=r"expected sides up to 4096, up to 262,144 channels"):
            check_image_shape(huge)


def test_a_path_that_is_not_utf8():
    check_path("--out", "runs/猫")
    with pytest.raises(ConfigError, match="--out is a\udcff, which is not UTF-8; choose another name"):
        check_path("--out", "a\udcff")
    with pytest.raises(ConfigError, match=r"--out is 'a\\x00b', which no file can be called"):
        check_path("--out", "a\0b")


@pytest.mark.parametrize(
    ("words", "rest", "given"),
    [
        (["a", "--b", "c"], ["a", "--b", "c"], None),
        (["a", "--n", "3", "b"], ["a", "b"], "3"),
        (["--n=3", "--n", "4"], [], "4"),
        (["a", "--n"], ["a"], ""),
        (["--nn", "3"], ["--nn", "3"], None),
    ],
)
def test_an_option_is_taken_out_of_a_command(words, rest, given):
    assert take_option(words, "--n") == (rest, given)

"""The table of attempts, and that a command can give each its settings."""

import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.reactivation_options import ReactivationOptions
from rnp_jax.reactivation import REACTIVATIONS, find_reactivation


@pytest.mark.parametrize("name", REACTIVATIONS)
def test_each_is_told_in_words_and_has_a_group_of_settings(name):
    attempt = REACTIVATIONS[name]
    assert (attempt.name, getattr(ReactivationOptions("a.pt"), name)) == (name, attempt.defaults)
    assert attempt.title == name.upper()
    assert not attempt.summary.endswith(".")
    assert attempt.basis.endswith(".")


def test_unknown_names():
    with pytest.raises(ConfigError, match="--by zzz: there is no such attempt; choose among ra, lmc, "):
        find_reactivation("zzz")

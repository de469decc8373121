"""The record of an attempt: what it needs has an option, and what it leaves open does nothing."""

import pytest

from rnp_jax.pipeline.reactivation_options import ReactivationOptions
from rnp_jax.reactivation import REACTIVATIONS
from rnp_jax.reactivation.attempt import Attempt
from rnp_jax.reactivation.record import Reactivation


@pytest.mark.parametrize("name", REACTIVATIONS)
def test_each_network_that_is_needed_has_an_option(name):
    attempt = REACTIVATIONS[name]
    assert ReactivationOptions("a.pt").lacks(attempt) == attempt.needs
    given = {need: ("b.pt",) if need == "surrogates" else "b.pt" for need in attempt.needs}
    assert ReactivationOptions("a.pt", by=(name,), **given).choose() == (attempt,)


def test_an_attempt_that_compares_needs_what_it_compares_with():
    assert all("original" in each.needs for each in REACTIVATIONS.values() if each.compares)
    assert any(each.compares for each in REACTIVATIONS.values())


def test_by_default_an_attempt_needs_no_further_network_is_usual_and_explains_nothing():
    record = Reactivation("new", "NEW", "a summary", "A basis.", lambda _problem, _config: Attempt(name="new"), None)
    assert (record.needs, record.compares, record.usual) == ((), False, True)
    assert record.explain(Attempt(name="new")) == ""

import re

import pytest

from rnp_jax.report.methods import METHODS, basis, order, title


def test_methods_are_in_the_order_of_a_comparison():
    names = ["zzz", "oracle", "rnp", "nad", "none", "random", "clp", "fp", "anp", "holder"]
    expected = ["none", "holder", "clp", "anp", "fp", "nad", "rnp", "zzz", "random", "oracle"]
    assert sorted(names, key=order) == expected


def test_an_unknown_method_keeps_its_name_and_claims_nothing():
    assert (title("<b>"), basis("<b>")) == ("<b>", "")
    assert title("holder") == "Hölder"


@pytest.mark.parametrize("method", ["rnp", "holder", "clp", "anp", "fp", "hid"])
def test_every_defense_says_what_it_rests_on_with_the_source(method: str):
    text = basis(method)
    assert text.startswith("The mask" if method in ("rnp", "anp") else "The score")
    assert text.endswith(").")
    assert "20" in text, "the source's year"


@pytest.mark.parametrize("method", ["ft", "nad", "ft_sam", "ibau"])
def test_a_defense_without_masks_says_what_it_does_to_the_weights(method: str):
    text = basis(method)
    assert re.search(r" \(.*20\d\d\)\.$", text)
    assert not re.search("mask|score", text)
    assert title(method) != method


def test_the_oracle_is_named_as_no_defense():
    assert "no defender has" in METHODS["oracle"].basis

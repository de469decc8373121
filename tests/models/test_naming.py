"""Tables of names, both ways."""

import pytest

from rnp_jax.models.naming import to_ours, to_theirs

NAMES = (("layer1.{}.conv{}", "stages.0.{}.conv{}"), ("layer1", "stages.0"), ("fc", "head.last"))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("layer1.10.conv2.weight", "stages.0.10.conv2.weight"),
        ("layer1.0.downsample.1.bias", "stages.0.0.downsample.1.bias"),
        ("fc", "head.last"),
    ],
)
def test_names_are_translated_both_ways(ours, theirs):
    assert to_theirs(ours, NAMES) == theirs
    assert to_ours(theirs, NAMES) == ours


def test_a_name_that_the_table_lacks():
    assert to_theirs("fc2.weight", NAMES) == "fc2.weight"
    assert to_ours("fc.weight", NAMES) is None


@pytest.mark.parametrize(("ours", "theirs"), [("conv1.weight", "backbone.conv1.weight"), ("fc", "backbone.fc")])
def test_an_empty_name_is_the_whole_network(ours, theirs):
    assert to_theirs(ours, (("", "backbone"),)) == theirs
    assert to_ours(theirs, (("", "backbone"),)) == ours
    assert to_ours(ours, (("", "backbone"),)) is None

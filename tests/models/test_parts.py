"""Parts that several designs share: their names, and what they ask for."""

import pytest

from rnp_jax.models.graph import Layer
from rnp_jax.models.parts import Norm, PreActivated, Residual, Squeeze, Units, stages, stem
from rnp_jax.models.tracing_graph import trace

FIRST, SECOND = Layer("conv1", "bn1", 4, 3), Layer("conv2", "bn2", 4, 3, activation=None)
SHORTCUT = Layer("shortcut.0", "shortcut.1", 4, activation=None)


def told(part, channels: int = 4) -> dict[str, tuple]:
    """The batch norms of a part: what feeds each, its activation, and whether that is direct."""
    found = trace((("", part),), channels)
    return {
        each.layer: (each.producers, each.activation, each.direct) for each in found.sites if each.layer in found.norms
    }


def test_units_follow_one_another():
    assert [*told(Units((FIRST, SECOND)))] == ["bn1", "bn2"]


@pytest.mark.parametrize("shortcut", [None, SHORTCUT])
def test_a_residual_block_adds_its_projection_if_it_has_one(shortcut):
    found = told(lambda g, x: g.norm(Residual((FIRST, SECOND), shortcut)(g, x), "after"))
    assert found["bn1"] == (("conv1",), "relu", True)
    assert ("shortcut.1" in found) == (shortcut is not None)
    assert found["after"] == ((), None, True)  # behind the block's ReLU


@pytest.mark.parametrize("raw", [True, False])
def test_a_preactivated_block_adds_its_projection_without_an_activation(raw):
    shortcut = Layer("shortcut", None, 4)
    block = PreActivated((FIRST, SECOND), shortcut, raw=raw)
    found = told(lambda g, x: g.norm(block(g, x), "after"))
    assert found["after"] == (("shortcut", "conv2"), None, True)
    assert found["bn1"][1] == "relu"


@pytest.mark.parametrize("linear", [True, False])
def test_a_squeeze_has_two_layers_and_no_site(linear):
    found = trace((("", Squeeze("fc1", "fc2", 2, linear=linear)),), 4)
    ones = () if linear else (1, 1)
    assert found.shapes == {"fc1": (2, 4, *ones), "fc2": (4, 2, *ones)}
    assert not found.sites


def test_names_of_stages_and_stems():
    first, second = Norm("a"), Norm("b")
    assert stages("layer{}.{}", [[first], [first, second]]) == (
        ("layer1.0", first),
        ("layer2.0", first),
        ("layer2.1", second),
    )
    name, part = stem("conv1", None, 8)
    assert (name, told(part, 3)) == ("", {})
    assert told(stem("conv1", "bn1", 8)[1], 3) == {"bn1": (("conv1",), "relu", True)}

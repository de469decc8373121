"""Networks of parts: their segments, and what is recognised as one."""

import jax
import pytest

from rnp_jax.models.registry import DESIGNS
from tests.oracle.zoos import PUBLISHED
from tests.parity import recognised, shapes_of
from tests.tiny_zoos import TINY, loaded, register


@pytest.fixture(autouse=True)
def tiny_designs():
    with register():
        yield


@pytest.mark.parametrize("name", ["efficientnet", "w_seresnet", "densenet"])
def test_segments_hold_every_layer_once(name):
    """Also layers of the network itself, whose names a trace gives."""
    _, network, variables = loaded(name)
    parts = [segment.select(variables)["params"] for segment in network.segments]
    assert sum(len(jax.tree.leaves(part)) for part in parts) == len(jax.tree.leaves(variables["params"]))


def test_a_network_that_nobody_can_build_is_refused():
    shapes = shapes_of(TINY["dpn"].build()) | {"conv1.weight": (2**30, 3, 3, 3)}
    assert recognised(shapes) == []


def test_equal_blocks_share_one_compiled_program():
    modules = [segment.module for segment in loaded("densenet")[1].segments]
    assert modules[1] == modules[2]
    assert hash(modules[1]) == hash(modules[2])


def test_everything_of_the_zoos_is_here():
    """That all designs of their modules are published is looked at where each module is."""
    assert {*PUBLISHED} <= {*DESIGNS}

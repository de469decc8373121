"""The graph that computes. Its arithmetic is compared with torch where each design is."""

import pytest

from tests.parity import check_placement, copy_of
from tests.tiny_zoos import loaded, register


@pytest.fixture(autouse=True)
def tiny_designs():
    with register():
        yield


def test_masks_on_the_outputs_of_convolutions():
    """The gates' convolutions have none."""
    module, network, _ = loaded("regnet")
    check_placement(copy_of(module), network, "conv_output")

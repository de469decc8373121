"""What a trace tells of networks whose sources are easy to read."""

import pytest

from tests.tiny_zoos import network_of, register


@pytest.fixture(autouse=True)
def tiny_designs():
    with register():
        yield


def test_sites_of_every_kind():
    """Producers and what follows, of networks whose sources are easy to read."""

    def told(name: str, width: int) -> dict[str, tuple]:
        sites = network_of(name, width).sites
        return {site.layer: (site.producers, site.activation, site.direct) for site in sites}

    dense = told("densenet", 6)
    assert dense["dense1.0.bn1"] == (("conv1",), "relu", True)
    assert dense["dense1.1.bn1"] == ((), "relu", True)  # a concatenation
    assert dense["dense1.1.bn2"] == (("dense1.1.conv1",), "relu", True)
    split = told("shufflenet_v2", 12)
    assert split["layer1.0.bn4"] == (("layer1.0.conv4",), None, True)
    assert split["layer1.0.bn5"] == (("layer1.0.conv5",), "relu", True)
    gated = told("senet", 16)
    assert gated["layer1.0.bn1"] == ((), "relu", True)  # behind the stem's ReLU
    assert gated["layer2.0.bn1"] == (("layer1.0.conv2",), "relu", False)  # behind a gate
    assert gated["layer2.1.bn1"] == (("layer2.0.shortcut.0", "layer2.0.conv2"), "relu", False)
    plain = told("w_wrn", 4)
    assert plain["conv2.0.residual.0"] == (("init_conv",), "relu", True)
    assert plain["conv3.0.residual.0"] == (("conv2.0.shortcut.0", "conv2.0.residual.6"), "relu", True)
    efficient = told("efficientnet", 8)
    assert "layers.0.bn1" not in efficient  # nothing reads it
    assert efficient["layers.1.bn1"] == (("layers.1.conv1",), "silu", True)

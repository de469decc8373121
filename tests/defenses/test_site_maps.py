"""Each site's map against the whole network, and the fast estimates against the general one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses.probes import Steps
from rnp_jax.defenses.site_maps import NETWORK_INPUT, find, outgoing_norms, plan, prepare, probe_site, unnormalized
from rnp_jax.errors import DefenseError
from tests.networks import build_random, images_for, network_of, state_of

STEPS = Steps(jnp.asarray([0.5, -0.5, 3.0, -3.0]), jnp.asarray([0.5, 0.5, 3.0, 3.0]) ** 0.5)


def random_network(name: str, placement="bn_scale"):
    """A network, its weights with random masks baked in, and normalised images."""
    network = network_of(name, placement)
    variables = from_state_dict(network, state_of(build_random(name)))
    draw = np.random.default_rng(0)
    values = {
        layer: draw.uniform(0.5, 1.5, mask.shape).astype(np.float32)
        for layer, mask in masks.filters(variables["masks"]).items()
    }
    variables = masks.bake(masks.apply_filters(variables, values), placement)
    return unnormalized(network), variables, network.normalize(jnp.asarray(images_for(name, 2)))


@pytest.mark.parametrize(
    ("name", "placement"),
    [("resnet18", "bn_scale"), ("resnet50", "conv_output"), ("preactresnet18", "channel"), ("mlp", "unit")],
)
def test_every_local_map_gives_the_site_s_activation(name, placement):
    network, variables, u = random_network(name, placement)
    inputs, outputs = network.inputs(variables, u), network.activations(variables, u)
    for site in network.sites:
        reach, arrays = plan(network, variables, site, "local", "mean")
        assert reach.kind == "affine"
        found = reach.z(arrays, inputs[reach.source])
        np.testing.assert_allclose(found, outputs[site.layer], rtol=1e-4, atol=1e-5, err_msg=site.layer)


def test_maps_alike_share_programs():
    """Channels of blocks alike are reached alike; a stride, a missing ReLU or another scope is a difference."""
    network, variables, _ = random_network("resnet18")
    local = {site.layer: plan(network, variables, site, "local", "mean")[0] for site in network.sites}
    assert local["layer1.0.bn1"] == local["layer1.1.bn1"] == local["bn1"]
    assert len(set(local.values())) == 4
    feature = {plan(network, variables, site, "feature", "mean")[0] for site in network.sites}
    assert len(feature) == len(network.sites)


@pytest.mark.parametrize("name", ["preactresnet18", "mlp"])
def test_every_feature_map_does(name):
    network, variables, u = random_network(name)
    outputs = network.activations(variables, u)
    inputs = {**network.inputs(variables, u), NETWORK_INPUT: u}
    kinds = []
    for site in network.sites[:3]:
        reach, arrays = plan(network, variables, site, "feature", "mean")
        kinds.append(reach.kind)
        np.testing.assert_allclose(reach.z(arrays, inputs[reach.source]), outputs[site.layer], rtol=1e-4, atol=1e-5)
        assert inputs[reach.source].size == u.size
    assert kinds == ["affine", "network", "network"] if name != "mlp" else ["affine", "layers"]


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("response", ["mean", "max"])
def test_local_estimates_of_channels_are_the_general_ones(response, norm):
    """Strides, kernels of 1 and 3, rectified or not, and a batch norm on a residual sum."""
    for name, layers in (("resnet18", ("bn1", "layer2.0.bn1", "layer2.0.shortcut.1")), ("preactresnet18", (2,))):
        network, variables, u = random_network(name)
        inputs = network.inputs(variables, u)
        by_name = {site.layer: site for site in network.sites} | dict(enumerate(network.sites))
        for layer in layers:
            reach, arrays = plan(network, variables, by_name[layer], "local", response)
            read = inputs[reach.source]
            prepared = prepare(reach, arrays, jax.ShapeDtypeStruct(read.shape, read.dtype), norm, 3)
            found = probe_site(reach, prepared, read, STEPS, norm, 3)
            expected = jax.jit(lambda arrays, read: reach.probe_any(arrays, read, STEPS, norm, 9))(arrays, read)  # noqa: B023
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5, err_msg=str(layer))
            assert np.asarray(found).max() > 0


def test_what_reads_a_channel():
    """A convolution between two norms of a block is the only reader of the first; kernels are [h, w, in, out]."""
    network, variables, u = random_network("resnet18")
    kernel = np.asarray(find(variables["params"], "layer2.0.conv2")["kernel"])
    sites = {site.layer: site for site in network.sites}
    found = outgoing_norms(network, variables, sites["layer2.0.bn1"], u[:1])
    np.testing.assert_allclose(found, np.sqrt((kernel**2).sum((0, 1, 3))), rtol=1e-5)
    for layer, reader in (("bn1", "0 layers of its block"), ("layer2.0.bn2", "no single layer")):
        with pytest.raises(DefenseError, match=f"{layer} is read by {reader}, expected exactly one"):
            outgoing_norms(network, variables, sites[layer], u[:1])


def test_what_reads_a_pre_activated_channel():
    network, variables, u = random_network("preactresnet18")
    sites = {site.layer: site for site in network.sites}
    assert outgoing_norms(network, variables, sites["layer1.1.bn1"], u[:1]).shape == (4,)
    with pytest.raises(DefenseError, match=r"layer2\.0\.bn1 is read by 2 layers"):  # its shortcut projects
        outgoing_norms(network, variables, sites["layer2.0.bn1"], u[:1])


def test_what_reads_a_unit():
    network, variables, u = random_network("mlp")
    found = outgoing_norms(network, variables, network.sites[0], u[:1])
    np.testing.assert_allclose(found, np.linalg.norm(np.asarray(variables["params"]["2"]["kernel"]), axis=1), rtol=1e-5)

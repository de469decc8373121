"""Against the same networks in torch, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from rnp_jax.models.generators import Deconv, Generator, double
from tests.compiled import count_compiled

KINDS = ("bottleneck", "autoencoder", "unet")
WIDTH, CHANNELS = 4, 3


def randomized(variables, seed=0):
    """Every leaf away from its default; variances positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(0, 0.3, leaf.shape)
        return jnp.asarray(np.abs(values) + 0.5 if path[-1].key in ("var", "scale") else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, variables)


class TorchGenerator:
    """The publications' forward passes, layer by layer, on our variables by name."""

    def __init__(self, variables, momentum):
        self.variables, self.momentum = variables, momentum
        self.stats = {}

    def conv(self, x, tree, **options):
        weight = torch.from_numpy(np.array(tree["kernel"])).permute(3, 2, 0, 1)
        return functional.conv2d(x, weight, torch.from_numpy(np.array(tree["bias"])), **options)

    def deconv(self, x, tree):
        kernel = np.ascontiguousarray(np.asarray(tree["kernel"])[::-1, ::-1])
        weight = torch.from_numpy(kernel).permute(2, 3, 0, 1)
        return functional.conv_transpose2d(x, weight, torch.from_numpy(np.array(tree["bias"])), stride=2, padding=1)

    def norm(self, x, path, train):
        params, stats = self.variables["params"], self.variables["batch_stats"]
        for name in path:
            params, stats = params[name], stats[name]
        module = nn.BatchNorm2d(x.shape[1], momentum=self.momentum).train(train)
        with torch.no_grad():
            for ours, theirs in (("scale", module.weight), ("bias", module.bias)):
                theirs.copy_(torch.from_numpy(np.array(params[ours])))
            for ours, theirs in (("mean", module.running_mean), ("var", module.running_var)):
                theirs.copy_(torch.from_numpy(np.array(stats[ours])))
            out = module(x)
        self.stats[path] = (module.running_mean.numpy(), module.running_var.numpy())
        return out

    def block(self, x, name, train, relu=True, **options):
        x = self.norm(self.conv(x, self.variables["params"][name]["conv"], **options), (name, "bn"), train)
        return x.relu() if relu else x

    def bottleneck(self, x, train):
        for i in range(3):
            x = self.block(x, f"down{2 * i}", train, padding=1)
            x = functional.max_pool2d(self.block(x, f"down{2 * i + 1}", train, padding=1), 2)
        x = self.block(x, "middle", train, padding=1)
        for i in range(3):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = self.block(x, f"up{2 * i}", train, padding=1)
            x = self.block(x, f"up{2 * i + 1}", train, relu=i < 2, padding=1)
        return x

    def autoencoder(self, x, train):
        for i in range(4):
            x = self.block(x, f"down{i}", train, stride=2, padding=1)
        for i in range(3):
            x = self.norm(self.deconv(x, self.variables["params"][f"up{i}"]["conv"]), (f"bn{i}",), train).relu()
        return self.deconv(x, self.variables["params"]["up3"]["conv"])

    def unet(self, x, train):
        skips = []
        for i in range(4):
            for half in "ab":
                x = self.block(x, f"down{i}{half}", train, padding=1)
            if i < 3:
                skips.append(x)
                x = functional.avg_pool2d(x, 2)
        for i in (2, 1, 0):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = torch.cat([x, skips[i]], 1)
            for half in "ab":
                x = self.block(x, f"up{i}{half}", train, padding=1)
        return self.block(x, "last", train, relu=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [False, True])
def test_generators_agree_with_torch(kind, train):
    generator = Generator(kind, WIDTH, CHANNELS)
    variables = randomized(jax.eval_shape(lambda: generator.constant(CHANNELS)))
    x = np.random.default_rng(1).normal(size=(3, 16, 32, CHANNELS)).astype(np.float32)
    out, batch_stats = generator(variables, jnp.asarray(x), train=train)
    oracle = TorchGenerator(variables, 0.05 if kind == "bottleneck" else 0.1)
    expected = getattr(oracle, kind)(torch.from_numpy(x).permute(0, 3, 1, 2), train).tanh()
    np.testing.assert_allclose(out, expected.permute(0, 2, 3, 1), rtol=0, atol=2e-4)
    for path, (mean, var) in oracle.stats.items():
        ours = batch_stats
        for name in path:
            ours = ours[name]
        np.testing.assert_allclose(ours["mean"], mean, rtol=0, atol=1e-4)
        np.testing.assert_allclose(ours["var"], var, rtol=1e-4, atol=1e-5)
    assert len(oracle.stats) == len(jax.tree.leaves(batch_stats)) // 2


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 1, 5, 2)])
def test_doubling_agrees_with_torch(align_corners, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=align_corners
    )
    found = double(jnp.asarray(x), align_corners=align_corners)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), rtol=0, atol=1e-5)


def test_a_deconvolution_s_gradient_agrees_with_torch():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    made = jax.eval_shape(lambda: Deconv(6).init(jax.random.key(0), jnp.zeros((1, 3, 5, 4))))
    params = randomized(made["params"])

    @jax.jit
    def gradient(x, params):
        def square(x, params):
            return jnp.square(Deconv(6).apply({"params": params}, x, mutable=["masks"])[0]).sum()

        return jax.grad(square, argnums=(0, 1))(x, params)

    gradients = gradient(jnp.asarray(x), params)
    pixels = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    kernel = torch.from_numpy(np.array(params["conv"]["kernel"])).requires_grad_()
    weight = kernel.flip(0, 1).permute(2, 3, 0, 1)
    bias = torch.from_numpy(np.array(params["conv"]["bias"]))
    functional.conv_transpose2d(pixels, weight, bias, stride=2, padding=1).square().sum().backward()
    np.testing.assert_allclose(gradients[0], pixels.grad.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gradients[1]["conv"]["kernel"], kernel.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_sides_that_do_not_halve_are_padded_with_the_mean_colour(kind):
    generator = Generator(kind, WIDTH, 1)
    variables = randomized(jax.eval_shape(lambda: generator.constant(CHANNELS)))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 10, 13, CHANNELS)), jnp.float32)
    out, _ = generator(variables, x)
    padded, _ = generator(variables, jnp.pad(x, ((0, 0), (0, 6), (0, 3), (0, 0))))
    assert out.shape == (2, 10, 13, 1)
    np.testing.assert_array_equal(out, padded[:, :10, :13])


def test_fresh_variables_are_reproducible_and_constant_ones_have_their_places():
    generator = Generator("autoencoder", WIDTH, 2)
    with jax.default_prng_impl("rbg"):  # draws after a quarter of the usual compilation
        fresh, again = (generator.init(jax.random.key(0), CHANNELS) for _ in range(2))
    constant = generator.constant(CHANNELS)
    assert jax.tree.structure(fresh) == jax.tree.structure(constant)
    assert all(a.shape == b.shape for a, b in zip(jax.tree.leaves(fresh), jax.tree.leaves(constant), strict=True))
    assert all(map(np.array_equal, jax.tree.leaves(fresh), jax.tree.leaves(again)))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16, 16, CHANNELS)), jnp.float32)
    assert np.ptp(generator(fresh, x, train=True)[0]) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_constant_variables_give_one_value(kind):
    generator = Generator(kind, 1, 2)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 10, 8, CHANNELS)), jnp.float32)
    np.testing.assert_allclose(generator(generator.constant(CHANNELS), x)[0], np.tanh(1), rtol=1e-6)


def test_equal_generators_share_a_compilation():
    run = jax.jit(lambda generator, variables, x: generator(variables, x)[0], static_argnums=0)
    for _ in range(2):
        generator = Generator("bottleneck", 1, 1)
        run(generator, generator.constant(1), jnp.zeros((1, 8, 8, 1)))
    assert count_compiled(run) == 1

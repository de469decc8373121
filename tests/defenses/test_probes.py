"""Units whose Hölder quotients are known by algebra, in float64, and the three estimators against one another."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.defenses.probes import Steps, linear_response, probe, probe_affine, probe_layers, steepest

ORDERS = {"1": 1, "2": 2, "inf": np.inf}
DUAL = {"1": np.inf, "2": 2, "inf": 1}
NORMS = tuple(ORDERS)
exact = {"rtol": 1e-12, "atol": 1e-12}
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def steps_of(radii, alpha: float) -> Steps:
    signed = np.concatenate([np.array(radii, np.float64), -np.array(radii, np.float64)])
    return Steps(jnp.asarray(signed), jnp.asarray(np.abs(signed) ** alpha))


def identity(z):
    return z


def probe_unit(w, x, b, radii, alpha, norm, activation=jax.nn.relu) -> float:
    """The estimate for one unit on one sample."""
    w, x = np.asarray(w, np.float64), np.asarray(x, np.float64)

    def z(u):
        return u @ w[:, None] + b

    return float(probe(z, lambda u: activation(z(u)), jnp.asarray(x)[None], steps_of(radii, alpha), norm, 1)[0, 0])


def draw_layers(seed: int, widths) -> list:
    draw = np.random.default_rng(seed)
    return [
        (jnp.asarray(draw.normal(size=pair)), jnp.asarray(draw.normal(size=pair[1])))
        for pair in itertools.pairwise(widths)
    ]


def apply_layers(layers, u):
    *before, (kernel, bias) = layers
    for each, offset in before:
        u = jax.nn.relu(u @ each + offset[None])
    return u @ kernel + bias[None]


@partial(jax.jit, static_argnums=(0, 4, 5))
def probe_by(estimator: str, layers, u, steps, norm: str, chunk: int):
    """ReLU units of the last layer, by any of the estimators that apply."""
    if estimator == "layers":
        return probe_layers(layers, u, steps, norm, chunk)
    if estimator == "affine":
        ((kernel, bias),) = layers
        response = linear_response(lambda u: u @ kernel, identity, u[0], norm, chunk)
        return probe_affine(u @ kernel + bias[None], response, jax.nn.relu, steps)
    return probe(
        lambda u: apply_layers(layers, u), lambda u: jax.nn.relu(apply_layers(layers, u)), u, steps, norm, chunk
    )


@pytest.mark.parametrize("norm", NORMS)
def test_the_steepest_direction_attains_the_dual_norm(norm):
    gradient = np.random.default_rng(0).normal(size=(5, 7))
    direction = np.asarray(steepest(jnp.asarray(gradient), norm))
    np.testing.assert_allclose(np.linalg.norm(direction, ORDERS[norm], axis=1), 1, **exact)
    np.testing.assert_allclose((direction * gradient).sum(1), np.linalg.norm(gradient, DUAL[norm], axis=1), **exact)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [0.0, 1e-200, 1e200])
def test_directions_of_gradients_of_any_size(norm, scale):
    gradient = jnp.asarray([[3.0, -4.0, 0.0]]) * scale
    direction = steepest(gradient, norm)
    expected = {"1": [0, -1, 0], "2": [0.6, -0.8, 0], "inf": [1, -1, 0]}[norm] if scale else [0, 0, 0]
    np.testing.assert_allclose(direction[0], expected, **exact)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.2])
def test_a_linear_unit(norm, alpha):
    """‖w‖_{p*} ε^{1−α} with the largest radius ε; for α = 1 and p = 2 that is the score of CLP."""
    w, radii = [0.3, -2.0, 1.1], (0.1, 0.7, 0.4)
    found = probe_unit(w, [1.0, 2.0, 3.0], 0.5, radii, alpha, norm, identity)
    assert found == pytest.approx(np.linalg.norm(w, DUAL[norm]) * 0.7 ** (1 - alpha), rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("b", [-9.0, -3.0, -1.0, 0.0, 2.0, 9.0])
def test_a_relu_unit(norm, b):
    w, x, radius, alpha = np.array([0.3, -2.0, 1.1]), np.array([0.1, 0.2, 0.3]), 1.3, 0.5
    a, r = w @ x + b, radius * np.linalg.norm(w, DUAL[norm])
    for estimator in ("any", "affine"):
        layers = [(jnp.asarray(w)[:, None], jnp.full(1, b))]
        found = probe_by(estimator, layers, jnp.asarray(x)[None], steps_of([radius], alpha), norm, 1)
        assert float(found[0, 0]) == pytest.approx(np.clip(a + r, 0, r) / radius**alpha, rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [1e-3, 1.0, 50.0])
def test_a_root_at_its_zero(norm, radius):
    """σ = |s|^½ with w·x + b = 0 and α = ½: ‖w‖_{p*}^½, whatever the radius."""
    w, x = np.array([2.0, -0.5, 4.0]), np.array([1.0, 4.0, -0.5])
    found = probe_unit(w, x, -float(w @ x), [radius], 0.5, norm, lambda z: jnp.sqrt(jnp.abs(z)))
    assert found == pytest.approx(np.sqrt(np.linalg.norm(w, DUAL[norm])), rel=1e-12)


def test_a_dead_relu_is_seen():
    """Its own gradient is 0; that of its pre-activation is not."""
    assert probe_unit([1.0, 2.0], [-0.1, -0.1], 0.0, [0.5], 1.0, "inf") == pytest.approx(2.4, rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_unit_without_gradient_scores_zero(norm):
    layers = [(jnp.zeros((3, 4)), jnp.ones(4)), (jnp.ones((4, 2)), -jnp.ones(2))]
    for estimator, own in (("any", layers), ("layers", layers), ("affine", layers[:1])):
        found = probe_by(estimator, own, jnp.ones((2, 3)), steps_of([0.1, 1.0], 0.5), norm, 2)
        np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_bounds_of_an_mlp(depth, norm):
    """At most L ε^{1−α}: the product of spectral norms, or of absolute weights."""
    layers = draw_layers(depth, (5, 6, 7, 4)[: depth + 1])
    u = jnp.asarray(np.random.default_rng(9).normal(size=(8, 5)))
    found = probe_by("any", layers, u, steps_of([0.2, 1.5], 0.5), norm, 3)
    *before, last = [np.asarray(kernel) for kernel, _ in layers]
    if norm == "2":
        bound = np.linalg.norm(last, axis=0) * np.prod([np.linalg.norm(kernel, 2) for kernel in before])
    else:
        bound = np.abs(last)
        for kernel in reversed(before):
            bound = np.abs(kernel) @ bound
        bound = bound.sum(0)
    assert (np.asarray(found) <= bound * 1.5**0.5 * (1 + 1e-12)).all()
    assert (np.asarray(found).max(0) > 0.05 * bound).any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("widths", [(5, 6), (5, 6, 7), (5, 6, 7, 4)])
def test_the_fast_ways_are_the_general_one(norm, widths):
    """Whatever the chunks."""
    layers = draw_layers(0, widths)
    u = jnp.asarray(np.random.default_rng(1).normal(size=(8, 5)))
    steps = steps_of([0.1, 0.3, 2.0], 0.5)
    expected = probe_by("any", layers, u, steps, norm, 99)
    fast = "affine" if len(layers) == 1 else "layers"
    for estimator, chunk in (("any", 3), (fast, 1), (fast, 3), (fast, 99)):
        np.testing.assert_allclose(probe_by(estimator, layers, u, steps, norm, chunk), expected, **exact)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(SEEDS, st.sampled_from(NORMS), st.floats(0.05, 0.95))
def test_relations_between_exponents(seed, norm, alpha):
    """Over one set of steps: H_α ≤ H_1^α H_0^{1−α}; H_α ≤ ε^{β−α} H_β for α ≤ β; one radius only rescales."""
    layers = draw_layers(seed, (4, 5, 3))
    u = jnp.asarray(np.random.default_rng(seed).normal(size=(6, 4)))
    radii = (0.1, 0.4, 1.6)
    h = {a: np.asarray(probe_by("layers", layers, u, steps_of(radii, a), norm, 3)).max(0) for a in (0.0, alpha, 1.0)}
    assert (h[alpha] <= h[1.0] ** alpha * h[0.0] ** (1 - alpha) * (1 + 1e-12)).all()
    assert (h[0.0] <= 1.6**alpha * h[alpha] * (1 + 1e-12)).all()
    assert (h[alpha] <= 1.6 ** (1 - alpha) * h[1.0] * (1 + 1e-12)).all()
    alone, other = (np.asarray(probe_by("layers", layers, u, steps_of([0.4], a), norm, 3)) for a in (alpha, 1.0))
    np.testing.assert_allclose(alone, other * 0.4 ** (1 - alpha), **exact)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(SEEDS, st.sampled_from(NORMS), st.floats(0.05, 20))
def test_scaling_a_layer_against_the_next(seed, norm, c):
    """W₁, b₁ times c and W₂ over c leave the function: layer 1 scores c times as much, layer 2 the same."""
    (w1, b1), (w2, b2) = layers = draw_layers(seed, (4, 5, 3))
    scaled = [(w1 * c, b1 * c), (w2 / c, b2)]
    u, steps = jnp.asarray(np.random.default_rng(seed).normal(size=(6, 4))), steps_of([0.1, 0.5], 0.5)
    one, one_scaled = (np.asarray(probe_by("affine", each[:1], u, steps, norm, 5)) for each in (layers, scaled))
    np.testing.assert_allclose(one_scaled, c * one, rtol=1e-10)
    two, two_scaled = (np.asarray(probe_by("layers", each, u, steps, norm, 3)) for each in (layers, scaled))
    np.testing.assert_allclose(two_scaled, two, rtol=1e-9, atol=1e-12)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(SEEDS, st.sampled_from(NORMS))
def test_permuting_units_permutes_their_scores(seed, norm):
    (w1, b1), (w2, b2) = layers = draw_layers(seed, (4, 5, 3))
    hidden, output = np.random.default_rng(seed).permutation(5), np.array([2, 0, 1])
    moved = [(w1[:, hidden], b1[hidden]), (w2[hidden][:, output], b2[output])]
    u, steps = jnp.asarray(np.random.default_rng(seed).normal(size=(6, 4))), steps_of([0.1, 0.5], 0.5)
    expected = np.asarray(probe_by("layers", layers, u, steps, norm, 3))[:, output]
    np.testing.assert_allclose(probe_by("layers", moved, u, steps, norm, 2), expected, rtol=1e-9, atol=1e-12)

"""Settings whose numbers are arguments of a program."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.traced import is_off, jit_settings, structural
from tests.compiled import count_compiled


@dataclass(frozen=True)
class Inner:
    momentum: float = 0.9
    scales: tuple[float, ...] = (2.0, 3.0)

    def __post_init__(self):
        if not 0 < self.momentum < 1:  # fails on a traced number: the record is put together without it
            raise ValueError(self.momentum)


@dataclass(frozen=True)
class Outer:
    rate: float = 0.1
    steps: int = 2
    name: str = "a"
    penalty: float = 0.0
    power: float = structural(2.0)
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)


def compute(outer: Outer, x):
    moved = outer.rate * x**outer.power * outer.steps * outer.inner.momentum * sum(outer.inner.scales)
    moved = moved if is_off(outer.penalty) else moved + outer.penalty
    return moved if outer.limit is None else jnp.minimum(moved, outer.limit)


X = np.array([1.5, -2.0], np.float32)
PLAIN = Outer()


@pytest.mark.parametrize(
    "other",
    [
        *(replace(PLAIN, rate=0.3), replace(PLAIN, inner=Inner(0.5, (1.5, 7.0)))),
        replace(PLAIN, rate=np.float64(0.25)),
    ],
)
def test_other_numbers_are_the_same_program(other):
    program = jit_settings()(compute)
    for settings in (PLAIN, other):
        np.testing.assert_allclose(program(settings, X), compute(settings, X), rtol=1e-6)
    assert count_compiled(program) == 1


@pytest.mark.parametrize(
    "other",
    [
        *(replace(PLAIN, steps=3), replace(PLAIN, name="b"), replace(PLAIN, power=3.0), replace(PLAIN, limit=0.5)),
        *(replace(PLAIN, penalty=0.5), replace(PLAIN, inner=Inner(scales=(2.0,)))),
    ],
)
def test_another_structure_is_another_program(other):
    program = jit_settings()(compute)
    for settings in (PLAIN, other):
        np.testing.assert_allclose(program(settings, X), compute(settings, X), rtol=1e-6)
    assert count_compiled(program) == 2


def test_settings_static_and_named_arguments_beside_each_other():
    @jit_settings(2, static=1)
    def program(first, second, static, x, *, y):
        assert isinstance(static.rate, float)
        assert isinstance(first.rate, jax.Array)
        return first.rate * x + second.rate * y + static.rate

    found = [float(program(Outer(a), Outer(b), PLAIN, 1.0, y=2.0)) for a, b in ((0.5, 0.25), (0.75, 0.5))]
    np.testing.assert_allclose(found, [1.1, 1.85], rtol=1e-6)
    assert count_compiled(program) == 1


def test_a_program_called_while_another_is_traced_takes_traced_settings():
    inner = jit_settings()(compute)

    @jit_settings()
    def outer(settings, x):
        return inner(settings, x) + 1

    np.testing.assert_allclose(outer(PLAIN, X), compute(PLAIN, X) + 1, rtol=1e-6)


@pytest.mark.parametrize(("number", "off"), [(None, True), (0.0, True), (0, True), (0.5, False)])
def test_a_number_that_is_zero_is_off(number, off):
    assert is_off(number) is off
    assert not jit_settings()(lambda settings: jnp.float32(is_off(settings.rate)))(PLAIN)

"""Counting in a compiled program's text and in a traced one."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.compiled_program import CompiledText, Cost, count_flops, size_of

TEXT = """HloModule made_up, is_scheduled=true

%sliced (p.0: f32[100,4], p.1: s32[]) -> f32[1,4] {
  %p.0 = f32[100,4]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  ROOT %cut = f32[1,4]{1,0} dynamic-slice(%p.0, %p.1, %p.1), dynamic_slice_sizes={1,4}
}

%body (state: (s32[], f32[100,4])) -> (s32[], f32[100,4]) {
  %state = (s32[], f32[100,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[100,4]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,4]{1,0} fusion(%x, %i), kind=kLoop, calls=%sliced
  ROOT %out = (s32[], f32[100,4]{1,0}) tuple(%i, %x)
}

%goes (state: (s32[], f32[100,4])) -> pred[] {
  %state = (s32[], f32[100,4]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%state, %state), direction=LT
}

ENTRY %main (a: bf16[8,8], s: (s32[], f32[100,4])) -> bf16[8,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  %s = (s32[], f32[100,4]{1,0}) parameter(1)
  %loop = (s32[], f32[100,4]{1,0}) while(%s), condition=%goes, body=%body{KNOWN}
  ROOT %c = (bf16[8,8]{1,0}, u8[0]{0}) custom-call(%a, %a), custom_call_target="__cudnn$convForward"
}
"""


@pytest.mark.parametrize(("known", "rounds"), [(', backend_config={"known_trip_count":{"n":"5"}}', 5), ("", 3)])
def test_kernels_of_loops_count_as_often_as_they_run(known, rounds):
    """A slice reads what it takes; where the number of rounds is not known, it is the caller's."""
    program = CompiledText(TEXT.replace("{KNOWN}", known))
    slicing, comparing = Cost(1, 16 + 4 + 16), Cost(1, 2 * size_of("(s32[], f32[100,4])") + 1)
    expected = (slicing + comparing).times(rounds) + Cost(1, 3 * 128)
    assert program.cost(unknown=3) == expected
    assert program.calls() == {"__cudnn$convForward": 1}


@pytest.mark.parametrize(("shape", "size"), [("f32[2,3]{1,0}", 24), ("bf16[]", 2), ("(s32[4], pred[2,2])", 20)])
def test_bytes_of_shapes(shape, size):
    assert size_of(shape) == size


def test_work_of_products_that_something_reads():
    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))

    def step(carry, _):
        unread = carry @ carry
        del unread
        return carry @ carry, None

    def program(x, kernel, square):
        y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y, jax.lax.scan(step, square, length=7)[0]

    found = count_flops(jax.jit(program).trace(x, kernel, jnp.zeros((4, 4))).jaxpr, unknown=1)
    assert found == 2 * (2 * 4 * 4 * 5) * 27 + 7 * 2 * 4**3

"""What every main program is for any device: its arithmetic, what it calls, and what makes it another program."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.programs import ARCHITECTURE, PROGRAMS, Numbers, network_of, products

_CALLED = {"cu_threefry2x32_ffi"}  # random numbers on an NVIDIA GPU
_CLAIMED = {"tf32": lax.Precision.HIGH, "bfloat16": lax.Precision.DEFAULT}
_EXACT = {"sources"}  # differences of nearly equal numbers are measured
_HOST = r"infeed|outfeed|callback|send|recv"


def precision_of(product):
    found = product.params["precision"]
    assert found is None or found[0] == found[1]
    return found and found[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_product_has_the_precision_that_the_network_claims(name):
    """Products beside the network, of losses, views and matrices, are exact in any case; none is left to a default."""
    exact = products(PROGRAMS[name](network_of("float32", Numbers()), Numbers()))
    assert exact
    assert {precision_of(each) for each in exact} == {lax.Precision.HIGHEST}
    for precision, claimed in _CLAIMED.items():
        found = products(PROGRAMS[name](network_of(precision, Numbers()), Numbers()))
        assert {precision_of(each) for each in found} <= {claimed, lax.Precision.HIGHEST}
        read = [operand for each in found if precision_of(each) == claimed for operand in each.invars]
        kind = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
        assert {operand.aval.dtype for operand in read} == (set() if name in _EXACT else {jnp.dtype(kind)})


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_lower_for_accelerators_without_calling_the_host(name):
    """From one trace: what depends on the platform is chosen when a program is lowered."""
    traced = PROGRAMS[name](network_of("bfloat16", Numbers()), Numbers())
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        called = set(re.findall(r"custom_call @(\w+)", text)) | set(re.findall(r'call_target_name = "(\w+)"', text))
        assert called <= (_CALLED if platform == "cuda" else set())
        assert not re.search(rf"stablehlo\.({_HOST})", text)


@pytest.mark.parametrize("name", PROGRAMS)
def test_numbers_of_settings_are_no_part_of_a_program(name):
    """Learning rates, weights of losses, stop values and the normalisation's constants are its arguments."""
    first, second = Numbers(), Numbers(0.2, 0.25, 0.7)
    programs = [PROGRAMS[name](network_of("float32", numbers), numbers).jaxpr for numbers in (first, second)]
    if name == "low_frequency":
        assert programs[0] is not programs[1]
    else:
        assert programs[0] is programs[1]


def test_the_network_of_these_programs_has_convolutions_and_batch_norms():
    traced = jax.jit(network_of("float32", Numbers())).trace
    variables = jax.eval_shape(network_of("float32", Numbers()).init, jax.random.key(0))
    assert variables["batch_stats"]
    found = products(traced(variables, jax.ShapeDtypeStruct((2, *ARCHITECTURE.image_shape), jnp.uint8)))
    assert {each.primitive.name for each in found} == {"dot_general", "conv_general_dilated"}

"""What every main program is for any device: its arithmetic, what it calls, and what makes it another program."""

import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import rnp_jax
from rnp_jax.checkpoints import Model, save_variables
from rnp_jax.config import ComputeOptions, TriggerOptions
from rnp_jax.data import Dataset, Normalization
from rnp_jax.defenses import ClpConfig, RecoverConfig, RnpConfig, ThresholdConfig, UnlearnConfig
from rnp_jax.defenses.finetune import FinetuneConfig
from rnp_jax.defenses.ft import FtConfig
from rnp_jax.models import Architecture, Network
from tests.compiled import watch_compilations
from tests.programs import ARCHITECTURE, PROGRAMS, Numbers, network_of, products

_CALLED = {"cu_threefry2x32_ffi"}  # random numbers on an NVIDIA GPU
_CLAIMED = {"tf32": lax.Precision.HIGH, "bfloat16": lax.Precision.DEFAULT}
_EXACT = {"sources", "trigger_masks", "detoxicants"}  # measure small differences, or leave the network out
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
    assert programs[0] is programs[1]


def test_the_network_of_these_programs_has_convolutions_and_batch_norms():
    traced = jax.jit(network_of("float32", Numbers())).trace
    variables = jax.eval_shape(network_of("float32", Numbers()).init, jax.random.key(0))
    assert variables["batch_stats"]
    found = products(traced(variables, jax.ShapeDtypeStruct((2, *ARCHITECTURE.image_shape), jnp.uint8)))
    assert {each.primitive.name for each in found} == {"dot_general", "conv_general_dilated"}


_TINY = Architecture("wanet_mnist", 10, 3, image_shape=(28, 28, 1))
_CLEAN = Dataset(
    np.random.default_rng(0).integers(0, 256, (70, 28, 28, 1), np.uint8),
    np.arange(70, dtype=np.int32) % 10,
    tuple(map(str, range(10))),
    "noise",
)


def settings_of(method: str, numbers: Numbers) -> Any:
    if method == "clp":
        return ClpConfig(ThresholdConfig("std", u=numbers.rate))
    if method == "ft":
        return FtConfig(finetune=FinetuneConfig(epochs=2, batch_size=28, learning_rate=numbers.rate))
    unlearn = UnlearnConfig(2, 28, learning_rate=numbers.rate, stop_accuracy=numbers.rate / 2)
    return RnpConfig(unlearn, RecoverConfig(2, 28, learning_rate=numbers.share, alpha=numbers.std))


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory) -> list[Model]:
    """Files of one design with other weights, and constants of the normalisation."""
    folder, found = tmp_path_factory.mktemp("tiny"), []
    for seed, std in enumerate((0.3, 0.7)):
        path, normalization = folder / f"{seed}.pt", Normalization((0.4,), (std,))
        network = Network(_TINY, *vars(normalization).values())
        save_variables(path, network, network.init(jax.random.key(seed)))
        found.append(rnp_jax.load_model(path, normalization=normalization, image_shape=_TINY.image_shape))
    return found


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("rnp", {"_start": 2, "_run_until": 2}),
        ("ft", {"_start": 1, "_run_until": 1}),
        ("clp", {"channel_norms": 2, "_multiply": 1}),  # a program a size of kernels
    ],
)
def test_a_defense_compiles_few_programs_and_the_next_of_its_design_none(method, own, tiny_models):
    """Whatever the weights, the seed and the numbers of the settings."""
    counts: list[Counter[str]] = []
    for seed, (model, numbers) in enumerate(zip(tiny_models, (Numbers(), Numbers(0.2, 0.25, 0.7)), strict=True)):
        with watch_compilations() as compiled:
            rnp_jax.defend(
                model,
                _CLEAN.subset(np.arange(50)),
                _CLEAN.subset(np.arange(50, 70)),
                method=method,
                settings=settings_of(method, numbers),
                evidence="never",
                trigger=TriggerOptions(attack="badnets", target=2),
                seed=seed,
                compute=ComputeOptions(batch_size=28),
                sweep_images=0,
            )
        counts.append(compiled)
    first, second = counts
    evaluation = {"_run_segment": 10, "classify": 2, "apply_batch": 1}  # where no test before this one evaluated
    assert {name: first[name] for name in own} == own
    assert all(first[name] <= most for name, most in evaluation.items())
    assert sum(first[name] for name in first if name not in own and name not in evaluation) <= 12
    assert second == {}

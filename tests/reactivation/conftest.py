"""A perceptron on small digits with a backdoor, what fine-tuning made of it, a clean one, and the attacker's images."""

import jax
import numpy as np
import pytest

from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions, TriggerOptions
from rnp_jax.pipeline.parties import KnownOptions, open_parties, open_scene
from rnp_jax.reactivation import Party, Problem
from rnp_jax.types import Batch


@pytest.fixture(scope="session")
def problem(small_victim, small_clean) -> Problem:
    """The victim's weights on the way to the clean network's stand for what a defense made of them."""
    images, path = DataOptions(test_images=60), str(small_victim)
    parties = open_parties(path, path, None, (), SourceOptions(), images, ComputeOptions())
    scene = open_scene(parties, images, KnownOptions(size=100), TriggerOptions())
    original = Party.of(parties.purified.network, parties.purified.variables)
    reference = Party(*small_clean)
    ends = (original.variables["params"], reference.variables["params"])
    params = jax.tree.map(lambda one, other: 0.7 * one + 0.3 * other, *ends)
    return Problem(
        purified=Party(original.network, {**original.variables, "params": params}),
        original=original,
        reference=reference,
        surrogates=(original,),
        clean=Batch(*map(np.asarray, scene.known)),
        triggered=scene.turned,
        test=scene.test.batch,
        judged=scene.trigger.test,
        target=scene.trigger.goal.one_target,
        key=jax.random.fold_in(jax.random.key(0), 1),
        batch_size=20,
    )

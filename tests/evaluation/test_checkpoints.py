"""Many checkpoints at once, against each by itself; on one device here and on two in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.errors import DataError
from rnp_jax.evaluation import checkpoints as module
from rnp_jax.evaluation.checkpoints import predict_checkpoints, predict_each
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import build_random, images_for, network_of, state_of

SIZE = 4


def problem_of(name: str, count: int = 3):
    """Checkpoints of one network, the last with a pruned filter, and ten images: two batches and a remainder."""
    network = network_of(name)
    found = [from_state_dict(network, state_of(build_random(name, seed))) for seed in range(count)]
    found[-1] = masks.apply_filters(found[-1], masks.keep(masks.filters(found[-1]["masks"]), [0]))
    return network, found, Batch(images_for(name, 10), np.arange(10, dtype=np.int32) % 5)


@pytest.fixture(scope="module", params=["resnet18", "mlp"])
def problem(request):
    return problem_of(request.param)


def own_images(batch: Batch, count: int) -> list[Batch]:
    """Other images for each, in other numbers."""
    return [Batch(batch.images[: 9 - 3 * i][::-1], batch.labels[: 9 - 3 * i][::-1]) for i in range(count)]


def check(network, checkpoints, batch: Batch, devices=None) -> None:
    together = predict_checkpoints(network, checkpoints, batch, SIZE, devices)
    assert together.labels.dtype == np.int32
    alone = [predict(network, variables, batch, SIZE) for variables in checkpoints]
    np.testing.assert_array_equal(together.labels, np.concatenate([each.labels for each in alone]))
    np.testing.assert_allclose(together.loss, np.concatenate([each.loss for each in alone]), rtol=1e-5, atol=1e-6)
    own = own_images(batch, len(checkpoints))
    for variables, images, found in zip(
        checkpoints, own, predict_each(network, checkpoints, own, SIZE, devices), strict=True
    ):
        expected = predict(network, variables, images, SIZE)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5, atol=1e-6)


def test_each_is_as_if_evaluated_alone(problem):
    check(*problem)
    check(*problem, devices=jax.local_devices()[:1])


def test_checkpoints_differ(problem):
    """Else the test above could not fail."""
    network, checkpoints, batch = problem
    found = predict_checkpoints(network, checkpoints, batch, SIZE)
    assert len(np.unique(found.loss.mean(1).round(4))) == len(checkpoints)


def test_one_program_whatever_the_number_of_checkpoints_and_images():
    network = Network(Architecture("mlp", 5, 0, (("0", 6), ("2", 5)), (2, 2, 3)))
    draw = np.random.default_rng(0)
    compiled = count_compiled(module._predict_hand)
    for number, count in [(1, 30), (4, 30), (7, 27), (2, 32)]:  # 7 and 8 batches of four
        checkpoints = [network.init(jax.random.key(seed)) for seed in range(number)]
        images = draw.integers(0, 256, (count, 2, 2, 3), np.uint8)
        found = predict_checkpoints(network, checkpoints, Batch(images, np.zeros(count, np.int32)), SIZE)
        assert found.labels.shape == found.loss.shape == (number, count)
        assert count_compiled(module._predict_hand) - compiled == 1


@pytest.mark.parametrize(("checkpoints", "images"), [(0, 10), (3, 0)])
def test_nothing_to_evaluate(problem, checkpoints, images):
    network, found, batch = problem
    with pytest.raises(DataError, match=f"{checkpoints} checkpoints on {images} images: expected one or more"):
        predict_checkpoints(network, found[:checkpoints], Batch(batch.images[:images], batch.labels[:images]))


def test_each_has_to_have_its_images(problem):
    network, found, batch = problem
    with pytest.raises(DataError, match="2 sets of images for 3 checkpoints"):
        predict_each(network, found, [batch, batch])


def test_checkpoints_of_other_networks_are_named():
    network, (first, *_), batch = problem_of("mlp", 1)
    wider = Network(Architecture("mlp", 5, 0, (("0", 9), ("2", 6), ("4", 5)), (4, 2, 3))).init(jax.random.key(0))
    with pytest.raises(DataError, match=r"checkpoint 1 .*\['0'\].* is \(9,\), expected \(7,\); run them apart"):
        predict_checkpoints(network, [first, wider], batch)
    without = {**first, "masks": {}}
    with pytest.raises(DataError, match=r"checkpoint 1 .* is missing, expected \(7,\)"):
        predict_checkpoints(network, [first, without], batch)


ON_TWO = """
import json, jax
from rnp_jax.evaluation import checkpoints as module
from tests.compiled import count_compiled
from tests.evaluation.test_checkpoints import check, problem_of
counts = []
for number in (3, 2, 1):  # an open hand, a full one, and one of one
    check(*problem_of("resnet18", number))
    counts.append(count_compiled(module._predict_hand))
print(json.dumps([jax.local_device_count(), counts]))
"""


@pytest.mark.slow
def test_on_two_devices():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", ON_TWO], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    devices, counts = json.loads(done.stdout)
    assert devices == 2
    assert counts == [2, 2, 2], "one program for images that are shared, one for images of each checkpoint's own"

"""Variants evaluated from the first changed segment on, against each evaluated alone by the whole network."""

import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.errors import DataError
from rnp_jax.evaluation import predict as module
from rnp_jax.evaluation.predict import default_batch_size, fit_batch_size, predict, predict_variants
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import build_random, images_for, network_of, state_of

COUNT, SIZE = 10, 4  # two batches, and a remainder of two


@pytest.fixture(scope="module", params=["resnet18", "mlp"])
def problem(request):
    network = network_of(request.param)
    variables = from_state_dict(network, state_of(build_random(request.param)))
    labels = np.arange(COUNT, dtype=np.int32) % 5
    return network, variables, Batch(images_for(request.param, COUNT), labels)


@partial(jax.jit, static_argnums=0)
def logits_of(network, variables, images) -> jax.Array:
    return network(variables, images)[0]


def alone(problem, variant) -> tuple[np.ndarray, np.ndarray]:
    network, variables, batch = problem
    logits = np.asarray(logits_of(network, masks.apply_filters(variables, variant), batch.images))
    loss = F.cross_entropy(torch.tensor(logits), torch.tensor(batch.labels).long(), reduction="none")
    return logits.argmax(1), loss.numpy()


def draw_variants(problem, kind: str) -> list[masks.Filters]:
    like = masks.filters(problem[1]["masks"])
    positions = np.random.default_rng(0).permutation(sum(len(mask) for mask in like.values()))
    last = len(positions) - 1
    pruned = {
        "nested": [positions[:count] for count in (0, 1, 2, 4, 8)],
        "by layer, last first": [[last], [last - 1], [last // 2], [0]],
        "unordered": [positions[:9], [], [last], positions[3:7], [0, last]],
        "duplicates": [[1], [1], [], [], [1]],
        "one": [positions[:3]],
        "nothing changes after the first": [[0]] * 3,
    }
    return [masks.keep(like, row) for row in pruned[kind]]


@pytest.mark.parametrize(
    "kind",
    ["nested", "by layer, last first", "unordered", "duplicates", "one", "nothing changes after the first"],
)
def test_each_variant_is_as_if_evaluated_alone(problem, kind):
    network, variables, batch = problem
    variants = draw_variants(problem, kind)
    found = predict_variants(network, variables, variants, batch, SIZE)
    assert found.labels.shape == found.loss.shape == (len(variants), COUNT)
    assert found.labels.dtype == np.int32
    for variant, labels, loss in zip(variants, *found, strict=True):
        expected, expected_loss = alone(problem, variant)
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-4, atol=1e-5)


def test_variants_differ(problem):
    """Else the test above could not fail."""
    network, variables, batch = problem
    loss = predict_variants(network, variables, draw_variants(problem, "nested"), batch, SIZE).loss
    assert len(np.unique(loss.mean(1).round(5))) == len(loss)


@pytest.mark.parametrize("size", [2, 5, 10, 256])
def test_any_batch_size(problem, size):
    """The variables' own masks count; batches larger than the set, dividing it or not, change nothing."""
    network, variables, batch = problem
    variant = draw_variants(problem, "one")[0]
    found = predict(network, masks.apply_filters(variables, variant), batch, size)
    expected, loss = alone(problem, variant)
    np.testing.assert_array_equal(found.labels, expected[None])
    np.testing.assert_allclose(found.loss, loss[None], rtol=1e-4, atol=1e-5)


def test_one_compilation_a_distinct_segment_whatever_the_variants_and_batches():
    network = network_of("resnet18", num_classes=6)
    variables = from_state_dict(network, state_of(build_random("resnet18", num_classes=6)))
    like = masks.filters(variables["masks"])
    compiled = count_compiled(module._run_segment)
    for count, pruned in [(10, [[]]), (20, [[], [0], [5, 9], [299]]), (11, [[i] for i in range(0, 300, 40)])]:
        batch = Batch(images_for("resnet18", count), np.zeros(count, np.int32))
        predict_variants(network, variables, [masks.keep(like, row) for row in pruned], batch, 9)
        # stem; two equal blocks of the first stage; in each later stage one that halves and one that does not; head
        assert count_compiled(module._run_segment) - compiled == 9
    equal = network_of("resnet18", num_classes=6)
    assert equal is not network
    predict(equal, variables, batch, 9)
    assert count_compiled(module._run_segment) - compiled == 9


def test_only_segments_from_the_first_change_on_are_run(problem, monkeypatch):
    network, variables, batch = problem
    like = masks.filters(variables["masks"])
    ran = []
    run_segment = module._run_segment
    monkeypatch.setattr(module, "_run_segment", lambda run, *args: ran.append(run.network) or run_segment(run, *args))
    last = sum(len(mask) for mask in like.values()) - 1
    predict_variants(network, variables, [masks.keep(like, row) for row in ([], [last], [last])], batch, COUNT)
    whole, tail = len(network.segments), 2  # the last maskable segment and the head
    assert len(ran) == whole + tail
    assert ran.count(network) == 1  # images are normalised once


@pytest.mark.parametrize(("count", "variants"), [(0, 1), (COUNT, 0)])
def test_nothing_to_evaluate(problem, count, variants):
    network, variables, batch = problem
    chosen = draw_variants(problem, "one") * variants
    with pytest.raises(DataError, match=f"{variants} variants on {count} images"):
        predict_variants(network, variables, chosen, Batch(batch.images[:count], batch.labels[:count]))


def test_device_arrays_are_taken_too(problem):
    network, variables, batch = problem
    found = predict(network, variables, Batch(*map(jnp.asarray, batch)), SIZE)
    np.testing.assert_array_equal(found.labels, predict(network, variables, batch, SIZE).labels)


def test_a_cpu_is_given_small_batches(problem, monkeypatch):
    assert jax.default_backend() == "cpu"
    assert default_batch_size() == 64
    network, variables, batch = problem
    sizes = []
    run_segment = module._run_segment
    monkeypatch.setattr(module, "_run_segment", lambda run, own, x: sizes.append(len(x)) or run_segment(run, own, x))
    many = Batch(*(np.resize(part, (70, *part.shape[1:])) for part in batch))
    assert predict(network, variables, many).labels.shape == (1, 70)
    assert set(sizes) == {64}


def test_small_sets_share_programs():
    """Sets of 33 to 64 images make one batch of 64, and larger ones as many of those as they need."""
    network = network_of("mlp", num_classes=4)
    variables = from_state_dict(network, state_of(build_random("mlp", num_classes=4)))
    compiled = [count_compiled(module._run_segment)]
    for count in (40, 33, 64, 90, 200):
        batch = Batch(images_for("mlp", count), np.zeros(count, np.int32))
        assert predict(network, variables, batch).labels.shape == (1, count)
        compiled.append(count_compiled(module._run_segment))
    assert compiled[0] < compiled[1], "the last layer is no other test's"
    assert len(set(compiled[1:])) == 1


@pytest.mark.parametrize(
    ("count", "batch_size", "expected"),
    [(1, 64, 1), (2, 64, 2), (3, 64, 4), (90, 1000, 128), (100, 1000, 128), (700, 1000, 1000), (5000, 1000, 1000)],
)
def test_a_batch_is_a_power_of_two_or_what_was_asked_for(count, batch_size, expected):
    assert fit_batch_size(count, batch_size) == expected


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("predict")}


def test_threads_are_kept_and_only_started_for_several_batches(problem):
    network, variables, batch = problem
    before = threads()
    predict(network, variables, batch, COUNT)
    assert threads() == before
    predict(network, variables, batch, 2)
    started = threads()
    assert started
    predict(network, variables, batch, 2)
    assert started <= threads()
    assert len(threads()) <= module._WORKERS

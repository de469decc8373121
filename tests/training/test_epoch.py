import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.training.epoch import batch_metrics, cross_entropy, run_epoch
from rnp_jax.types import Batch


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
def test_cross_entropy_is_torch_s(smoothing):
    logits = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32) * 30
    labels = np.array([0, 1, 2, 3, 3, 0], np.int32)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels).long(), reduction="none", label_smoothing=smoothing
    )
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_batch_metrics_are_sums():
    logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    labels = jnp.array([0, 0, 0])
    metrics = batch_metrics(logits, labels)
    assert metrics["accuracy"] == 2
    np.testing.assert_allclose(metrics["loss"], cross_entropy(logits, labels).sum(), rtol=1e-6)


def visit(count: int, batch_size: int, seed: int = 0, **options) -> tuple[np.ndarray, dict, np.ndarray]:
    """In which step each image was seen (0: never), the metrics, and each step's key bits."""
    data = Batch(jnp.arange(count, dtype=jnp.float32), jnp.arange(count))

    def step(carry, batch: Batch, key: jax.Array):
        seen, number, bits = carry
        seen = seen.at[batch.labels].add(number)
        bits = bits.at[number - 1].set(jax.random.bits(key))
        return (seen, number + 1, bits), {"mean": batch.images.sum(), "one": jnp.float32(len(batch.labels))}

    carry = (jnp.zeros(count, jnp.int32), jnp.int32(1), jnp.zeros(count + 1, jnp.uint32))
    (seen, number, bits), metrics = run_epoch(step, carry, data, jax.random.key(seed), batch_size=batch_size, **options)
    return np.asarray(seen), metrics, np.asarray(bits)[: int(number) - 1]


@pytest.mark.parametrize(
    ("count", "batch_size", "shuffle", "remainder"),
    [(6, 3, True, True), (7, 3, True, True), (7, 3, True, False), (8, 3, False, True), (8, 3, False, False)],
)
def test_every_image_is_seen_once_but_for_a_remainder_left_out(count, batch_size, shuffle, remainder):
    seen, metrics, bits = visit(count, batch_size, shuffle=shuffle, remainder=remainder)
    full, rest = divmod(count, batch_size)
    sizes = [batch_size] * full + ([rest] if remainder and rest else [])
    assert sorted(np.bincount(seen[seen > 0])[1:].tolist(), reverse=True) == sizes
    assert (seen == 0).sum() == count - sum(sizes)
    assert metrics["one"] == pytest.approx(1)
    assert metrics["mean"] == pytest.approx(np.flatnonzero(seen).mean(), rel=1e-5)
    assert len(set(bits.tolist())) == len(sizes)  # every step has a key of its own
    if not shuffle:
        assert seen[: sum(sizes)].tolist() == np.repeat(np.arange(1, len(sizes) + 1), sizes).tolist()


def test_order_follows_the_key():
    first, again, other = (visit(16, 4, seed)[0] for seed in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    assert first.tolist() != visit(16, 4, shuffle=False)[0].tolist()


def test_fewer_images_than_a_batch_are_one_batch():
    seen, metrics, _ = visit(3, 8)
    assert seen.tolist() == [1, 1, 1]
    assert metrics["mean"] == 1

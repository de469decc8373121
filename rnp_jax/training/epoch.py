"""One pass over a data set inside a compiled program: shuffling, steps and the mean of their metrics."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rnp_jax.errors import ConfigError
from rnp_jax.traced import is_off

Carry = TypeVar("Carry")


class Rows(Protocol):
    """A named tuple of arrays with one row an image, such as a ``Batch``."""

    @property
    def images(self) -> Any:
        """uint8 [N, H, W, C]."""
        ...

    @property
    def labels(self) -> Any:
        """int32 [N]."""
        ...


Data = TypeVar("Data", bound=Rows)


class Marked(NamedTuple):
    """Images, their labels, and which of them are poisoned."""

    images: Any  # uint8 [N, H, W, C]
    labels: Any  # int32 [N]
    marks: Any  # bool [N]


class Augment(Protocol):
    """A pure, hashable augmentation of a batch of images."""

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Augmented images, of the same shape."""
        ...

    def __hash__(self) -> int: ...


def cross_entropy(logits: Float[Array, "B K"], labels: Int[Array, "B"], smoothing: float = 0.0) -> Float[Array, "B"]:
    """Cross-entropy of each image; of a label, ``smoothing`` is spread over all classes, as torch does."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if is_off(smoothing):
        return loss
    return (1 - smoothing) * loss - smoothing * jax.nn.log_softmax(logits).mean(-1)


def batch_metrics(logits: Float[Array, "B K"], labels: Int[Array, "B"]) -> dict[str, jax.Array]:
    """Sums over a batch, which ``run_epoch`` turns into means over the set."""
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    return {"loss": cross_entropy(logits, labels).sum(), "accuracy": correct.sum()}


def check_batch(count: int, batch_size: int) -> None:
    """Requires one whole batch at least.

    Raises:
      ConfigError: ``count`` images are fewer.
    """
    if count < batch_size:
        raise ConfigError(f"batch_size {batch_size} exceeds the {count} training images: choose a smaller one")


def run_epoch(
    step: Callable[[Carry, Data, jax.Array], tuple[Carry, dict[str, jax.Array]]],
    carry: Carry,
    data: Data,
    key: jax.Array,
    *,
    batch_size: int,
    shuffle: bool = True,
    remainder: bool = True,
) -> tuple[Carry, dict[str, jax.Array]]:
    """Runs ``step`` over the set once and averages its metrics over the images seen.

    The images left over by the last full batch form a smaller batch of their own (padding it would change batch-norm
    statistics), or are left out where ``remainder`` is False. To be traced inside ``jit``.
    """
    count = data.labels.shape[0]
    order_key, step_key = jax.random.split(key)
    order = jax.random.permutation(order_key, count) if shuffle else jnp.arange(count)
    full = count // batch_size

    def body(carry: Carry, inputs: tuple[jax.Array, jax.Array]) -> tuple[Carry, dict[str, jax.Array]]:
        index, key = inputs
        return step(carry, jax.tree.map(lambda rows: rows[index], data), key)

    batches = order[: full * batch_size].reshape(full, batch_size)
    carry, stacked = jax.lax.scan(body, carry, (batches, jax.random.split(step_key, full)))
    sums, seen = jax.tree.map(lambda values: values.sum(0), stacked), full * batch_size
    if remainder and seen < count:
        carry, last = body(carry, (order[seen:], jax.random.fold_in(step_key, full)))
        sums, seen = jax.tree.map(jnp.add, sums, last), count
    return carry, jax.tree.map(lambda total: total / seen, sums)

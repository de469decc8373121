"""FMP: filters whose adversarial inputs mislead the network are set to zero, then all weights are tuned (ICLR 2024).

Adversarial Feature Map Pruning (Huang and Bu) judges filter k of layer l by the images that change its feature map:

    x₀ = x + s · (±1 for each value, at random),    x' = clip(x₀ + ε sign ∇ MSE(F_k(x), F_k(x₀)), 0, 1)

The score of the filter is the accuracy of the whole network, in evaluation mode, on the images x'. In each layer of C
filters, the ⌊C / p⌋ with the lowest scores are set to zero: their weights and the scale of the batch norm that follows
them. This happens once: nothing is masked, and they may grow again while all weights are tuned.

As the release does: one step, on 32 images; p = 64, so layers of fewer than 64 filters lose none; tuning by SGD at 0.01
with momentum 0.9 and no weight decay, along a cosine. The last state is kept.

The release comes without its configuration, so three constants are this project's: ε = 8/255, the common radius for
images of this kind; s = 1/255, since the first step only has to leave the point where the slope is zero; and 100 epochs
in batches of 256, as in fine-tuning.

What differs from the release:

- It draws 32 images anew for every filter. Here all filters see the same images and the same x₀, so that scores differ
  by the filters alone, and without a step all scores are equal.
- It normalises images twice before it moves and clips them. Here ε and s are in pixels of [0, 1].
- It matches scores with layers by their order, which is wrong in some blocks. Here scores have the layer's name.
- A batch norm that normalises the sum of several layers keeps its scale. The filter's bias, if any, becomes zero too.
- The cosine falls to 0 instead of 1e-4.
- Features, which are not pixels, are not clipped. In a network without convolutions, hidden units count as filters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rnp_jax.defenses.finetune import FinetuneConfig, start_finetuning
from rnp_jax.defenses.kernels import filter_kernels, with_leaves
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.site_maps import find
from rnp_jax.defenses.tuning import begin, conclude, tune
from rnp_jax.errors import ConfigError
from rnp_jax.fetching import fetch_late
from rnp_jax.inversion.stamps import scale
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Batch, Progress, Variables

_AT_ONCE = 64  # filters that one call of the compiled program scores


def benchmark_settings() -> FinetuneConfig:
    """Fine-tuning as the release does it, as long as BackdoorBench does."""
    return FinetuneConfig(epochs=100, batch_size=256, weight_decay=0.0, schedule="cosine")


@dataclass(frozen=True)
class FmpConfig:
    """Settings of FMP.

    Attributes:
      images: number of clean images on which filters are scored.
      radius: size ε of the step in each pixel, for pixels in [0, 1].
      start: size s of the random change before it.
      divisor: number p; of C filters of a layer, C / p are set to zero, rounded down.
      finetune: settings of the tuning that follows.
    """

    images: int = 32
    radius: float = 8 / 255
    start: float = 1 / 255
    divisor: int = 64
    finetune: FinetuneConfig = field(default_factory=benchmark_settings)

    def __post_init__(self):
        if min(self.images, self.divisor) < 1 or not min(self.radius, self.start) >= 0:
            raise ConfigError(f"{self}: expected images and divisor >= 1, and radius and start >= 0")


def run_fmp(task: Task, config: FmpConfig) -> Defended:
    """Scores the filters, sets the lowest of each layer to zero, and tunes all weights.

    Raises:
      DefenseError: the network has no filters, or the loss became infinite or not a number.
    """
    begun = begin("original", task, RnpConfig())
    score_key, tune_key = jax.random.split(task.key)
    given = (task.network, task.variables, task.data, score_key, config)
    scores = task.do("score", score_filters, *given, progress=task.progress)
    lowest = {name: np.argsort(row, kind="stable")[: len(row) // config.divisor] for name, row in scores.items()}
    start = zero_filters(task.network, task.variables, lowest)
    count = sum(map(len, lowest.values()))
    if count == 0:
        task.warn(f"No filter was set to zero: no layer has {config.divisor} filters or more, as divisor demands.")
    rule = (
        f"{count} filters, 1 in {config.divisor} of each layer, are set to zero: those whose adversarial images "
        "mislead the network most. Then all weights are tuned, with settings fixed beforehand."
    )
    phase = start_finetuning(task.network, config.finetune, task.augment)
    tuned = tune(task, phase, start, start["masks"], tune_key)
    return conclude(task, replace(begun, choice=begun.choice.model_copy(update={"rule": rule})), tuned)


def score_filters(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: FmpConfig,
    *,
    progress: Progress | None = None,
) -> dict[str, Float[np.ndarray, "F"]]:
    """Accuracy on the images that change each filter's feature map, for every layer that would lose a filter.

    Raises:
      DefenseError: the network has no filters.
    """
    kernels = filter_kernels(network, variables)
    sizes = {name: kernel.shape[-1] for name, kernel in kernels.items() if kernel.shape[-1] >= config.divisor}
    if not sizes:
        return {}
    draw_key, start_key = jax.random.split(key)
    drawn = np.asarray(jax.random.permutation(draw_key, len(data.labels)))[: config.images]
    batch = Batch(*(jax.device_put(np.asarray(part)[drawn]) for part in data))
    start = config.start * jax.random.rademacher(start_key, batch.images.shape, jnp.float32)
    total, found = sum(sizes.values()), []
    radius = jnp.float32(config.radius)
    scores = (
        _score(network, tuple(sizes), variables, batch, start, radius, jnp.int32(first))
        for first in range(0, total, _AT_ONCE)
    )
    for row in fetch_late(scores, watched=progress is not None):
        found.append(row)
        if progress is not None:
            progress("score", min(len(found) * _AT_ONCE, total), total, {"accuracy": float(row.mean())})
    row = np.concatenate(found)[:total]
    return dict(zip(sizes, np.split(row, np.cumsum([*sizes.values()])[:-1]), strict=True))


@jit_settings(1, static=1)
def _score(
    network: Network,
    layers: tuple[str, ...],
    variables: Variables,
    batch: Batch,
    start: Float[Array, "B H W C"],
    radius: Float[Array, ""],
    first: Int[Array, ""],
) -> Float[Array, "F"]:
    """Scores of some filters, from number ``first`` of all layers on; they mean nothing beyond the last filter."""
    images = scale(batch.images)
    moved = images + start
    slope = feature_slopes(network, layers, variables, images, moved)

    def score(number: jax.Array) -> jax.Array:
        adversarial = moved + radius * jnp.sign(slope(number))
        if batch.images.dtype == jnp.uint8:
            adversarial = adversarial.clip(0, 1)
        return (network(variables, adversarial)[0].argmax(-1) == batch.labels).astype(jnp.float32).mean()

    return jax.lax.map(score, first + jnp.arange(_AT_ONCE))


def feature_slopes(
    network: Network,
    layers: tuple[str, ...],
    variables: Variables,
    images: Float[Array, "B H W C"],
    moved: Float[Array, "B H W C"],
) -> Callable[[Int[Array, ""]], Float[Array, "B H W C"]]:
    """By number of a filter, counted over the layers: the gradient of ½ ‖F_k(images) − F_k(moved)‖² at ``moved``."""

    def feature_maps(images: jax.Array) -> dict[str, jax.Array]:
        outputs = network.activations(variables, images)
        return {layer: outputs[layer].astype(jnp.float32) for layer in layers}

    before = feature_maps(images)
    after, pull = jax.vjp(feature_maps, moved)

    def slope(number: jax.Array) -> jax.Array:
        changes, offset = {}, 0
        for layer in layers:
            change = after[layer] - before[layer]
            size = change.shape[-1]
            own = (jnp.arange(offset, offset + size) == number).astype(jnp.float32)
            changes[layer] = change * own.reshape((1,) * (change.ndim - 1) + (size,))
            offset += size
        return pull(changes)[0]

    return slope


def zero_filters(network: Network, variables: Variables, filters: Mapping[str, Int[np.ndarray, "n"]]) -> Variables:
    """The network with these filters of each layer at zero, and the scale of the batch norm that normalises them."""
    params = variables["params"]
    norms = {site.producers[0]: site.layer for site in network.sites if len(site.producers) == 1}
    leaves = {}
    for layer, chosen in filters.items():
        leaves[layer] = {name: leaf.at[..., chosen].set(0) for name, leaf in find(params, layer).items()}
        norm = norms.get(layer, layer)
        if norm != layer:
            leaves[norm] = {"scale": find(params, norm)["scale"].at[chosen].set(0)}
    return {**variables, "params": with_leaves(params, leaves)}


fmp = Method(
    name="fmp",
    title="FMP",
    summary="Adversarial Feature Map Pruning: set to zero the filters whose adversarial inputs mislead most, then tune",
    basis="The filters whose feature maps, changed by adversarial images, mislead the network most are set to zero, "
    "and all weights are then trained on the clean images (Adversarial Feature Map Pruning, ICLR 2024).",
    run=run_fmp,
    defaults=FmpConfig(),
    changes="weights",
    augments=True,
    colour="#2e7d32",
    marker=(4, 1, 45),
)

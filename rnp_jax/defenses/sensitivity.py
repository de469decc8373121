"""Hölder constants of single neurons and channels, estimated on given inputs.

For neuron k with response f_k, exponent α and inputs X: the largest |f_k(x + δ) − f_k(x)| / ‖δ‖_p^α over x in X and
0 < ‖δ‖_p ≤ r ("Hölder Pruning", submitted to ICLR 2025; its text is not public, so everything but α = 0.5 and the use
of the fast gradient sign method is decided here). For α < 1 a largest radius r is needed: without one a linear unit's
constant is infinite. With ONE radius, α multiplies every score by one number and changes no ranking, hence several.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnp_jax import masks
from rnp_jax.defenses.probes import Norm, Steps
from rnp_jax.defenses.site_inputs import ORDERS, SiteInputs, check_images, no_variation
from rnp_jax.defenses.site_maps import (
    Response,
    Scope,
    SiteMap,
    is_exactly_affine,
    outgoing_norms,
    plan,
    prepare,
    probe_site,
    unnormalized,
)
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.fetching import fetch_late
from rnp_jax.models import Network
from rnp_jax.types import Variables

Reduction = Literal["max", "mean", "quantile"]
Images: TypeAlias = np.ndarray | jax.Array

_MEMORY_MB = 64  # on a device that does not say how much it has, such as a CPU, whose caches hold no more
_SHARE = 16  # of a device's memory, one part in so many
_SAMPLES = 64  # of a chunk for every 64 MiB, where they fit
_FLOATS = 4  # live at once, for each value of a perturbed input and of the widest activation


@dataclass(frozen=True)
class HolderConfig:
    """How a neuron's Hölder constant is estimated.

    Attributes:
      alpha: exponent α, in (0, 1]; 1 gives Lipschitz constants.
      norm: order p of the norm ‖δ‖_p.
      radii: lengths of the perturbations; each is tried in both directions.
      relative: measure radii in standard deviations of the inputs: r means r·‖s‖_p, where s holds the standard
        deviations of the input's values over the given samples. A step that moves every value by r standard deviations
        has this length. Otherwise radii are in units of the input (normalised pixels, or features).
      scope: what is perturbed: ``feature`` is the network's normalised input, ``local`` is the input of the neuron's
        own layer. A neuron behind a ReLU that is inactive on every sample looks constant in ``feature``, but not in
        ``local``. On whole convolutional networks, ``feature`` runs the network 2 + 2·len(radii) times for each channel
        and sample; ``local`` runs it twice for each sample. By default ``feature`` for heads and ``local`` for all
        other networks.
      reduction: how the estimates of all samples are combined.
      quantile: quantile that the reduction ``quantile`` takes, in [0, 1].
      response: how the positions of a channel are combined, after the ReLU if the channel has one of its own.
      rescale: multiply by the norm of the weights that read the neuron. This counters an attacker who divides a unit's
        input weights and multiplies its output weights by the same number, which does not change the network's
        function.
      memory_mb: approximate memory for intermediate values, in MiB; by default 64 on a CPU and a sixteenth of an
        accelerator's memory. The constants of all samples, N·F floats per layer, come on top.
    """

    alpha: float = 0.5
    norm: Norm = "2"
    radii: tuple[float, ...] = (0.05, 0.1, 0.2)
    relative: bool = True
    scope: Scope | None = None
    reduction: Reduction = "max"
    quantile: float = 0.95
    response: Response = "mean"
    rescale: bool = False
    memory_mb: int | None = None

    def __post_init__(self):
        choices = (("norm", Norm), ("reduction", Reduction), ("response", Response))
        for name, allowed in choices:
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(f"{name} {getattr(self, name)!r}: choose one of {', '.join(get_args(allowed))}")
        if self.scope not in (None, *get_args(Scope)):
            raise ConfigError(f"scope {self.scope!r}: choose one of {', '.join(get_args(Scope))}, or None")
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"alpha {self.alpha}: expected above 0 and at most 1; 1 gives Lipschitz constants")
        if not self.radii or not all(math.isfinite(radius) and radius > 0 for radius in self.radii):
            raise ConfigError(f"radii {self.radii}: expected one or more numbers above 0, such as (0.05, 0.1, 0.2)")
        if not 0 <= self.quantile <= 1:
            raise ConfigError(f"quantile {self.quantile}: expected a number in [0, 1]; 0.5 is the median")
        if self.memory_mb is not None and self.memory_mb < 1:
            raise ConfigError(f"memory_mb {self.memory_mb}: expected 1 or more")


def holder_scores(
    network: Network,
    variables: Variables,
    inputs: Images,
    config: HolderConfig,
    *,
    layers: Sequence[str] | None = None,
) -> dict[str, Float[np.ndarray, "F"]]:
    """Estimated Hölder constants of every neuron at the network's sites: lower bounds of the true ones.

    Args:
      network: the function of the variables.
      variables: its weights; filter masks count as part of them.
      inputs: uint8 or float images [N, H, W, C] (a head's are its features [N, 1, 1, D]).
      config: what is measured.
      layers: the sites to score, by name; all of them by default.

    Returns:
      Scores by the site's layer name, in forward order.

    Raises:
      ConfigError: a layer that is no site.
      DataError: inputs of another shape than the network's, none, or values that are not finite.
      DefenseError: no site, inputs that do not vary (relative radii), weights that give no finite scores, or
        ``rescale`` for a channel that something else than one convolution reads.
    """
    maps, reads = _begin(network, variables, inputs, config, layers)
    steps, shapes = _steps(reads, config), reads.shapes()
    chunk = {layer: _neurons(reach, arrays, shapes[reach.source], config) for layer, (reach, arrays) in maps.items()}
    prepared = {
        layer: prepare(reach, arrays, shapes[reach.source], config.norm, chunk[layer])
        for layer, (reach, arrays) in maps.items()
    }

    def probe(read: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {
            layer: probe_site(
                reach, prepared[layer], read[reach.source], steps[reach.source], config.norm, chunk[layer]
            )
            for layer, (reach, _) in maps.items()
        }

    rows = list(fetch_late((count, probe(read)) for count, read in reads.chunks()))
    scores = {
        layer: _reduced(np.concatenate([found[layer][:count] for count, found in rows]), config) for layer in maps
    }
    return _finished(reads, scores, config)


def pair_scores(
    network: Network,
    variables: Variables,
    inputs: Images,
    config: HolderConfig,
    *,
    layers: Sequence[str] | None = None,
) -> dict[str, Float[np.ndarray, "F"]]:
    """Hölder quotients |f(x_i) − f(x_j)| / ‖x_i − x_j‖_p^α between the inputs themselves, reduced over their pairs.

    Nothing is perturbed, so the configured radii play no part, and distances vary enough for α to matter. Equal inputs
    form no pair. Takes N·D floats for the largest source, and N² for the pairs.

    Args, Returns and Raises are those of ``holder_scores``; all inputs equal is a DefenseError.
    """
    maps, reads = _begin(network, variables, inputs, config, layers)

    def respond(read: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {layer: _respond(reach, arrays, read[reach.source]) for layer, (reach, arrays) in maps.items()}

    rows = list(fetch_late((count, read, respond(read)) for count, read in reads.chunks()))
    points = {
        source: np.concatenate([read[source][:count].reshape(count, -1) for count, read, _ in rows])
        for source in reads.sources
    }
    distances = {source: _distances(found, config.norm) for source, found in points.items()}
    scores = {}
    for layer, (reach, _) in maps.items():
        if not distances[reach.source].any():
            raise no_variation(reach.source, "no two of them form a pair; score samples that differ")
        answers = np.concatenate([found[layer][:count] for count, _, found in rows])
        scores[layer] = _quotients(answers, distances[reach.source], config)
    return _finished(reads, scores, config)


def _begin(
    network: Network, variables: Variables, inputs: Images, config: HolderConfig, layers: Sequence[str] | None
) -> tuple[dict[str, tuple[SiteMap, Any]], SiteInputs]:
    """How each site is reached, and the samples at their sources."""
    sites = {site.layer: site for site in network.sites}
    if not sites:
        raise DefenseError(
            f"{network.architecture.name} has no hidden layer or batch norm to score; give it a hidden layer"
        )
    unknown = [layer for layer in layers or () if layer not in sites]
    if unknown or (layers is not None and not layers):
        raise ConfigError(f"layers {unknown or list(layers or ())}: expected some of {', '.join(sites)}")
    inputs = check_images(network, inputs)
    variables = masks.bake(variables, network.placement)
    chosen = [site for layer, site in sites.items() if layers is None or layer in layers]
    scope = config.scope or ("feature" if network.architecture.name == "mlp" else "local")
    maps = {site.layer: plan(network, variables, site, scope, config.response) for site in chosen}
    sources = tuple(dict.fromkeys(reach.source for reach, _ in maps.values()))
    image = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    values = sum(leaf.size for leaf in jax.eval_shape(network.activations, variables, image).values())
    budget = _memory_mb(config)
    fitting = budget * 2**20 // (4 * _FLOATS * (values + image.size))
    most = _SAMPLES * max(1, budget // _MEMORY_MB)
    return maps, SiteInputs(network, variables, inputs, sources, max(1, min(most, len(inputs), fitting)))


def _memory_mb(config: HolderConfig) -> int:
    if config.memory_mb is not None:
        return config.memory_mb
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    return max(_MEMORY_MB, limit // (_SHARE * 2**20))


@partial(jax.jit, static_argnums=0)
def _respond(reach: SiteMap, arrays: Any, u: Float[Array, "B ..."]) -> Float[Array, "B F"]:
    return reach.respond(arrays, u)


def _neurons(reach: SiteMap, arrays: Any, u: jax.ShapeDtypeStruct, config: HolderConfig) -> int:
    """How many neurons the memory budget allows at a time."""
    if reach.network is not None:
        activations = jax.eval_shape(reach.network.activations, arrays, u).values()
    elif reach.kind == "layers":
        activations = [jax.ShapeDtypeStruct((u.shape[0], *bias.shape), u.dtype) for _, bias in arrays]
    else:
        activations = [jax.eval_shape(reach.z, arrays, u)]
    values = u.size + max(leaf.size for leaf in activations)
    values = values // u.shape[0] if is_exactly_affine(reach, u) else values  # of which one sample is enough
    return max(1, _memory_mb(config) * 2**20 // (4 * _FLOATS * values))


def _steps(reads: SiteInputs, config: HolderConfig) -> dict[str, Steps]:
    """Steps by source, in units of its input."""
    units = reads.spread(config.norm) if config.relative else dict.fromkeys(reads.sources, 1.0)
    radii = np.repeat(np.array(config.radii), 2)
    signs = np.resize([1, -1], len(radii))
    return {
        source: Steps(
            *jax.device_put(tuple(np.float32(each) for each in (unit * radii * signs, (unit * radii) ** config.alpha)))
        )
        for source, unit in units.items()
    }


def _distances(points: Float[np.ndarray, "N D"], norm: Norm) -> Float[np.ndarray, "P"]:
    """‖x_i − x_j‖_p of the pairs i < j, by rows."""
    rows = (np.linalg.norm(points[i + 1 :] - points[i], ORDERS[norm], axis=1) for i in range(len(points) - 1))
    return np.concatenate([np.zeros(0, points.dtype), *rows])


def _quotients(
    answers: Float[np.ndarray, "N F"], distances: Float[np.ndarray, "P"], config: HolderConfig
) -> Float[np.ndarray, "F"]:
    first, second = (places[distances > 0] for places in np.triu_indices(len(answers), 1))
    divisors = distances[distances > 0, None] ** config.alpha
    width = max(1, _memory_mb(config) * 2**20 // (4 * _FLOATS * len(divisors)))
    columns = (answers[:, begin : begin + width] for begin in range(0, answers.shape[1], width))
    return np.concatenate([_reduced(np.abs(each[first] - each[second]) / divisors, config) for each in columns])


def _reduced(rows: Float[np.ndarray, "N F"], config: HolderConfig) -> Float[np.ndarray, "F"]:
    if config.reduction == "quantile":
        return np.quantile(rows, config.quantile, axis=0)
    return rows.max(0) if config.reduction == "max" else rows.mean(0)


def _finished(reads: SiteInputs, scores: dict[str, np.ndarray], config: HolderConfig) -> dict[str, np.ndarray]:
    """Scores that are finite, times the outgoing weights where asked for."""
    network = reads.network
    for site in network.sites:
        if site.layer not in scores:
            continue
        if config.rescale:
            image = network.normalize(jnp.asarray(reads.images[:1]))
            norms = outgoing_norms(unnormalized(network), reads.variables, site, image)
            scores[site.layer] = scores[site.layer] * np.asarray(norms)
        if not np.isfinite(scores[site.layer]).all():
            raise DefenseError(
                f"{site.layer} has scores that are not finite: check its weights, and that the normalisation matches "
                "the checkpoint"
            )
    return scores

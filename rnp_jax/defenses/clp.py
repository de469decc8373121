"""Channel Lipschitzness-based Pruning, which needs no data (Zheng et al., ECCV 2022).

A channel's score bounds its Lipschitz constant: the largest singular value of its kernel, reshaped to (C_in, h·w),
times |γ / √var| of the batch norm that follows. Pruned are scores above mean + u·std of their layer.

What differs from the released code:

- It pairs convolutions and batch norms by their order, which pairs the wrong ones where batch norm comes first. Here
  each batch norm knows what it normalises; where that is a residual sum of several convolutions (PreActResNet), their
  singular values are added, an upper bound of the sum's; a concatenation (DenseNet) counts as 1, which leaves the
  batch norm's own bound.
- It leaves out linear layers. Here a hidden linear unit has the score ‖w_k‖₂, to which the bound reduces.
- It sets γ and β to 0. Here a pruned channel's filter mask becomes 0, wherever the network's placement has it: that is
  γ alone by default, and exactly the released pruning in the placement ``channel``.
- A running variance of 0 makes its whole layer's threshold undefined; here it counts as the batch norm's ε, by which
  the network itself divides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.scores import chooses_by_score, prune_by_site_scores
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.errors import DefenseError
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Tree, Variables


@dataclass(frozen=True)
class ClpConfig:
    """Settings of CLP; the defaults are the release's."""

    threshold: ThresholdConfig = field(default_factory=lambda: ThresholdConfig("std", u=3.0))


def run_clp(task: Task, config: ClpConfig) -> Defended:
    """Prunes without any data; held-out images are needed by the threshold rule ``budget`` only.

    Raises:
      ConfigError: the rule is ``budget`` and nothing is held out, or prunes more filters than a layer has.
      DefenseError: weights that are not finite, or a network with nothing to mask.
    """
    return prune_by_site_scores(task, lambda: clp_scores(task.network, task.variables), config.threshold)


def clp_scores(network: Network, variables: Variables) -> dict[str, Float[np.ndarray, "F"]]:
    """Lipschitz bounds of the channels or units of every site, by its layer. Filter masks are left out of account.

    Raises:
      DefenseError: no site is a batch norm.
    """
    stats = _by_layer(variables["batch_stats"])
    if network.architecture.name != "mlp" and not any(site.layer in stats for site in network.sites):
        raise DefenseError(
            f"{network.architecture.name} in placement {network.placement} has no batch norm at its filters: CLP "
            "scores channels with batch norm, or the units of an mlp; choose rnp, anp, holder or fp"
        )
    return dict(jax.device_get(lipschitz_bounds(network, variables, channel_norms)))


def lipschitz_bounds(
    network: Network, variables: Variables, norms: Callable[[Float[Array, "... C F"]], Float[Array, "F"]]
) -> dict[str, Float[Array, "F"]]:
    """The bound of every site, by its layer, with ``norms`` for the largest singular values of a kernel's channels."""
    params = _by_layer(variables["params"])
    producers = dict.fromkeys(name for site in network.sites for name in site.producers)
    return _multiply(network, {name: norms(params[name]["kernel"]) for name in producers}, variables)


@jit_settings()
def _multiply(network: Network, spectral: Mapping[str, Array], variables: Variables) -> dict[str, Float[Array, "F"]]:
    """Each site's singular values times the gain of its batch norm."""
    params, stats = _by_layer(variables["params"]), _by_layer(variables["batch_stats"])
    bounds = {}
    for site in network.sites:
        bound = sum((spectral[name] for name in site.producers), jnp.float32(0)) if site.producers else jnp.float32(1)
        if site.layer in stats:
            bound = bound * _gain(params[site.layer], stats[site.layer], network.layers[site.layer].eps)
        bounds[site.layer] = bound
    return bounds


@jax.jit
def channel_norms(kernel: Float[Array, "... C F"]) -> Float[Array, "F"]:
    """Largest singular value of each output channel's kernel as a matrix (C, h·w); ‖w‖₂ of each linear unit [C, F]."""
    matrices = jnp.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1, kernel.shape[-2])  # [F, h·w, C]
    # Scaled first: squares of float32 overflow from 1e19 on, and underflow below 1e-19.
    largest = jnp.abs(matrices).max((1, 2), keepdims=True)
    scaled = matrices / jnp.where(largest > 0, largest, 1)
    gram = jnp.einsum("fpc,fqc->fpq", scaled, scaled, precision=jax.lax.Precision.HIGHEST)  # h·w is 9 or 1
    if gram.shape[-1] > matrices.shape[-1]:
        gram = jnp.einsum("fpc,fpd->fcd", scaled, scaled, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(jnp.linalg.eigvalsh(gram)[:, -1].clip(0)) * largest[:, 0, 0]


def _gain(params: Tree, stats: Tree, eps: float) -> Float[Array, "F"]:
    """|γ / √var|, without ε."""
    return jnp.abs(params["scale"]) / jnp.sqrt(jnp.where(stats["var"] > 0, stats["var"], eps))


def _by_layer(tree: Tree) -> Mapping[str, Tree]:
    """A tree's leaves by the full name of their layer."""
    found: dict[str, Tree] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *names, last = (str(entry.key) for entry in path)
        found.setdefault(".".join(names), {})[last] = leaf
    return found


clp = Method(
    name="clp",
    title="CLP",
    summary="Channel Lipschitzness based Pruning; it needs no images",
    basis="The score of a filter is the largest singular value of its weights, times the scale of its batch norm: an "
    "upper bound on its Lipschitz constant that needs no data (Channel Lipschitzness based Pruning, ECCV 2022).",
    run=run_clp,
    defaults=ClpConfig(),
    needs="none",
    chooses=lambda config: chooses_by_score(config.threshold),
    colour="#0072b2",
    marker="s",
)

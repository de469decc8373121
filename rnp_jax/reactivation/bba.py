"""BBA, black-box re-activation: a perturbation on top of the trigger, found by asking alone (Zhu, Liang and Wu, NeurIPS
2024, by the Square attack of Andriushchenko et al., ECCV 2020).

One perturbation of ±ε a pixel is kept for a batch of triggered images. Each query tries another one, in which a random
square has one new sign a channel, and keeps it if the cross-entropy of the label that the attacker wants, summed over
the batch, is lower. The square covers a share p of the image, which is halved on the attack's own schedule. It ends
with the queries, or once 99 % of the batch are turned. A query is one answer to the whole batch.

The release takes its first perturbation from normalised pixels of one image. Here it is the Square attack's own:
stripes, each column of a channel with a random sign.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnp_jax.errors import ConfigError
from rnp_jax.inversion.perturbations import perturb
from rnp_jax.models import Network
from rnp_jax.reactivation.attempt import Attempt, Outcome
from rnp_jax.reactivation.perturbation import lay
from rnp_jax.reactivation.problem import Party, Problem, spread
from rnp_jax.reactivation.record import Reactivation
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.types import Batch, Progress, Variables

SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after each of which the share of the square is halved."""

_ROUND = 100  # queries that run as one program


@dataclass(frozen=True)
class BbaConfig:
    """Settings of black-box re-activation; the defaults are the release's.

    Attributes:
      epsilon: change of each pixel, for pixels in [0, 1].
      queries: number of queries, at most; each asks for the whole batch.
      images: number of triggered images in the batch, at most.
      share: share p of the image that the first square covers.
      enough: share of the batch that is turned, from which on nothing more is asked.
    """

    epsilon: float = 0.05
    queries: int = 10_000
    images: int = 500
    share: float = 0.1
    enough: float = 0.99

    def __post_init__(self):
        if min(self.queries, self.images) < 1 or not self.epsilon >= 0:
            raise ConfigError(f"{self}: expected queries and images >= 1, and no epsilon below 0")
        if not 0 < self.share <= 1 or not 0 < self.enough <= 1:
            raise ConfigError(f"{self}: expected share and enough in (0, 1]")


class Search(NamedTuple):
    """How far a search has come."""

    delta: Float[Array, "H W C"]
    loss: Float[Array, ""]
    turned: Float[Array, ""]  # share of the batch
    asked: jax.Array  # int32 []


class Squared(NamedTuple):
    """A perturbation, and the queries that it took."""

    delta: Float[np.ndarray, "H W C"]
    asked: int


def run_bba(problem: Problem, config: BbaConfig) -> Attempt:
    """Searches a perturbation of triggered images on the purified network, and on the clean one."""
    chosen = spread(problem.triggered, config.images)
    batch = Batch(chosen.images, chosen.wanted)
    outcomes, asked = {}, {}
    for name, party in problem.sides.items():
        with problem.work_on(party, f"bba, {name}") as task:
            found = task.do("bba", search_squares, party, batch, problem.key, config, task.progress)
        images = lay(problem.judged.images, found.delta)
        outcomes[name] = Outcome(asr=problem.count_turned(party, images))
        asked[f"queries, {name}"] = found.asked
    return Attempt(
        name="bba",
        after=outcomes["purified"],
        floor=outcomes.get("reference"),
        budget={
            "triggered images": len(batch.labels),
            "epsilon": config.epsilon,
            "queries": config.queries,
        },
        figures=asked,
    )


def search_squares(
    party: Party, batch: Batch, key: jax.Array, config: BbaConfig, progress: Progress | None = None
) -> Squared:
    """The perturbation that sends the batch to its labels best, by asking alone."""
    variables, data = jax.device_put(party.variables), Batch(*jax.device_put(tuple(batch)))
    shape = data.images.shape[1:]
    start_key, key = jax.random.split(key)
    stripes = jax.random.rademacher(start_key, (1, *shape[1:]), jnp.float32)
    delta = config.epsilon * jnp.broadcast_to(stripes, shape)
    state = ask(config, party.network, variables, delta, data)
    rounds = -(-config.queries // _ROUND)
    for number in range(rounds):
        until = min((number + 1) * _ROUND, config.queries)
        state = run_round(config, party.network, variables, state, data, key, jnp.int32(until))
        if progress is not None:
            figures = {"loss": float(state.loss), "accuracy": float(state.turned)}
            progress("bba", number + 1, rounds, figures)
        if state.turned >= config.enough:
            break
    return Squared(np.asarray(state.delta), int(state.asked))


@jit_settings(1, static=1)
def ask(config: BbaConfig, network: Network, variables: Variables, delta: jax.Array, data: Batch) -> Search:
    """The answer to a perturbation, as the state after one query."""
    del config
    return Search(delta, *_answer(network, variables, delta, data), jnp.int32(1))


@jit_settings(1, static=1)
def run_round(
    config: BbaConfig,
    network: Network,
    variables: Variables,
    state: Search,
    data: Batch,
    key: jax.Array,
    until: jax.Array,
) -> Search:
    """The state after at most ``until`` queries in all."""

    def go_on(state: Search) -> jax.Array:
        return (state.asked < until) & (state.turned < config.enough)

    def query(state: Search) -> Search:
        progress = state.asked.astype(jnp.float32) * 10_000 / config.queries
        halved = (progress > jnp.asarray(SCHEDULE, jnp.float32)).sum().astype(jnp.float32)
        share = config.share * 0.5**halved
        tried = _try_square(state.delta, config.epsilon, share, jax.random.fold_in(key, state.asked))
        loss, turned = _answer(network, variables, tried, data)
        better = loss < state.loss
        return Search(
            jnp.where(better, tried, state.delta),
            jnp.where(better, loss, state.loss),
            jnp.where(better, turned, state.turned),
            state.asked + 1,
        )

    return jax.lax.while_loop(go_on, query, state)


def _answer(
    network: Network, variables: Variables, delta: jax.Array, data: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    logits, _ = network(variables, perturb(data.images, delta))
    turned = (logits.argmax(-1) == data.labels).astype(jnp.float32)
    return cross_entropy(logits, data.labels).sum(), turned.mean()


def _try_square(
    delta: Float[Array, "H W C"], epsilon: float, share: Float[Array, ""], key: jax.Array
) -> Float[Array, "H W C"]:
    """The perturbation with a random square of this share of the image, one sign a channel."""
    height, width, channels = delta.shape
    row_key, column_key, sign_key = jax.random.split(key, 3)
    side = jnp.clip(jnp.round(jnp.sqrt(share * height * width)), 1, min(height, width) - 1)
    rows, columns = (_cover(each, size, side) for each, size in ((row_key, height), (column_key, width)))
    signs = jax.random.rademacher(sign_key, (channels,), jnp.float32)
    inside = (rows[:, None] & columns[None, :])[..., None]
    return jnp.where(inside, epsilon * signs[None, None, :], delta)


def _cover(key: jax.Array, size: int, side: jax.Array) -> jax.Array:
    """Which of ``size`` places a stretch of ``side`` covers that begins at random."""
    begin = jnp.floor(jax.random.uniform(key) * (size - side + 1))
    places = jnp.arange(size, dtype=jnp.float32)
    return (places >= begin) & (places < begin + side)


bba = Reactivation(
    name="bba",
    title="BBA",
    summary="black-box re-activation: a perturbation on top of the trigger, found by asking alone",
    basis="One perturbation, the same for all images, is found by trying random squares and keeping what helps "
    "(black-box re-activation, NeurIPS 2024, by the Square attack). The attacker needs scores, and no weights.",
    run=run_bba,
    defaults=BbaConfig(),
    usual=False,
)

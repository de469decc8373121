"""BEC, the backdoor existence coefficient: how much of the backdoor's work is still in the features (Zhu, Liang and
Wu, NeurIPS 2024).

Of each convolution of the backdoored network that is no shortcut, the channels that the trigger changes most are taken:

    TAC_k = mean_i ‖a_k(x_i) − a_k(x_i^trigger)‖₂ / mean_i ‖a_k(x_i)‖₂

On triggered images, the linear CKA of these channels between the backdoored network and the purified one says how alike
they still answer; S is the mean over layers. The same between the backdoored network and a clean one is what networks
have in common anyway. The coefficient is (S_purified − S_clean) / (1 − S_clean): 1 for the backdoored network, 0 for
the clean one. It is known of three shares of channels.

The release's script takes the batch size for the number of channels and does not run; this follows the formula. How
the coefficient is normalised was read from the paper's text, not from code.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rnp_jax.defenses.kernels import filter_kernels, is_shortcut
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import pad_rows
from rnp_jax.models import Network
from rnp_jax.reactivation.attempt import Attempt
from rnp_jax.reactivation.problem import Party, Problem, check_alike, spread
from rnp_jax.reactivation.record import Reactivation
from rnp_jax.types import Variables

_LEAST = 1e-12  # of a denominator
_ROUNDING = 1e-6  # of a likeness
_MOST = 2**29  # bytes of a network's outputs that are held at once; those of one layer may be more


@dataclass(frozen=True)
class BecConfig:
    """Settings of the backdoor existence coefficient; the defaults are the release's.

    Attributes:
      shares: shares of each layer's channels that are compared, those that the trigger changes most.
      images: number of triggered test images, at most.
      batch_size: images per batch.
    """

    shares: tuple[float, ...] = (0.05, 0.1, 0.2)
    images: int = 500
    batch_size: int = 100

    def __post_init__(self):
        if not self.shares or not all(0 < share <= 1 for share in self.shares) or min(self.images, self.batch_size) < 2:
            raise ConfigError(f"{self}: expected shares in (0, 1], and images and batch_size >= 2")


def run_bec(problem: Problem, config: BecConfig) -> Attempt:
    """Compares features of the purified network, and of the clean one, with those of the original.

    Raises:
      ConfigError: the networks are not of one architecture.
      DefenseError: the network has no layers to compare.
    """
    original, reference = problem.need("original", "bec"), problem.need("reference", "bec")
    for what, party in (("the purified network", problem.purified), ("the reference network", reference)):
        check_alike("bec", party, original, what)
    judged = spread(problem.judged, config.images)
    clean = np.asarray(problem.test.images)[judged.indices]
    with problem.work_on(original, "bec") as task:
        likeness = task.do("bec", compare, original, (problem.purified, reference), clean, judged.images, config)
    figures = {}
    for share, own, floor in zip(config.shares, *likeness, strict=True):
        told = f"top {share:.0%} of channels"
        figures |= {
            f"coefficient, {told}": scale_likeness(float(own), float(floor)),
            f"CKA with the original, purified, {told}": float(own),
            f"CKA with the original, reference, {told}": float(floor),
        }
    return Attempt(name="bec", budget={"triggered images": len(judged.labels)}, figures=figures)


def explain(attempt: Attempt) -> str:
    """The coefficients in a sentence."""
    told = [
        f"{'unknown' if value is None else f'{value:.2f}'} ({name.partition(', ')[2]})"
        for name, value in attempt.figures.items()
        if name.startswith("coefficient")
    ]
    return f"The coefficient is {', '.join(told)}, where 1 is the backdoored network and 0 the clean reference."


def scale_likeness(likeness: float, floor: float) -> float | None:
    """The coefficient: 1 where the likeness is 1, 0 where it is that of a clean network; None where that is 1 too."""
    return None if floor >= 1 - _ROUNDING else (likeness - floor) / (1 - floor)


def compare(
    original: Party,
    others: tuple[Party, ...],
    clean: Float[np.ndarray, "M H W C"],
    triggered: Float[np.ndarray, "M H W C"],
    config: BecConfig,
) -> Float[np.ndarray, "O S"]:
    """Mean CKA over layers of each other network with the original, for each share of channels."""
    kernels = filter_kernels(original.network, original.variables)
    layers = tuple(name for name in kernels if not is_shortcut(name)) or tuple(kernels)
    seen = ((original, clean), (original, triggered), *((party, triggered) for party in others))
    found = []
    for group in divide_layers(original, layers, clean, _MOST):
        before, after, *theirs = [_answer(party, group, images, config.batch_size) for party, images in seen]
        for name in group:
            order = np.argsort(-measure_change(before[name], after[name]), kind="stable")
            tops = [order[: max(1, int(share * len(order)))] for share in config.shares]
            found.append(
                [[measure_cka(after[name][..., top], each[name][..., top]) for each in theirs] for top in tops]
            )
    return np.mean(np.asarray(found), axis=0).T


def divide_layers(
    party: Party, layers: tuple[str, ...], images: Float[np.ndarray, "M H W C"], most: int
) -> list[tuple[str, ...]]:
    """The layers in groups, in their order; the outputs of a group for all images take ``most`` bytes or less.

    A layer whose own outputs take more is a group by itself.
    """
    image = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    shapes = jax.eval_shape(party.network.activations, party.variables, image)
    groups, held = [], 0
    for name in layers:
        size = 4 * shapes[name].size * len(images)
        if not groups or held + size > most:
            groups, held = [*groups, ()], 0
        groups[-1] += (name,)
        held += size
    return groups


def measure_change(clean: Float[np.ndarray, "M ... F"], triggered: Float[np.ndarray, "M ... F"]) -> np.ndarray:
    """TAC of each channel [F]: how far the trigger moves it, relative to its own size."""
    size = np.linalg.norm(clean.reshape(len(clean), -1, clean.shape[-1]), axis=1)
    moved = np.linalg.norm((triggered - clean).reshape(len(clean), -1, clean.shape[-1]), axis=1)
    return moved.mean(0) / np.maximum(size.mean(0), _LEAST)


def measure_cka(one: Float[np.ndarray, "M ..."], other: Float[np.ndarray, "M ..."]) -> float:
    """Linear CKA of two sets of features of the same images (Kornblith et al., ICML 2019).

    It is in [0, 1], and blind to rotations and to scale; 0 of features that do not vary.
    """
    first, second = (_relate(np.asarray(each, np.float64).reshape(len(each), -1)) for each in (one, other))
    return float((first * second).sum() / max(np.linalg.norm(first) * np.linalg.norm(second), _LEAST))


def _relate(features: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M M"]:
    """Inner products of the images' centred features, of unit scale."""
    features = features - features.mean(0, keepdims=True)
    features = features / max(float(np.linalg.norm(features)), _LEAST)
    return features @ features.T


def _answer(party: Party, layers: tuple[str, ...], images: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """The output of each layer for all images [M, ..., F]."""
    size = min(batch_size, len(images))
    rows = []
    for begin in range(0, len(images), size):
        chunk = images[begin : begin + size]
        found = _run(party.network, layers, party.variables, pad_rows(chunk, size))
        rows.append({name: np.asarray(each)[: len(chunk)] for name, each in found.items()})
    return {name: np.concatenate([row[name] for row in rows]) for name in layers}


@partial(jax.jit, static_argnums=(0, 1))
def _run(network: Network, layers: tuple[str, ...], variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
    found = network.activations(variables, images)
    return {name: found[name].astype(jnp.float32) for name in layers}


bec = Reactivation(
    name="bec",
    title="BEC",
    summary="backdoor existence coefficient: how much of the backdoor's features is left",
    basis="The channels that the trigger changes most in the backdoored network are compared with the same channels of "
    "the purified one by their answers to triggered images (backdoor existence coefficient, NeurIPS 2024). 1 is the "
    "backdoored network, 0 the clean reference.",
    run=run_bec,
    defaults=BecConfig(),
    needs=("original", "reference"),
    compares=True,
    explain=explain,
)

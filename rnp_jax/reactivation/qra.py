"""QRA, the query-based re-activation attack (Min et al., NeurIPS 2024, arXiv 2410.09838).

A small network δ is trained to perturb each image so that the purified network answers as the retuned one does, which
has the backdoor back, while a clean network is still right:

    min over δ of  0.2 KL(f_purified(x + δ(x)) ‖ f_retuned(x)) + CE(f_clean(x + δ(x)), y)

on clean and triggered images with their true labels. The second term keeps δ from being an adversarial perturbation
that turns any network. The constants are the paper's: layers of D, 1024, 1024, 1024 and D units with ReLU, the output
tanh times 16/255, SGD at 0.1 with momentum 0.9 for 50 epochs, 500 images of each kind. Batches of 128 and clipping of
pixels to [0, 1] are this project's. The clean network, given the same images, is the floor.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from rnp_jax.defenses.phase import Phase
from rnp_jax.defenses.tuning import tune
from rnp_jax.errors import ConfigError
from rnp_jax.inversion.stamps import scale
from rnp_jax.models import Network
from rnp_jax.models.layers import multiply
from rnp_jax.reactivation.attempt import Attempt, Outcome
from rnp_jax.reactivation.problem import Problem, spread
from rnp_jax.reactivation.ra import paper_settings, retune
from rnp_jax.reactivation.record import Reactivation
from rnp_jax.training.epoch import batch_metrics, cross_entropy
from rnp_jax.types import Batch, Tree

_LAYERS = 4


@dataclass(frozen=True)
class QraConfig:
    """Settings of the query-based attack; the defaults are the paper's.

    Attributes:
      images: number of clean images, and of triggered ones, that the perturbing network learns from, at most.
      retuned_on: number of triggered images with which the purified network is retuned first, as in RA.
      units: hidden units of each layer of the perturbing network.
      bound: largest change of a pixel, for pixels in [0, 1].
      agree: weight of the divergence from the retuned network.
      epochs: number of passes over the images.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: learning rate of SGD.
      momentum: momentum of SGD.
    """

    images: int = 500
    retuned_on: int = 5
    units: int = 1024
    bound: float = 16 / 255
    agree: float = 0.2
    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9

    def __post_init__(self):
        if min(self.images, self.units, self.epochs, self.batch_size) < 1 or not self.learning_rate > 0:
            raise ConfigError(f"{self}: expected images, units, epochs and batch_size >= 1 and learning_rate > 0")
        if self.retuned_on < 1 or not min(self.bound, self.agree) >= 0:
            raise ConfigError(f"{self}: expected retuned_on >= 1, and no bound and no weight below 0")


@dataclass(frozen=True)
class _Perturbing(Phase):
    """Training of δ; its fixed tree holds the variables of the ``purified``, ``retuned`` and ``clean`` networks."""

    clean: Network
    config: QraConfig

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        del steps_per_epoch
        return optax.sgd(self.config.learning_rate, momentum=self.config.momentum)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        images = perturb_each(trained, batch.images, self.config.bound)
        ours, _ = self.apply(fixed["purified"], images)
        wanted, _ = self.apply(fixed["retuned"], batch.images)
        told, _ = self.clean(fixed["clean"], images)
        ours, wanted = jax.nn.log_softmax(ours), jax.nn.log_softmax(wanted)
        apart = (jnp.exp(ours) * (ours - wanted)).sum(-1)
        objective = (self.config.agree * apart + cross_entropy(told, batch.labels)).mean()
        return objective, (batch_stats, batch_metrics(told, batch.labels))


def run_qra(problem: Problem, config: QraConfig) -> Attempt:
    """Retunes the purified network, trains δ between it, the purified and the clean one, and tries it.

    Raises:
      ConfigError: the attacker has too few triggered images.
      DefenseError: a loss became infinite or not a number.
    """
    purified, reference = problem.purified, problem.need("reference", "qra")
    if config.retuned_on > len(problem.triggered.labels):
        raise ConfigError(
            f"--qra.retuned-on {config.retuned_on}: the attacker has {len(problem.triggered.labels)} images that the "
            "trigger is to turn; ask for fewer, or give more with --known.size"
        )
    retuned, _ = retune(problem, purified, config.retuned_on, paper_settings(), "purified")
    data = _gather(problem, config.images)
    phase = _Perturbing(
        "qra", purified.network, config.epochs, config.batch_size, True, None, reference.network, config
    )
    fixed = {"purified": purified.variables, "retuned": retuned.variables, "clean": reference.variables}
    start = {"params": make_layers(problem.key, int(np.prod(data.images.shape[1:])), config.units), "batch_stats": {}}
    with problem.work_on(purified, "qra") as task:
        trained = tune(task, phase, start, fixed, problem.key, data)["params"]
    images = _perturb_all(trained, problem.judged.images, config.bound)
    after, floor = (Outcome(asr=problem.count_turned(party, images)) for party in (purified, reference))
    return Attempt(
        name="qra",
        after=after,
        floor=floor,
        budget={"images": len(data.labels), "epsilon": config.bound, "epochs": config.epochs},
        figures={"ASR of the retuned network": problem.judge(retuned).asr.value},
    )


def make_layers(key: jax.Array, size: int, units: int) -> Tree:
    """Fresh layers of δ, He-normal."""
    sizes = (size, *(units,) * (_LAYERS - 1), size)
    keys = jax.random.split(key, _LAYERS)
    return {
        str(i): {
            "kernel": jax.random.normal(keys[i], (sizes[i], sizes[i + 1])) * float(np.sqrt(2 / sizes[i])),
            "bias": jnp.zeros(sizes[i + 1]),
        }
        for i in range(_LAYERS)
    }


def perturb_each(layers: Tree, images: Array, bound: float) -> Float[Array, "B H W C"]:
    """clip(x + δ(x), 0, 1), of images in [0, 1] or uint8 ones scaled to it."""
    pixels = scale(images)
    x = pixels.reshape(len(pixels), -1)
    for i in range(_LAYERS):
        layer = layers[str(i)]
        x = multiply(x, layer["kernel"], "float32") + layer["bias"][None]
        x = jnp.tanh(x) if i == _LAYERS - 1 else jax.nn.relu(x)
    return jnp.clip(pixels + bound * x.reshape(pixels.shape), 0, 1)


@jax.jit
def _perturb_batch(layers: Tree, images: Array, bound: float) -> Float[Array, "B H W C"]:
    return perturb_each(layers, images, bound)


def _perturb_all(layers: Tree, images: np.ndarray, bound: float) -> np.ndarray:
    return np.asarray(_perturb_batch(layers, jnp.asarray(images), bound))


def _gather(problem: Problem, count: int) -> Batch:
    """Clean and triggered images with their true labels."""
    triggered = spread(problem.triggered, count)
    clean = Batch(*(np.asarray(values)[:count] for values in problem.clean))
    images = np.concatenate([clean.images, triggered.images])
    return Batch(images, np.concatenate([clean.labels, triggered.labels]))


qra = Reactivation(
    name="qra",
    title="QRA",
    summary="query-based attack: a small network that perturbs triggered images until the backdoor answers",
    basis="A small network learns to perturb images so that this network answers as its retuned copy does, while a "
    "clean network stays right (query-based attack, NeurIPS 2024). The attacker needs both networks' gradients.",
    run=run_qra,
    defaults=QraConfig(),
    needs=("reference",),
    usual=False,
)

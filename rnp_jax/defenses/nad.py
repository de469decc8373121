"""Neural Attention Distillation (NAD): the student attends where a fine-tuned copy of it does (Li et al., ICLR 2021).

    min over w of  CE + Σ_l β_l · mean((A(F_l) / ‖A(F_l)‖₂ − A(F_l^T) / ‖A(F_l^T)‖₂)²),    A(F) = Σ_c |F_c|^p

(eq. 1 to 4) F_l are the feature maps at the end of the last stages, F_l^T the teacher's. As the release does: the mean
is over images and positions; the teacher is the network fine-tuned with β = 0, and attends in evaluation mode; the
student's batch norm is in training mode; SGD with Nesterov momentum, at 0.1 for two epochs and then at 0.01. The
stages' weights are those of BackdoorBench, (500, 1000, 1000); the release distils the last of three stages alone, by
5,000. What differs: the last epoch's student is kept, where the release keeps one by its accuracies, ASR among them.

RNP (Li et al., ICML 2023) helps, where asked to: by a student that is pruned or unlearned (``start``), by a teacher
that was pruned before it was fine-tuned, or by its unlearned network, which attends to the backdoor alone: the student
is kept away from it by −γ Σ_l β_l · the same distance (``repel``, this project's).
"""

from dataclasses import dataclass, field, replace
from typing import Literal, cast

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Phase
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.stages import find_stages, run_segments
from rnp_jax.defenses.tuning import Start, begin, check_rnp, chooses_before, conclude, tune
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.traced import is_off, structural
from rnp_jax.training.epoch import batch_metrics, cross_entropy
from rnp_jax.types import Batch, Tree, Variables

_EPS = 1e-6  # the release's, added to the norm of an attention map


@dataclass(frozen=True)
class NadConfig:
    """Settings of NAD.

    Attributes:
      start: network to distil: as it came, as RNP pruned it, or as RNP unlearned it.
      teacher: network to learn from: ``finetuned`` is a fine-tuned copy of the network, ``pruned`` is a copy that RNP
        pruned.
      repel: weight γ that keeps the student away from the unlearned network's attention; 0 turns this off.
      rnp: settings of RNP, if it prunes or unlearns one of the networks.
      teacher_epochs: number of epochs in which the teacher is fine-tuned.
      epochs: number of epochs of distillation.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rates: learning rates of SGD for teacher and student; each of ``milestones`` switches to the next one.
      milestones: epochs (from 0) at which the learning rate changes.
      momentum: Nesterov momentum of SGD.
      weight_decay: weight decay, added to the gradient before momentum.
      betas: weights β_l of the attention of the last stages, ending with the last stage.
      power: exponent p of the attention.
      shuffle: shuffle the images every epoch; False keeps the given order.
    """

    start: Start = "original"
    teacher: Literal["finetuned", "pruned"] = "finetuned"
    repel: float = 0.0
    rnp: RnpConfig = field(default_factory=RnpConfig)
    teacher_epochs: int = 10
    epochs: int = 20
    batch_size: int = 64
    learning_rates: tuple[float, ...] = (0.1, 0.01, 0.0001)
    milestones: tuple[int, ...] = (2, 20)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    betas: tuple[float, ...] = (500.0, 1000.0, 1000.0)
    power: float = structural(2.0)
    shuffle: bool = True

    def __post_init__(self):
        check_rnp(self.start != "original" or self.teacher == "pruned" or self.repel > 0, self.rnp)
        if min(self.teacher_epochs, self.epochs) < 1 or self.batch_size < 2 or not self.power > 0:
            raise ConfigError(f"{self}: expected teacher_epochs and epochs >= 1, batch_size >= 2 and power > 0")
        if len(self.learning_rates) != len(self.milestones) + 1 or not min(self.learning_rates) > 0:
            raise ConfigError(
                f"learning_rates {self.learning_rates} with milestones {self.milestones}: expected rates above 0, one "
                "more rate than milestones"
            )
        if not self.betas or min(self.betas) < 0 or self.repel < 0:
            raise ConfigError(
                f"betas {self.betas}, repel {self.repel}: expected one or more betas, and no beta or repel below 0"
            )


def run_nad(task: Task, config: NadConfig) -> Defended:
    """Distils a student on the clean images that attends where its teacher does.

    Raises:
      ConfigError: more betas than the network has stages, or nothing is held out for RNP to choose by.
      DefenseError: the network has no feature maps, or the loss became infinite or not a number.
    """
    network = task.network
    stages = find_stages(network, task.variables)
    if len(config.betas) > len(stages):
        raise ConfigError(
            f"betas {config.betas}: {network.architecture.name} has {len(stages)} stages, so give no more"
        )
    source = _source(config)
    needed: tuple[Start, ...] = (source, config.start, *(("unlearned",) if config.repel else ()))
    made = {each: begin(each, task, config.rnp) for each in dict.fromkeys(needed)}
    student = made[config.start]
    avoided = made["unlearned"].variables if config.repel else {}
    settings = replace(config, rnp=RnpConfig(), start="original", teacher="finetuned")

    def distil(name: str, begun: Variables, taught_by: Variables | None) -> Variables:
        epochs = config.teacher_epochs if taught_by is None else config.epochs
        taught = None if taught_by is None else stages[-len(config.betas) :]
        phase = _Distilling(name, network, epochs, config.batch_size, config.shuffle, task.augment, settings, taught)
        fixed = {"masks": begun["masks"], "teacher": taught_by or {}, "avoided": avoided}
        return tune(task, phase, begun, fixed, jax.random.fold_in(task.key, epochs))

    teacher = distil("teacher", made[source].variables, None)
    return conclude(task, student, distil("distil", student.variables, teacher))


def _source(config: NadConfig) -> Start:
    """What the teacher is fine-tuned from."""
    return "rnp" if config.teacher == "pruned" else "original"


def attention(features: Float[Array, "B H W F"], power: float = 2.0) -> Float[Array, "B H W"]:
    """Where the features are large: their sum over channels of |F|^p, of L2 norm 1 for each image."""
    maps = (jnp.abs(features.astype(jnp.float32)) ** power).sum(-1)
    squares = jnp.square(maps).sum((1, 2), keepdims=True)
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1))  # where nothing is active, nothing is divided and no slope is
    return maps / (jnp.where(squares > 0, norm, 0) + _EPS)


def attention_loss(
    student: Float[Array, "B H W F"], teacher: Float[Array, "B H W F"], power: float = 2.0
) -> Float[Array, ""]:
    """Mean squared difference of attention, over images and positions."""
    return jnp.square(attention(student, power) - attention(teacher, power)).mean()


@dataclass(frozen=True)
class _Distilling(Phase):
    config: NadConfig  # without what comes before
    stages: tuple[int, ...] | None  # segments whose attention is taught, the last ones; None trains the teacher

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        config = self.config
        rates = jnp.asarray(config.learning_rates, jnp.float32)
        changes = jnp.asarray([epoch * steps_per_epoch for epoch in config.milestones], jnp.int32)

        def rate(step: ArrayLike) -> jax.Array:
            return rates[(jnp.asarray(step) >= changes).sum()]

        sgd = optax.sgd(rate, momentum=config.momentum, nesterov=True)
        return optax.chain(optax.add_decayed_weights(config.weight_decay), sgd)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        network = cast(Network, self.apply)
        variables = {"params": trained, "batch_stats": batch_stats, "masks": fixed["masks"]}
        logits, outputs, moved = run_segments(network, variables, batch.images, train=True)
        loss = cross_entropy(logits, batch.labels).mean()
        if self.stages is not None:
            taught = run_segments(network, fixed["teacher"], batch.images)[1]
            repel, power = self.config.repel, self.config.power
            avoided = run_segments(network, fixed["avoided"], batch.images)[1] if not is_off(repel) else ()
            for i, beta in zip(self.stages, self.config.betas, strict=True):
                loss += beta * attention_loss(outputs[i], taught[i], power)
                if not is_off(repel):
                    loss -= repel * beta * attention_loss(outputs[i], avoided[i], power)
        metrics = batch_metrics(logits, batch.labels)
        return loss, (moved, {**metrics, "loss": batch.labels.shape[0] * loss})


nad = Method(
    name="nad",
    title="NAD",
    summary="Neural Attention Distillation from a fine-tuned copy of the network",
    basis="All weights are trained until attention on clean images is like that of a fine-tuned copy of the network "
    "(Neural Attention Distillation, ICLR 2021).",
    run=run_nad,
    defaults=NadConfig(),
    changes="both",
    augments=True,
    chooses=lambda config: chooses_before("rnp" in (config.start, _source(config)), config.rnp),
    colour="#3f51b5",
    marker="d",
)

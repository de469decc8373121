"""Repair by distillation: the suspicious network teaches a pruned or untouched copy of itself on clean images alone.

    min over w of  T² · KL(softmax(f_teacher(x) / T) ‖ softmax(f_w(x') / T)),    T = 2 (Hinton et al., 2015)

On clean images a backdoored network is a harmless teacher with soft labels. x are the clean images, augmented and
mixed, half of the batches by mixup (Zhang et al., ICLR 2018) and half by cutmix (Yun et al., ICCV 2019), both with a
share uniform in [0, 1]. x' is x or, where stamps are given, for some of the images x under one of them, a few pixels
away from its place: the student learns to answer a recovered trigger as the teacher answers the image without it. For
a share of the images x' also carries random corruptions (``corruptions``), which the student learns to ignore alike.

What was pruned stays pruned: no filter whose mask, or whose every weight that its mask would multiply, is 0 moves.
Distillation restores a backdoor that the student's weights still hold; it is repair, and removes nothing by itself.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from rnp_jax import masks
from rnp_jax.checks import check_number
from rnp_jax.defenses.corruptions import corrupt_some, find_strengths
from rnp_jax.defenses.phase import Phase, check_finite, run_phase
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.inversion.stamps import Stamps, scale
from rnp_jax.inversion.warps import warp
from rnp_jax.models import Network, Placement
from rnp_jax.traced import is_off
from rnp_jax.training.epoch import Augment
from rnp_jax.types import Batch, Progress, Tree, Variables

_RISE, _FIRST, _LAST = 0.3, 1 / 25, 1 / 25e4  # of the one-cycle schedule, in shares of its length and of its peak
_STRENGTHS = 0x737472  # folded into the key


@dataclass(frozen=True)
class DistilConfig:
    """Settings of distillation.

    Attributes:
      epochs: number of passes over the clean images.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: peak learning rate of SGD, in a one-cycle schedule (Smith and Topin, 2019).
      momentum: momentum of SGD.
      weight_decay: weight decay, added to the gradient before momentum.
      clip: largest allowed norm of the gradient.
      temperature: temperature T of both softmaxes.
      stamped: share of the images that the student sees with a stamp, if stamps are given.
      shift: largest number of pixels by which a stamp is moved, in each direction.
      corrupted: share of the images that the student sees under a random corruption, on average.
      corruptions: how many corruptions an image may carry, one over the other, each with the chance ``corrupted``.
      keeps: share of the teacher's answers that a corruption must leave to be made stronger; see ``find_strengths``.
      shuffle: shuffle the images every epoch; False keeps the given order.
    """

    epochs: int = 30
    batch_size: int = 100
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 5.0
    temperature: float = 2.0
    stamped: float = 0.3
    shift: int = 2
    corrupted: float = 0.0
    corruptions: int = 1
    keeps: float = 0.85
    shuffle: bool = True

    def __post_init__(self):
        check_number("corruptions", self.corruptions, 1, integer=True)
        if self.epochs < 1 or self.batch_size < 2 or not min(self.learning_rate, self.clip, self.temperature) > 0:
            raise ConfigError(
                f"{self}: expected epochs >= 1, batch_size >= 2, and learning_rate, clip and temperature > 0"
            )
        if not all(0 <= share <= 1 for share in (self.stamped, self.corrupted, self.keeps)) or self.shift < 0:
            raise ConfigError(f"{self}: expected stamped, corrupted and keeps in [0, 1] and shift >= 0")


def distil(
    network: Network,
    student: Variables,
    teacher: Variables,
    data: Batch,
    key: jax.Array,
    config: DistilConfig,
    *,
    stamps: Stamps | None = None,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> tuple[Variables, dict[str, np.ndarray]]:
    """Teaches all weights of the student that are not pruned, its batch norm in training mode.

    Args:
      network: the function of the variables.
      student: the network to tune; its masks do not move.
      teacher: the network that answers, in evaluation mode; as a rule the suspicious one as it came.
      data: clean images, uint8 [N, H, W, C] and int32 [N], or features as the network reads them.
      key: order, augmentation, mixing and stamping.
      config: settings.
      stamps: S triggers that the student alone sees.
      augment: applied to every batch, before it is mixed.
      progress: called after every epoch; its accuracy is the share of answers that are the teacher's.

    Returns:
      The tuned student, and by epoch the loss [E] and the share of answers that are the teacher's [E], ``accuracy``.

    Raises:
      DataError: stamps of another size than the images.
      DefenseError: the loss became infinite or not a number.
    """
    if stamps is not None and stamps.patterns.shape[1:] != data.images.shape[1:]:
        raise DataError(
            f"stamps of shape {list(stamps.patterns.shape[1:])} for images of shape {list(data.images.shape[1:])}: "
            "expected the same shape"
        )
    phase = start_distilling(network, config, augment)
    fixed = hold_fixed(network, student, teacher, data, key, config, stamps)
    params, batch_stats, history, _ = run_phase(
        phase, student["params"], fixed, student["batch_stats"], data, key, progress
    )
    check_finite("distillation", history)
    return {**student, "params": params, "batch_stats": batch_stats}, history


def hold_fixed(
    network: Network,
    student: Variables,
    teacher: Variables,
    data: Batch,
    key: jax.Array,
    config: DistilConfig,
    stamps: Stamps | None,
) -> Tree:
    """What ``start_distilling``'s phase is given beside the student's weights; for the arguments see ``distil``."""
    strengths = None
    if config.corrupted > 0:
        strengths = find_strengths(network, teacher, data.images, jax.random.fold_in(key, _STRENGTHS), config.keeps)
    return {"masks": student["masks"], "teacher": teacher, "stamps": stamps, "strengths": strengths}


def start_distilling(
    network: Network, config: DistilConfig, augment: Augment | None = None, name: str = "distil"
) -> Phase:
    """The phase of ``distil``, for those who run it themselves; ``hold_fixed`` makes its fixed tree."""
    return _Distilling(name, network, config.epochs, config.batch_size, config.shuffle, augment, config)


class Views(NamedTuple):
    """A batch as teacher and student see it."""

    teacher: Float[Array, "B H W C"]
    student: Float[Array, "B H W C"]


@dataclass(frozen=True)
class _Distilling(Phase):
    config: DistilConfig

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        config = self.config
        rate = partial(one_cycle, peak=config.learning_rate, steps=config.epochs * steps_per_epoch)
        return optax.chain(
            optax.clip_by_global_norm(config.clip),
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(rate, momentum=config.momentum),
        )

    def prepare(self, batch: Batch, fixed: Tree, key: jax.Array) -> Batch:
        augment_key, mix_key, stamp_key = jax.random.split(key, 3)
        images = batch.images if self.augment is None else self.augment(augment_key, batch.images)
        mixed = seen = mix(mix_key, scale(images))
        if fixed["stamps"] is not None:
            seen = stamp_some(stamp_key, mixed, fixed["stamps"], self.config.stamped, self.config.shift)
        for layer in range(0 if is_off(self.config.corrupted) else self.config.corruptions):
            own_key = jax.random.fold_in(stamp_key, layer + 1)
            seen = corrupt_some(own_key, seen, self.config.corrupted, fixed["strengths"])
        return batch._replace(images=Views(mixed, seen))

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        variables = {"params": trained, "batch_stats": batch_stats, "masks": fixed["masks"]}
        logits, moved = self.apply(variables, batch.images.student, train=True)
        taught, _ = self.apply(fixed["teacher"], batch.images.teacher)
        loss = divergence(logits, taught, self.config.temperature)
        agreed = (logits.argmax(-1) == taught.argmax(-1)).astype(jnp.float32)
        return loss.mean(), (moved, {"loss": loss.sum(), "accuracy": agreed.sum()})

    def update(self, trained: Tree, updates: Tree, fixed: Tree) -> Tree:
        placement: Placement = self.apply.placement  # pyright: ignore[reportAttributeAccessIssue]
        gated = jax.tree.map(jnp.multiply, updates, masks.pruned_gate(trained, fixed["masks"], placement))
        return jax.tree.map(jnp.add, trained, gated)


def one_cycle(step: ArrayLike, peak: float, steps: int) -> jax.Array:
    """The learning rate of a step: from peak / 25 up in three tenths of the steps, and down to almost 0, by cosines."""
    step = jnp.asarray(step).astype(jnp.float32)
    top, end = max(_RISE * steps - 1, 1.0), max(steps - 1.0, 2.0)

    def between(first: float, last: float, share: jax.Array) -> jax.Array:
        return last + (first - last) / 2 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0, 1)))

    falling = between(1, _LAST, (step - top) / (end - top))
    return peak * jnp.where(step <= top, between(_FIRST, 1, step / top), falling)


def divergence(logits: Float[Array, "B K"], taught: Float[Array, "B K"], temperature: float) -> Float[Array, "B"]:
    """T² · KL(teacher ‖ student) of each image."""
    theirs, ours = (jax.nn.log_softmax(each / temperature) for each in (taught, logits))
    return temperature**2 * (jnp.exp(theirs) * (theirs - ours)).sum(-1)


def mix(key: jax.Array, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Each image with another of the batch: a weighted mean of both (mixup), or one in a box of the other (cutmix)."""
    B, H, W, _ = images.shape
    kind_key, share_key, row_key, column_key, order_key = jax.random.split(key, 5)
    share = jax.random.uniform(share_key)
    sides = jnp.sqrt(share) * jnp.asarray([H, W], jnp.float32)
    centres = (jax.random.uniform(row_key) * H, jax.random.uniform(column_key) * W)
    rows, columns = (
        jnp.abs(jnp.arange(length, dtype=jnp.float32) + 0.5 - centre) < side / 2
        for length, centre, side in zip((H, W), centres, sides, strict=True)
    )
    box = (rows[:, None] & columns[None, :]).astype(jnp.float32)
    other = jnp.where(jax.random.bernoulli(kind_key), jnp.full((H, W), share), box)[None, :, :, None]
    return (1 - other) * images + other * images[jax.random.permutation(order_key, B)]


def stamp_some(
    key: jax.Array, images: Float[Array, "B H W C"], stamps: Stamps, share: float, shift: int
) -> Float[Array, "B H W C"]:
    """A share of the images, on average, each under one of the stamps, moved at random; what lies outside is cut.

    Where stamps displace pixels, the image is warped first; that does not move.
    """
    B, H, W, _ = images.shape
    some_key, which_key, place_key = jax.random.split(key, 3)
    some = jax.random.bernoulli(some_key, share, (B,)).astype(jnp.float32)
    which = jax.random.randint(which_key, (B,), 0, stamps.masks.shape[0])
    places = jax.random.randint(place_key, (B, 2), 0, 2 * shift + 1)
    edge = ((0, 0), (shift, shift), (shift, shift))
    laid = stamps.masks[:, :, :, None] * stamps.patterns
    wide_masks, wide_laid = jnp.pad(stamps.masks, edge), jnp.pad(laid, (*edge, (0, 0)))

    def lay(image: Shaped[Array, "H W C"], some: jax.Array, which: jax.Array, place: jax.Array) -> jax.Array:
        if stamps.fields is not None:
            image = warp(image[None], some * stamps.fields[which])[0]
        mask = jax.lax.dynamic_slice(wide_masks[which], place, (H, W))
        added = jax.lax.dynamic_slice(wide_laid[which], (*place, 0), image.shape)
        return (1 - some * mask[:, :, None]) * image + some * added

    return jax.vmap(lay)(images, some, which, places)

"""Poisoned training sets and triggered test sets.

Counting follows a published benchmark, chosen by ``variant``. P is the number of poisoned images among N:

- ``bb`` (BackdoorBench): P = round(rate·N). Dirty label: uniform over all N, the target class included. Clean label:
  that many images of the target class, so rate 0.1 takes all 5,000 of a CIFAR-10 class.
- ``rnp`` (the RNP release): ⌊rate·N⌋ images uniform over all N. Clean label: of those, only the ones that happen to be
  of the target class are poisoned, so rate 0.1 poisons about 1 % of CIFAR-10. Dirty label: all of them.

Poisoned images replace their originals, or are appended to the set, whose size they then add to.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, UInt8

from rnp_jax.attacks.base import Attack, Params, check_images
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.means import Means
from rnp_jax.checks import check_choice, check_number, check_seed
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.types import Batch

CHUNK = 256
"""Images triggered by one call: every set size shares one compilation."""


@dataclass(frozen=True, eq=False)
class PoisonPlan:
    """Which images of a training set are poisoned, and how they are labelled."""

    size: int
    """Images N in the whole set."""
    indices: Int32[np.ndarray, "P"]
    """The poisoned images, ascending."""
    labels: Int32[np.ndarray, "P"]
    """Their labels in the poisoned set."""
    cover: Int32[np.ndarray, "Q"]
    """Images altered by the attack's ``cover`` that keep their labels, ascending; disjoint from ``indices``."""
    appended: bool = False
    """Whether poisoned and cover images come behind the N clean ones, in this order, instead of in their places."""

    @property
    def rate(self) -> float:
        """Share of the whole set that is poisoned, as counted."""
        return len(self.indices) / self.size

    @property
    def indices_sha256(self) -> str:
        """Digest of the poisoned indices as little-endian int32, to compare plans across machines."""
        return hashlib.sha256(self.indices.astype("<i4").tobytes()).hexdigest()


class TriggeredSet(NamedTuple):
    """Test images with the trigger on, those whose class already is the wanted one left out."""

    images: UInt8[np.ndarray, "B H W C"]
    labels: Int32[np.ndarray, "B"]  # true classes: robust accuracy
    wanted: Int32[np.ndarray, "B"]  # the attacker's: attack success rate
    indices: Int32[np.ndarray, "B"]  # positions in the test set


def draw_plan(
    labels: Int[np.ndarray, "N"],
    goal: Goal,
    *,
    rate: float,
    seed: int,
    cover_rate: float = 0.0,
    clean_label: bool = False,
    variant: Literal["bb", "rnp"] = "bb",
    append: bool = False,
) -> PoisonPlan:
    """Choose the images to poison (module docstring) and ``cover_rate``·N further ones, uniform over those left.

    Raises:
      ConfigError: a rate outside [0, 1], rates that exceed the set, or a clean-label all-to-all attack.
      DataError: labels that are no classes, or a rate that the set is too small for.
    """
    labels = check_labels(labels, goal)
    check_choice("variant", variant, ("bb", "rnp"))
    check_number("rate", rate, 0, 1)
    check_number("cover_rate", cover_rate, 0, 1)
    check_seed("seed", seed)
    if clean_label and goal.mapping != "all_to_one":
        raise ConfigError("clean_label with mapping all_to_all: kept labels need a single target; use all_to_one")
    count, cover_count = (
        int(r * len(labels)) if variant == "rnp" else round(r * len(labels)) for r in (rate, cover_rate)
    )
    order = np.random.default_rng(seed).permutation(len(labels)).astype(np.int32)
    chosen = order[:count]
    if clean_label:
        chosen = _of_target_class(order if variant == "bb" else chosen, labels, goal, count, variant)
    if rate > 0 and len(chosen) == 0:
        raise DataError(f"rate {rate} poisons none of {len(labels)} images; raise it above {1 / len(labels):.2g}")
    left = order[~np.isin(order, chosen)]
    if cover_count > len(left):
        raise ConfigError(
            f"rate {rate} and cover_rate {cover_rate} ask for {len(chosen)} + {cover_count} of {len(labels)} images; "
            "lower one of them"
        )
    chosen = np.sort(chosen)
    new_labels = labels[chosen] if clean_label else np.array(goal.wanted(labels[chosen]))
    return PoisonPlan(len(labels), chosen, new_labels, np.sort(left[:cover_count]), append)


def poison_training_set(
    images: UInt8[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, "N"],
    plan: PoisonPlan,
    attack: Attack,
    params: Params,
    key: jax.Array,
    means: Means | None = None,
) -> Batch:
    """The poisoned training set, a copy: planned images triggered and relabelled, cover images altered.

    Args:
      images: uint8 [N, H, W, C].
      labels: [N].
      plan: for these labels.
      attack: whose images are crafted with ``means``, where it does that, and then implanted.
      params: its artefact.
      key: for triggers that vary by image.
      means: what crafting needs.

    Raises:
      DataError: images, labels and plan that do not belong together.
    """
    check_images(images, ())
    if not len(images) == len(labels) == plan.size:
        raise DataError(
            f"{len(images)} images and {len(labels)} labels for a plan of {plan.size}; "
            "pass the set that the plan was made for"
        )
    key_poison, key_cover = jax.random.split(key)
    poisoned, new_labels = np.array(images), np.array(labels, np.int32)
    chosen = poisoned[plan.indices] if means is None else attack.craft(params, poisoned[plan.indices], means)
    implanted = apply_attack(attack, params, chosen, key_poison, role="implant")
    covers = apply_attack(attack, params, poisoned[plan.cover], key_cover, role="cover")
    if plan.appended:
        added = np.concatenate([plan.labels, new_labels[plan.cover]])
        return Batch(np.concatenate([poisoned, implanted, covers]), np.concatenate([new_labels, added]))
    poisoned[plan.indices], poisoned[plan.cover] = implanted, covers
    new_labels[plan.indices] = plan.labels
    return Batch(poisoned, new_labels)


def check_training_set(clean: Batch, made: Batch, plan: PoisonPlan, attack: Attack, goal: Goal) -> None:
    """Holds a poisoned set against the clean one and the plan: counts, labels, and that nothing else was touched.

    Raises:
      DataError: a label is not the one that the attack's protocol gives, or an image outside the plan differs.
    """
    count, altered = len(clean.labels), np.concatenate([plan.indices, plan.cover])
    expected, untouched = np.array(clean.labels, np.int32), np.ones(count, np.bool_)
    wanted = expected[plan.indices] if attack.clean_label else np.asarray(goal.wanted(expected[plan.indices]))
    relabelled = np.concatenate([wanted, expected[plan.cover]])
    if plan.appended:
        expected = np.concatenate([expected, relabelled])
    else:
        expected[altered], untouched[altered] = relabelled, False
    labels = np.asarray(made.labels)
    if len(labels) != len(expected):
        raise DataError(f"the poisoned set has {len(labels)} images, expected {len(expected)}")
    if len(wrong := np.flatnonzero(labels != expected)):
        raise DataError(
            f"{len(wrong)} labels of the poisoned set are wrong, the first that of image {wrong[0]}: "
            f"{labels[wrong[0]]}, expected {expected[wrong[0]]}"
        )
    if not np.array_equal(np.asarray(made.images[:count])[untouched], np.asarray(clean.images)[untouched]):
        raise DataError(f"images outside the {len(altered)} of the plan differ from the clean set")


def poison_batch(
    attack: Attack,
    params: Params,
    images: UInt8[Array, "B H W C"],
    labels: Int[Array, "B"],
    key: jax.Array,
    *,
    goal: Goal,
    rate: float = 0.1,
) -> Batch:
    """Poison a shuffled training batch inside the victim's step, for attacks whose authors do that.

    The first ⌊rate·B⌋ images are implanted and get the labels the attacker wants, ``cover_ratio`` times as many become
    cover with their own labels, and the rest stays. Augment after this. Pure and jittable.

    Raises:
      ConfigError: the rate is no rate, or leaves no room for the cover images.
    """
    check_number("rate", rate, 0, 1)
    poisoned = int(rate * images.shape[0])
    end = poisoned + int(attack.cover_ratio * poisoned)
    if end > images.shape[0]:
        raise ConfigError(
            f"rate {rate} with {attack.cover_ratio} cover images for each poisoned one asks for {end} of "
            f"{images.shape[0]} images; lower rate to at most {1 / (1 + attack.cover_ratio):.3g}"
        )
    parts = [
        attack.implant(params, images[:poisoned], key),
        attack.cover(params, images[poisoned:end], key),
        images[end:],
    ]
    labels = jnp.asarray(labels, jnp.int32)
    return Batch(jnp.concatenate(parts), labels.at[:poisoned].set(goal.wanted(labels[:poisoned])))


def trigger_test_set(
    images: UInt8[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, "N"],
    goal: Goal,
    attack: Attack,
    params: Params,
    key: jax.Array,
) -> TriggeredSet:
    """The images that the attack success rate counts, triggered: all but the target class's (all-to-all: all).

    Raises:
      DataError: labels that are no classes, as many as not the images, or of the target class alone.
    """
    check_images(images, ())
    labels = check_labels(labels, goal)
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images with {len(labels)} labels, expected one label per image")
    indices = np.flatnonzero(goal.counted(labels)).astype(np.int32)
    if len(indices) == 0:
        raise DataError(
            f"all {len(labels)} test images are of the target class {goal.target}, expected some of other classes; "
            "the attack success rate counts only those"
        )
    triggered = apply_attack(attack, params, np.asarray(images)[indices], key)
    return TriggeredSet(triggered, labels[indices], np.array(goal.wanted(labels[indices])), indices)


def apply_attack(
    attack: Attack,
    params: Params,
    images: UInt8[np.ndarray, "N H W C"],
    key: jax.Array,
    *,
    role: Literal["trigger", "implant", "cover"] = "trigger",
) -> UInt8[np.ndarray, "N H W C"]:
    """Trigger, implant or cover any number of host images, ``CHUNK`` at a time on the device."""
    result = np.empty_like(images)
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        padded = np.pad(chunk, ((0, CHUNK - len(chunk)), (0, 0), (0, 0), (0, 0)))
        altered = apply_batch(attack, params, padded, jax.random.fold_in(key, start), role=role)
        result[start : start + CHUNK] = np.asarray(altered)[: len(chunk)]
    return result


@partial(jax.jit, static_argnames=("attack", "role"))
def apply_batch(attack: Attack, params: Params, images: jax.Array, key: jax.Array, *, role: str) -> jax.Array:
    """``trigger``, ``implant`` or ``cover`` of a few images in one program; ``apply_attack`` takes any number."""
    return getattr(attack, role)(params, images, key)


def check_labels(labels: Int[np.ndarray, "N"], goal: Goal) -> Int32[np.ndarray, "N"]:
    """Labels as int32 [N].

    Raises:
      DataError: not a vector of integers from 0 to K − 1, or empty.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels are {labels.dtype} {list(labels.shape)}, expected a non-empty vector of integers")
    if labels.min() < 0 or labels.max() >= goal.num_classes:
        raise DataError(
            f"labels range from {labels.min()} to {labels.max()}, expected 0 to {goal.num_classes - 1}; "
            "check num_classes"
        )
    return labels.astype(np.int32)


def _of_target_class(
    candidates: np.ndarray, labels: np.ndarray, goal: Goal, count: int, variant: str
) -> Int32[np.ndarray, "P"]:
    """Clean label: the first ``count`` candidates of the target class (``rnp``: however many there are)."""
    members = candidates[labels[candidates] == goal.target]
    if variant == "bb" and len(members) < count:
        raise DataError(
            f"a clean-label attack on {count} images needs as many of the target class {goal.target}, which has "
            f"only {len(members)}; lower rate to at most {len(members) / len(labels):.4g}, or use variant rnp"
        )
    return members[:count]

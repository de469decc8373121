"""Hölder Iterative Defence: a clean classifier from a poisoned training set, without one clean image.

Self-supervised features, a head trained on the poisoned labels, pruning of its Hölder-sensitive units, the images that
the pruned head fits best as clean ones, and semi-supervised training of extractor and head on them ("Hölder Pruning",
submitted to ICLR 2025). Its text is not public: the order of the steps is its abstract's, every constant is decided
here, most after DBD (Huang et al., ICLR 2022), whose selection and semi-supervised step are alike.
"""

import time
from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from rnp_jax import masks
from rnp_jax.defenses.holder import HolderPruneConfig, holder
from rnp_jax.defenses.result import Pruned
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment
from rnp_jax.training.extended import Extended, extract, feature_width, join, split
from rnp_jax.training.mixmatch import MixMatchConfig, mixmatch
from rnp_jax.training.simclr import SimclrConfig, pretrain
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.training.views import Views
from rnp_jax.types import Batch, Progress, Variables


@dataclass(frozen=True)
class HidConfig:
    """Settings of the defense's steps.

    Attributes:
      simclr: of the extractor; unused where a pretrained one is given.
      head: of the head's training on cached features and poisoned labels.
      prune: of the head's units.
      keep: share of the images held to be clean, in (0, 1).
      per_class: keep that share of every class, so that none vanishes; otherwise of the whole set.
      mixmatch: of extractor and head together, kept images labelled, the rest not.
      rounds: how often to score, prune, select and train.
    """

    simclr: SimclrConfig = field(default_factory=SimclrConfig)
    head: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=20, learning_rate=0.05))
    prune: HolderPruneConfig = field(default_factory=HolderPruneConfig)
    keep: float = 0.5
    per_class: bool = True
    mixmatch: MixMatchConfig = field(default_factory=MixMatchConfig)
    rounds: int = 1

    def __post_init__(self):
        if not 0 < self.keep < 1 or self.rounds < 1:
            raise ConfigError(f"keep {self.keep}, rounds {self.rounds}: expected keep in (0, 1) and rounds >= 1")


@dataclass(frozen=True, eq=False)
class Round:
    """One round of pruning, selecting and training.

    Attributes:
      extractor: its variables after the round.
      head: its variables after the round, masks of all units pruned so far at 0.
      pruned: what pruning did to the head.
      count: units pruned in all rounds so far.
      kept: the images held to be clean, ascending.
      history: of the semi-supervised training.
      timing: seconds: ``cache`` of features, pruning's own stages, ``select``, ``mixmatch``; compilation included.
      precision: share of the kept images that are not poisoned, where that is known.
      poison_kept: share of the poisoned images that are kept, where there are known ones.
    """

    extractor: Variables
    head: Variables
    pruned: Pruned
    count: int
    kept: Int[np.ndarray, "kept"]
    history: dict[str, np.ndarray]
    timing: dict[str, float]
    precision: float | None
    poison_kept: float | None


@dataclass(frozen=True, eq=False)
class Purified:
    """What the defense made of the poisoned set: a network ``Extended(extractor, head)``.

    Attributes:
      extractor: variables.
      head: variables.
      rounds: in order.
      history: by step before the rounds (``simclr``, ``head``), the series of its epochs.
      timing: seconds of those steps: ``simclr``, ``cache``, ``head``.
      warnings: what did not go as planned, one sentence each.
    """

    extractor: Variables
    head: Variables
    rounds: tuple[Round, ...]
    history: dict[str, dict[str, np.ndarray]]
    timing: dict[str, float]
    warnings: tuple[str, ...]


def hid(
    extractor: Network,
    head: Network,
    data: Batch,
    key: jax.Array,
    config: HidConfig,
    *,
    views: Augment = Views(),  # noqa: B008 (frozen)
    augment: Augment | None = None,
    pretrained: Variables | None = None,
    poisoned: Bool[np.ndarray, "N"] | None = None,
    progress: Progress | None = None,
) -> Purified:
    """Trains a clean classifier on a poisoned set.

    Args:
      extractor: gives the features; its last layer is not used.
      head: classifies them (see ``head_on``).
      data: the poisoned set, uint8 [N, H, W, C] and int32 [N].
      key: initial weights, order, views and mixing.
      config: settings of the steps.
      views: of SimCLR.
      augment: of the semi-supervised training.
      pretrained: the extractor's variables, instead of SimCLR. To interrupt and resume the long step, run ``pretrain``
        with its ``save`` and ``state`` and give its variables here.
      poisoned: the truth, for the record alone: no step sees it.
      progress: called after every epoch.

    Raises:
      ConfigError: a head for other features, batches larger than the set, or a share that keeps all images or none.
      DataError: images or labels that do not fit the networks.
    """
    _check(extractor, head, data, poisoned)
    extractor_key, head_key, simclr_key, fit_key, rounds_key = jax.random.split(key, 5)
    timing, history = {}, {}
    clock = _Clock(timing)
    if pretrained is None:
        pretrained, history["simclr"] = pretrain(
            extractor,
            extractor.init(extractor_key),
            np.asarray(data.images),
            simclr_key,
            config.simclr,
            views=views,
            progress=progress,
        )
        clock.note("simclr")
    cached = _cache(extractor, pretrained, data)
    clock.note("cache")
    fitted, history["head"] = train(
        head,
        head.init(head_key),
        cached,
        fit_key,
        config.head,
        phase="head",
        progress=progress,
    )
    clock.note("head")
    parts, rounds, warnings = (pretrained, fitted), [], []
    for number in range(config.rounds):
        step_key = jax.random.fold_in(rounds_key, number)
        done = _run_round(Extended(extractor, head), *parts, data, step_key, config, augment, poisoned, progress)
        rounds.append(done)
        parts = done.extractor, done.head
        warnings += [f"Round {number + 1}: {text}" for text in done.pruned.warnings]
    return Purified(*parts, tuple(rounds), history, timing, tuple(warnings))


def select_lowest(
    loss: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"], share: float, *, per_class: bool
) -> Int[np.ndarray, "kept"]:
    """The images with the lowest loss, a share of each class (one image at least) or of the whole set; ascending."""
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)] if per_class else [np.arange(len(labels))]
    kept = [group[np.argsort(loss[group], kind="stable")[: max(1, round(share * len(group)))]] for group in groups]
    return np.sort(np.concatenate(kept))


def _run_round(
    network: Extended,
    extractor: Variables,
    head: Variables,
    data: Batch,
    key: jax.Array,
    config: HidConfig,
    augment: Augment | None,
    poisoned: np.ndarray | None,
    progress: Progress | None,
) -> Round:
    prune_key, mix_key = jax.random.split(key)
    timing: dict[str, float] = {}
    clock = _Clock(timing)
    cached = _cache(network.extractor, extractor, data)
    clock.note("cache")
    before = masks.filters(head["masks"])
    pruned = holder(network.head, head, cached, prune_key, config.prune)
    timing |= pruned.timing
    # Pruning starts from masks of ones with earlier ones multiplied into the weights: what was pruned stays so.
    both = {name: mask * before[name] for name, mask in masks.filters(pruned.variables["masks"]).items()}
    head = masks.apply_filters(pruned.variables, both)
    clock.restart()
    labels = np.asarray(data.labels)
    loss = predict(network.head, head, cached).loss[0]
    kept = select_lowest(loss, labels, config.keep, per_class=config.per_class)
    rest = np.setdiff1d(np.arange(len(labels)), kept)
    clock.note("select")
    images = np.asarray(data.images)
    trained, history = mixmatch(
        network,
        join(extractor, head),
        Batch(images[kept], labels[kept]),
        images[rest],
        mix_key,
        config.mixmatch,
        augment=augment,
        progress=progress,
    )
    clock.note("mixmatch")
    extractor, head = split(trained)
    count = sum(int((np.asarray(mask) == 0).sum()) for mask in both.values())
    precision = None if poisoned is None else float((~poisoned[kept]).mean())
    poison_kept = None if poisoned is None or not poisoned.any() else float(poisoned[kept].sum() / poisoned.sum())
    return Round(extractor, head, pruned, count, kept, history, timing, precision, poison_kept)


def _cache(extractor: Network, variables: Variables, data: Batch) -> Batch:
    """Features as the head's images [N, 1, 1, D]."""
    return Batch(extract(extractor, variables, np.asarray(data.images))[:, None, None], np.asarray(data.labels))


class _Clock:
    """Notes seconds since the note before."""

    def __init__(self, timing: dict[str, float]):
        self._timing = timing
        self.restart()

    def restart(self) -> None:
        self._since = time.perf_counter()

    def note(self, stage: str) -> None:
        now = time.perf_counter()
        self._timing[stage], self._since = now - self._since, now


def _check(extractor: Network, head: Network, data: Batch, poisoned: np.ndarray | None) -> None:
    width, takes = feature_width(extractor), head.architecture.image_shape
    if takes != (1, 1, width):
        raise ConfigError(f"the head takes images of {takes}, expected (1, 1, {width}) as head_on(extractor, …) makes")
    count, labels = len(data.images), np.asarray(data.labels)
    if labels.shape != (count,) or count == 0 or labels.min() < 0 or labels.max() >= head.architecture.num_classes:
        raise DataError(
            f"{count} images with labels {labels.shape}: expected as many, one or more, from 0 to "
            f"{head.architecture.num_classes - 1}"
        )
    if poisoned is not None and (poisoned.shape != (count,) or poisoned.dtype != bool):
        raise DataError(f"poisoned is {poisoned.dtype} {poisoned.shape}, expected one bool for each of {count} images")

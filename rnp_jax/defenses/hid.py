"""Hölder Iterative Defence: a clean classifier from a poisoned training set, without one clean image.

Self-supervised features, a head trained on the poisoned labels, pruning of its Hölder-sensitive units, the images that
the pruned head fits best as clean ones, and semi-supervised training of extractor and head on them ("Hölder Pruning",
submitted to ICLR 2025). Its text is not public: the order of the steps is its abstract's, every constant is decided
here, most after DBD (Huang et al., ICLR 2022), whose selection and semi-supervised step are alike.
"""

from dataclasses import dataclass, field, replace

import jax
import numpy as np
from jaxtyping import Float, Int

from rnp_jax import masks
from rnp_jax.defenses.fitting import check_set
from rnp_jax.defenses.holder import HolderPruneConfig, holder
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import Candidates, Defended
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Network
from rnp_jax.training.extended import Extended, extract, fit_probe, head_on, join, split
from rnp_jax.training.mixmatch import MixMatchConfig, mixmatch
from rnp_jax.training.simclr import SimclrConfig, pretrain
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.training.views import Views
from rnp_jax.types import Batch, Variables


@dataclass(frozen=True)
class HidConfig:
    """Settings of HID's steps.

    Attributes:
      units: hidden units of the head, one number per layer; the head is an MLP on the extractor's features.
      simclr: SimCLR training of the extractor; not used if the extractor starts from given weights.
      views: augmentation of SimCLR's views.
      head: training of the head on cached features and poisoned labels.
      prune: pruning of the head's units.
      keep: share of the images that is kept as clean, in (0, 1).
      per_class: keep this share of every class, so that no class vanishes; False keeps it of the whole set.
      mixmatch: MixMatch training of extractor and head together; the kept images are labelled, the others are not.
      rounds: number of rounds of scoring, pruning, selecting and training.
    """

    units: tuple[int, ...] = (256, 256)
    simclr: SimclrConfig = field(default_factory=SimclrConfig)
    views: Views = field(default_factory=Views)
    head: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=20, learning_rate=0.05))
    prune: HolderPruneConfig = field(default_factory=HolderPruneConfig)
    keep: float = 0.5
    per_class: bool = True
    mixmatch: MixMatchConfig = field(default_factory=MixMatchConfig)
    rounds: int = 1

    def __post_init__(self):
        if not 0 < self.keep < 1 or self.rounds < 1:
            raise ConfigError(f"keep {self.keep}, rounds {self.rounds}: expected keep in (0, 1) and rounds >= 1")
        if not self.units:
            raise ConfigError("units (): give at least one hidden layer, such as 256 256; hid prunes hidden units")
        if min(self.units) < 1:
            raise ConfigError(f"units {self.units}: expected sizes of 1 or more")
        if self.prune.threshold.rule == "budget":
            raise ConfigError(
                "prune.threshold.rule budget needs clean held-out images, and hid has none: choose another rule, such "
                "as mixture"
            )


@dataclass(frozen=True, eq=False)
class Round:
    """One round of pruning, selecting and training.

    Attributes:
      extractor: its variables after the round.
      head: its variables after the round, masks of all units pruned so far at 0.
      pruned: what pruning did to the head.
      kept: the images held to be clean, ascending.
      loss: of each image under the pruned head [N], by which they were chosen.
      history: of the semi-supervised training.
    """

    extractor: Variables
    head: Variables
    pruned: Defended
    kept: Int[np.ndarray, "kept"]
    loss: Float[np.ndarray, "N"]
    history: dict[str, np.ndarray]


def run_hid(task: Task, config: HidConfig) -> Defended:
    """Trains a clean classifier on the untrusted images, fresh or from the extractor weights that are given.

    Returns:
      The head, its extractor (with a linear probe on the kept images as its last layer) and which images were kept;
      the scores are those of the last round, the pruned units those of all rounds.

    Raises:
      ConfigError: batches larger than the set, or a share that keeps all images or none.
      DataError: images or labels that do not fit the network.
    """
    network, data, progress = task.network, task.data, task.progress
    num_classes = network.architecture.num_classes
    check_set(data, num_classes)
    _check_batches(config, len(data.labels), fresh=task.variables is None)
    head = head_on(network, num_classes, config.units)
    extractor_key, head_key, simclr_key, fit_key, rounds_key = jax.random.split(task.key, 5)
    pretrained = task.variables
    if pretrained is None:
        pretrained, history = task.do(
            "simclr",
            pretrain,
            network,
            network.init(extractor_key),
            np.asarray(data.images),
            simclr_key,
            config.simclr,
            views=config.views,
            progress=progress,
        )
        task.note("simclr", history)
    with task.stage("cache"):
        cached = _cache(network, pretrained, data)
    given = (head, head.init(head_key), cached, fit_key, config.head)
    fitted, history = task.do("head", train, *given, phase="head", progress=progress)
    task.note("head", history)
    parts, rounds = (pretrained, fitted), []
    for number in range(config.rounds):
        step_key = jax.random.fold_in(rounds_key, number)
        done = run_round(task, Extended(network, head), *parts, step_key, config)
        rounds.append(done)
        parts = done.extractor, done.head
        task.note("mixmatch" if config.rounds == 1 else f"mixmatch, round {number + 1}", done.history)
        for text in done.pruned.warnings:
            task.warn(f"Round {number + 1}: {text}")
    kept = rounds[-1].kept
    labelled = Batch(np.asarray(data.images)[kept], np.asarray(data.labels)[kept])
    settings = replace(config.head, batch_size=min(config.head.batch_size, len(kept)))
    with task.stage("probe"):
        probed, _ = fit_probe(network, parts[0], labelled, task.key, settings)
    return _conclude(rounds, network, head, probed)


def _conclude(rounds: list[Round], network: Network, head: Network, extractor: Variables) -> Defended:
    """The rounds as one pruning: each unit with its score in the round that pruned it."""
    last, several = rounds[-1].pruned, len(rounds)
    found: dict[int, float] = {}
    for each in rounds:
        candidates, count = each.pruned.candidates, each.pruned.choice.pruned
        for position, value in zip(candidates.order[:count], candidates.values[:count], strict=True):
            found.setdefault(int(position), float(value))
    order, values = np.array(list(found), np.int64), np.array(list(found.values()))
    rule = last.choice.rule + (f", in each of {several} rounds" if several > 1 else "")
    return Defended(
        rounds[-1].head,
        last.values,
        "score",
        Candidates(order, values, np.full(len(order), np.nan)),
        last.choice.model_copy(update={"pruned": len(order), "rule": rule, "ranking": hid.name}),
        network=head,
        extractor=(network, extractor),
        kept=tuple(each.kept for each in rounds),
        suspicion=rounds[-1].loss,
    )


def select_lowest(
    loss: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"], share: float, *, per_class: bool
) -> Int[np.ndarray, "kept"]:
    """The images with the lowest loss, a share of each class (one image at least) or of the whole set; ascending."""
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)] if per_class else [np.arange(len(labels))]
    kept = [group[np.argsort(loss[group], kind="stable")[: max(1, round(share * len(group)))]] for group in groups]
    return np.sort(np.concatenate(kept))


def run_round(
    task: Task, network: Extended, extractor: Variables, head: Variables, key: jax.Array, config: HidConfig
) -> Round:
    """Scores and prunes the head, keeps the images that it fits best, and trains on them."""
    prune_key, mix_key = jax.random.split(key)
    with task.stage("cache"):
        cached = _cache(network.extractor, extractor, task.data)
    before = masks.filters(head["masks"])
    pruned = holder(network.head, head, cached, prune_key, config.prune)
    for stage, seconds in pruned.timing.items():
        task.timing[stage] = task.timing.get(stage, 0.0) + seconds
    # Pruning starts from masks of ones with earlier ones multiplied into the weights: what was pruned stays so.
    both = {name: mask * before[name] for name, mask in masks.filters(pruned.variables["masks"]).items()}
    head = masks.apply_filters(pruned.variables, both)
    images, labels = np.asarray(task.data.images), np.asarray(task.data.labels)
    with task.stage("select"):
        loss = predict(network.head, head, cached).loss[0]
        kept = select_lowest(loss, labels, config.keep, per_class=config.per_class)
        rest = np.setdiff1d(np.arange(len(labels)), kept)
    trained, history = task.do(
        "mixmatch",
        mixmatch,
        network,
        join(extractor, head),
        Batch(images[kept], labels[kept]),
        images[rest],
        mix_key,
        config.mixmatch,
        augment=task.augment,
        progress=task.progress,
    )
    extractor, head = split(trained)
    return Round(extractor, head, pruned, kept, loss, history)


def _cache(extractor: Network, variables: Variables, data: Batch) -> Batch:
    """Features as the head's images [N, 1, 1, D]."""
    return Batch(extract(extractor, variables, np.asarray(data.images))[:, None, None], np.asarray(data.labels))


def _check_batches(config: HidConfig, count: int, *, fresh: bool) -> None:
    """Says now what the later steps would say after minutes."""
    for name, step in {"head": config.head, **({"simclr": config.simclr} if fresh else {})}.items():
        if step.batch_size > count:
            raise ConfigError(
                f"hid.{name}.batch_size {step.batch_size} exceeds the {count} training images: choose a smaller one"
            )


hid = Method(
    name="hid",
    title="HID",
    summary="Hölder Iterative Defence: train a new network on the untrusted training set",
    basis="The score of a hidden unit is its Hölder constant on features that were learned without labels; the pruned "
    "head then picks the clean samples for further training (Hölder Iterative Defence, ICLR 2025 submission).",
    run=run_hid,
    defaults=HidConfig(),
    needs="untrusted",
    changes="both",
    augments=True,
    colour="#b8860b",
    marker="P",
)

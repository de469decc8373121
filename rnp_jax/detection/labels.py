"""Detects the backdoor's label from the predictions of a model while it unlearns clean images.

Li et al. (ICML 2023, section 5) observe that an unlearned backdoored model predicts the backdoor's label. They publish
no code for this. Here unlearning takes relative steps (see ``UnlearnConfig``): with the release's own steps, a
confident model, clean or not, does not move for many epochs and then collapses at once. After each epoch, the share of
each label among the predictions on clean images is recorded. The predictions of most backdoored models, though not of
all, go to one label early and stay there; those of a clean model spread and wander. benchmarks/results shows how good
the scores are.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from rnp_jax.defenses.phase import Phase, Progress
from rnp_jax.defenses.unlearn import UnlearnConfig, start_unlearning
from rnp_jax.errors import ConfigError, DataError, DefenseError
from rnp_jax.fetching import fetch_late
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, run_epoch
from rnp_jax.types import Batch, Tree, Variables

Mode: TypeAlias = Literal["train", "frozen"]


def gentle_unlearning() -> UnlearnConfig:
    """Ten relative steps of 100 images. All in one direction, they would move each tensor by a fifth of its norm."""
    return UnlearnConfig(
        max_epochs=10,
        batch_size=100,
        learning_rate=0.01,
        momentum=0.5,
        weight_decay=0.0,
        milestones=(),
        relative=True,
    )


@dataclass(frozen=True)
class LabelConfig:
    """Settings of label detection. A calibration is valid only for the settings it was made with.

    Attributes:
      modes: how batch norm runs while unlearning (``UnlearnConfig.batch_norm`` itself is ignored). The score and the
        unlearned model come from the first mode.
      unlearn: how to unlearn. All epochs are run; ``stop_accuracy`` only decides which model is returned.
      images: clean images per draw, spread evenly over the labels; fewer if there are not as many.
      draws: number of times to start again from the model, each time with other images as long as there are more.
    """

    modes: tuple[Mode, ...] = ("train",)
    unlearn: UnlearnConfig = field(default_factory=gentle_unlearning)
    images: int = 100
    draws: int = 4

    def __post_init__(self):
        if not self.modes or len(set(self.modes)) < len(self.modes) or self.images < 2 or self.draws < 1:
            raise ConfigError(f"{self}: expected one or more different modes, images >= 2 and draws >= 1")


@dataclass(frozen=True, eq=False)
class LabelFindings:
    """Results of unlearning.

    Attributes:
      unlearned: variables after the first epoch of the first draw at or below the stop accuracy; if there is no such
        epoch, after the last one.
      shares: by mode, the share of each label among the predictions after each epoch, in evaluation mode, mean over
        draws [E, K].
      score: in the first mode, the largest of the labels' shares averaged over epochs; from 1/K to 1.
      label: the label with the largest share.
      timing: seconds by mode, including compilation.
      history: by mode, loss and accuracy of the unlearning steps, mean over draws [E].
      warnings: what did not go as intended, one sentence each.
    """

    unlearned: Variables
    shares: dict[str, Float[np.ndarray, "E K"]]
    score: float
    label: int
    timing: dict[str, float]
    history: dict[str, dict[str, np.ndarray]]
    warnings: tuple[str, ...]


class _Watched(NamedTuple):
    """Unlearning in one draw: the model returned, and rows [E, ...] by name."""

    params: Tree
    batch_stats: Tree
    reached: jax.Array  # bool []
    history: dict[str, jax.Array]


def detect_label(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: LabelConfig,
    *,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> LabelFindings:
    """Unlearns clean images and finds the label that the predictions go to.

    Models of one architecture share one compiled program per mode. No images other than ``data`` are used.

    Args:
      network: the network, a function of its variables.
      variables: variables of the suspicious model.
      data: clean images, uint8 [N, H, W, C], and their labels, int32 [N].
      key: random key for the choice of images, shuffling and augmentation.
      config: settings.
      augment: applied to every batch that is unlearned, not to the images that are predicted.
      progress: called after every draw.

    Raises:
      DataError: there are fewer than two images.
      DefenseError: unlearning diverged.
    """
    chosen, warnings = _draw(np.asarray(data.labels), key, config)
    timing, shares, history, kept = {}, {}, {}, []
    for mode in config.modes:
        started = time.perf_counter()
        runs = _unlearn_draws(network, variables, data, key, chosen, mode, config, augment, progress)
        rows = {name: np.mean([np.asarray(run.history[name]) for run in runs], 0) for name in runs[0].history}
        timing[mode] = time.perf_counter() - started
        _check_finite(rows["loss"], mode)
        shares[mode] = rows.pop("shares")
        history[mode] = rows
        kept.append(runs[0])
    if not kept[0].reached:
        warnings.append(
            f"Unlearning never reached the stop accuracy {config.unlearn.stop_accuracy:.2f}: the unlearned "
            f"model is that of the last of {config.unlearn.max_epochs} epochs, with accuracy "
            f"{history[config.modes[0]]['accuracy'][-1]:.2f}."
        )
    score, label = score_shares(shares[config.modes[0]])
    unlearned = {**variables, "params": kept[0].params, "batch_stats": kept[0].batch_stats}
    return LabelFindings(unlearned, shares, score, label, timing, history, tuple(warnings))


def score_shares(shares: Float[np.ndarray, "E K"]) -> tuple[float, int]:
    """The largest mean share of a label over epochs, and that label."""
    over_epochs = np.asarray(shares, np.float64).mean(0)
    return float(over_epochs.max()), int(over_epochs.argmax())


def _unlearn_draws(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    chosen: list[Int[np.ndarray, "n"]],
    mode: Mode,
    config: LabelConfig,
    augment: Augment | None,
    progress: Progress | None,
) -> list[_Watched]:
    """Runs the draws one after another through one compiled program; the host waits only to report progress."""
    settings = replace(config.unlearn, batch_norm=mode)
    phase = start_unlearning(network, settings, augment)
    runs: list[_Watched] = []
    stop = jnp.float32(settings.stop_accuracy)

    def run() -> Iterator[dict[str, jax.Array]]:
        for draw, picked in enumerate(chosen):
            images = Batch(*(jax.device_put(np.asarray(part)[picked]) for part in data))
            runs.append(_watch(phase, variables, images, jax.random.fold_in(key, draw), stop))
            yield {name: runs[-1].history[name] for name in ("loss", "accuracy")}

    for done, rows in enumerate(fetch_late(run(), watched=progress is not None), 1):
        if progress is not None:
            last = {name: float(row[-1]) for name, row in rows.items()}
            progress(f"unlearn ({mode})", done, len(chosen), last)
    return runs


@jit_settings()
def _watch(phase: Phase, variables: Variables, data: Batch, key: jax.Array, stop: jax.Array) -> _Watched:
    """Runs every epoch of unlearning, whatever the accuracy, and records the shares of predictions after each."""
    fixed = variables["masks"]
    tx = phase.optimizer(-(-data.labels.shape[0] // phase.batch_size))

    def step(carry: tuple, batch: Batch, key: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        params, batch_stats, opt_state = carry
        if phase.augment is not None:
            batch = batch._replace(images=phase.augment(key, batch.images))
        gradient, (batch_stats, metrics) = jax.grad(phase.loss, has_aux=True)(params, fixed, batch_stats, batch)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return (phase.update(params, cast(Tree, updates), fixed), batch_stats, opt_state), metrics

    def epoch(state: tuple, number: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        carry, kept, reached = state
        epoch_key = jax.random.fold_in(key, number)
        carry, metrics = run_epoch(step, carry, data, epoch_key, batch_size=phase.batch_size, shuffle=phase.shuffle)
        kept = jax.tree.map(lambda old, new: jnp.where(reached, old, new), kept, carry[:2])
        reached = reached | (metrics["accuracy"] <= stop)
        logits, _ = phase.apply({"params": carry[0], "batch_stats": carry[1], "masks": fixed}, data.images)
        shares = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1]).mean(0)
        return (carry, kept, reached), {**metrics, "shares": shares}

    begin = (variables["params"], variables["batch_stats"])
    state = ((*begin, tx.init(begin[0])), begin, jnp.bool_(False))
    (_, kept, reached), history = jax.lax.scan(epoch, state, jnp.arange(phase.epochs))
    return _Watched(*kept, reached, history)


def _draw(labels: Int[np.ndarray, "N"], key: jax.Array, config: LabelConfig) -> tuple[list[np.ndarray], list[str]]:
    """Positions of each draw's images. The labels take turns, and no image is reused before all have been used."""
    if len(labels) < 2:
        raise DataError(f"{len(labels)} clean images: expected at least 2; the settings ask for {config.images}")
    warnings = []
    if len(labels) < config.images:
        warnings.append(
            f"There are only {len(labels)} clean images, but the settings ask for {config.images}: "
            "scores from fewer images vary more, and a calibration with more images does not apply to them."
        )
    order = np.asarray(jax.random.permutation(key, len(labels)))
    rank = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rank[labels[order] == label] = np.arange((labels == label).sum())
    order = order[np.argsort(rank, kind="stable")]
    size = min(config.images, len(labels))
    return [np.take(order, np.arange(i * size, (i + 1) * size), mode="wrap") for i in range(config.draws)], warnings


def _check_finite(loss: Float[np.ndarray, "E"], mode: str) -> None:
    if not np.isfinite(loss).all():
        first = int(np.flatnonzero(~np.isfinite(loss))[0])
        raise DefenseError(
            f"unlearning ({mode}) diverged: the loss became {loss[first]} in epoch {first + 1}; "
            "lower the learning_rate of unlearning, and check that the normalisation is the checkpoint's"
        )

"""Scores, by name, that tell which samples of an untrusted training set look poisoned.

A score uses the images, the labels that the set states, and the model trained on them. A high score is suspicious.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from rnp_jax.defenses.consistency import score_consistency
from rnp_jax.detection.batches import read_features
from rnp_jax.detection.cognitive import CognitiveConfig, score_by_distillation
from rnp_jax.detection.features import ClusteringConfig, score_by_clusters, score_by_spectrum
from rnp_jax.detection.loss import score_by_difference, score_by_loss, score_by_unlearned
from rnp_jax.detection.separation import SampleJudgement, judge_scores
from rnp_jax.detection.strip import StripConfig, score_by_strip
from rnp_jax.errors import ConfigError, DataError, DefenseError
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables

Given = TypeVar("Given")

__all__ = [
    "SAMPLE_SCORES",
    "SampleCase",
    "SampleConfig",
    "SampleJudgement",
    "SampleScore",
    "judge_scores",
    "score_samples",
]


@dataclass(frozen=True)
class SampleConfig:
    """Settings of the scores.

    Attributes:
      strip: settings of STRIP, which superimposes images.
      cognitive: settings of Cognitive Distillation, which distils masks.
      clustering: settings of activation clustering.
      batch_size: images per batch; by default chosen for the device.
    """

    strip: StripConfig = field(default_factory=StripConfig)
    cognitive: CognitiveConfig = field(default_factory=CognitiveConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    batch_size: int | None = None

    def __post_init__(self):
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch_size {self.batch_size}: expected 1 or more")


@dataclass(frozen=True, eq=False)
class SampleCase:
    """The inputs that a score may use.

    Attributes:
      network: the network, a function of its variables.
      variables: variables of the suspicious model.
      unlearned: variables of the same model after unlearning clean images; None if it was not unlearned.
      data: the untrusted set, uint8 [N, H, W, C], and the labels it states, int32 [N].
      clean: a few clean images, for the scores that need them.
      key: random key for what a score draws.
      config: settings.
    """

    network: Network
    variables: Variables
    unlearned: Variables | None
    data: Batch
    clean: Batch | None
    key: jax.Array
    config: SampleConfig


@dataclass(frozen=True)
class SampleScore:
    """A sample score.

    Attributes:
      title: its name in reports.
      source: publication.
      compute: function that returns the scores [N] of a case that has all the inputs it needs.
      needs: inputs that may be missing: ``unlearned`` variables, ``clean`` images, or neither.
    """

    title: str
    source: str
    compute: Callable[[SampleCase], np.ndarray]
    needs: frozenset[Literal["unlearned", "clean"]] = frozenset()


def _unlearned(case: SampleCase) -> np.ndarray:
    return score_by_unlearned(case.network, _given(case.unlearned), case.data, case.config.batch_size)


def _difference(case: SampleCase) -> np.ndarray:
    unlearned = _given(case.unlearned)
    return score_by_difference(case.network, case.variables, unlearned, case.data, case.config.batch_size)


def _loss(case: SampleCase) -> np.ndarray:
    return score_by_loss(case.network, case.variables, case.data, case.config.batch_size)


def _strip(case: SampleCase) -> np.ndarray:
    images, clean = case.data.images, _given(case.clean).images
    config = case.config
    return score_by_strip(case.network, case.variables, images, clean, case.key, config.strip, config.batch_size)


def _cognitive(case: SampleCase) -> np.ndarray:
    config = case.config
    return score_by_distillation(
        case.network, case.variables, case.data.images, case.key, config.cognitive, config.batch_size
    )


def _spectral(case: SampleCase) -> np.ndarray:
    return score_by_spectrum(_features(case), np.asarray(case.data.labels))


def _clustering(case: SampleCase) -> np.ndarray:
    seed = int(jax.random.randint(case.key, (), 0, 2**31 - 1))
    return score_by_clusters(_features(case), np.asarray(case.data.labels), seed, case.config.clustering)


def _consistency(case: SampleCase) -> np.ndarray:
    return score_consistency(case.network, case.variables, np.asarray(case.data.images), case.key)


def _features(case: SampleCase) -> np.ndarray:
    return read_features(case.network, case.variables, case.data.images, case.config.batch_size)


SAMPLE_SCORES: dict[str, SampleScore] = {
    "unlearned": SampleScore(
        "confidence after unlearning", "Li et al., ICML 2023", _unlearned, frozenset({"unlearned"})
    ),
    "unlearned_difference": SampleScore(
        "loss kept through unlearning", "Li et al., ICML 2023", _difference, frozenset({"unlearned"})
    ),
    "loss": SampleScore("low loss", "Li et al., NeurIPS 2021", _loss),
    "strip": SampleScore("STRIP", "Gao et al., ACSAC 2019", _strip, frozenset({"clean"})),
    "cognitive_distillation": SampleScore("Cognitive Distillation", "Huang et al., ICLR 2023", _cognitive),
    "spectral": SampleScore("spectral signatures", "Tran et al., NeurIPS 2018", _spectral),
    "activation_clustering": SampleScore("activation clustering", "Chen et al., SafeAI 2019", _clustering),
    "consistency": SampleScore("feature consistency", "Chen et al., NeurIPS 2022", _consistency),
}
"""Scores of training samples, by name."""


def score_samples(
    method: str,
    network: Network,
    variables: Variables,
    unlearned: Variables | None,
    data: Batch,
    key: jax.Array,
    config: SampleConfig,
    *,
    clean: Batch | None = None,
) -> Float[np.ndarray, "N"]:
    """Scores how suspicious each sample of an untrusted training set is. A high score is suspicious.

    Args:
      method: one of ``SAMPLE_SCORES``.
      network: the network, a function of its variables.
      variables: variables of the model that was trained on the set.
      unlearned: variables of the model after unlearning, such as ``LabelFindings.unlearned``.
      data: the set, uint8 [N, H, W, C], and the labels it states, int32 [N].
      key: random key for what a score draws.
      config: settings.
      clean: clean images, which ``strip`` lays over the samples.

    Raises:
      ConfigError: the score does not exist, or an input that it needs is None.
      DataError: there are no samples, or the numbers of images and labels differ.
      DefenseError: a score is not finite.
    """
    if method not in SAMPLE_SCORES:
        raise ConfigError(f"unknown sample score {method!r}; choose one of {', '.join(SAMPLE_SCORES)}")
    score = SAMPLE_SCORES[method]
    given = {"unlearned": unlearned, "clean": clean}
    if lacking := [name for name in sorted(score.needs) if given[name] is None]:
        raise ConfigError(f"the sample score {method} needs {' and '.join(lacking)}, but got None; pass it")
    if len(data.labels) == 0 or len(data.images) != len(data.labels):
        raise DataError(
            f"{len(data.images)} images with {len(data.labels)} labels: expected one or more samples, one label each"
        )
    scores = score.compute(SampleCase(network, variables, unlearned, data, clean, key, config)).astype(np.float64)
    if len(bad := np.flatnonzero(~np.isfinite(scores))):
        raise DefenseError(
            f"{method} gives {len(bad)} of {len(scores)} samples a score that is not finite; the first is "
            f"{scores[bad[0]]} for sample {bad[0]}. Check that the normalisation is the checkpoint's and that "
            "unlearning did not diverge"
        )
    return scores


def _given(value: Given | None) -> Given:
    """Returns the value, which ``score_samples`` has checked not to be None."""
    if value is None:
        raise ConfigError("a score needs an input that is None; call score_samples, which checks the inputs")
    return value

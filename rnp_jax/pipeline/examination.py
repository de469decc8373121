"""What an examination of a model is given, and what its looks find."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from rnp_jax.data import Dataset
from rnp_jax.detection.calibration import Calibration, Statistic
from rnp_jax.detection.ruling import Ruling
from rnp_jax.detection.stamps import changed_pixels
from rnp_jax.detection.triggers import RecoveredTriggers
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.trigger import Trigger
from rnp_jax.types import Batch


class Examination(NamedTuple):
    """What is looked at, with what.

    Attributes:
      model: the suspicious model.
      clean: clean images.
      test: names the data and its classes; its images show a known trigger.
      trigger: the attack, where it is known.
      log: told what is done.
      config: the resolved options, for the record.
      data_dir: where prepared data sets are.
      cautions: what speaks against the way in which the model was opened.
    """

    model: Suspect
    clean: Batch
    test: Dataset
    trigger: Trigger | None
    log: RunLog
    config: Mapping[str, Any]
    data_dir: str | None = None
    cautions: tuple[str, ...] = ()

    def find_changed(self) -> Bool[np.ndarray, "H W"] | None:
        """Where the known trigger, if there is one, changes an image."""
        if self.trigger is None:
            return None
        test = self.trigger.test
        return changed_pixels(self.test.images[test.indices], test.images)


class Judged(NamedTuple):
    """The ruling on a statistic, and the calibration that it was held against."""

    statistic: Statistic
    ruling: Ruling
    calibration: Calibration | None


class TriggerSearch(NamedTuple):
    """Triggers recovered from one model, and the share of images that each sends to its label on the original [K]."""

    triggers: RecoveredTriggers
    on_original: Float[np.ndarray, "K"]


class ScoredSet(NamedTuple):
    """An untrusted set, its truth where that is known, and its samples' scores by name [N]."""

    name: str
    data: Batch
    poisoned: Bool[np.ndarray, "N"] | None
    scores: dict[str, np.ndarray]

"""Sample scores from the confidence in the label that the training set states, before and after unlearning.

Logits are converted to float64: in float32, all samples that a network is sure of would have the same loss, 0.
"""

import numpy as np
from jaxtyping import Float, Int

from rnp_jax.detection.batches import read_logits
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables


def score_by_loss(
    network: Network, variables: Variables, data: Batch, batch_size: int | None = None
) -> Float[np.ndarray, "N"]:
    """The log-odds of the stated label, high if the loss is low (ABL; Li et al., NeurIPS 2021, section 3.2).

    ABL takes the loss from the first epochs of a training run of its own, in which the loss is kept near a given value.
    Here it is the loss of the finished model, in evaluation mode, because only a checkpoint is available.
    """
    return _log_odds(*_read(network, variables, data, batch_size))


def score_by_unlearned(
    network: Network, unlearned: Variables, data: Batch, batch_size: int | None = None
) -> Float[np.ndarray, "N"]:
    """The log-odds of the stated label under the unlearned model (Li et al., ICML 2023, section 5).

    Unlearning clean images leaves the backdoor: triggered images are still predicted as the target label, and clean
    ones are forgotten. Clean images of the target class are kept too if all predictions collapse onto it. Log-odds
    order samples in the same way as confidence.
    """
    return _log_odds(*_read(network, unlearned, data, batch_size))


def score_by_difference(
    network: Network, variables: Variables, unlearned: Variables, data: Batch, batch_size: int | None = None
) -> Float[np.ndarray, "N"]:
    """The loss on the stated label before unlearning minus the loss after it: high if unlearning changed little."""
    before, after = (_log_odds(*_read(network, each, data, batch_size)) for each in (variables, unlearned))
    with np.errstate(invalid="ignore"):
        return np.logaddexp(0, -before) - np.logaddexp(0, -after)


def _read(
    network: Network, variables: Variables, data: Batch, batch_size: int | None
) -> tuple[Float[np.ndarray, "N K"], Int[np.ndarray, "N"]]:
    return read_logits(network, variables, data.images, batch_size), np.asarray(data.labels)


def _log_odds(logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """log p − log(1 − p) of each label's probability p; the cross-entropy is log(1 + exp(−odds))."""
    logits = logits.astype(np.float64)
    own = np.arange(logits.shape[1])[None] == labels[:, None]
    with np.errstate(invalid="ignore"):  # score_samples reports logits that are not finite
        return logits[own] - np.logaddexp.reduce(np.where(own, -np.inf, logits), axis=1)

"""Sample scores from the confidence in the label that the training set states, before and after unlearning.

Both take logits to float64: in float32 the loss of a sample that a network is sure of is 0, and so is the next one's.
"""

import numpy as np
from jaxtyping import Float, Int

from rnp_jax.detection.batches import read_logits
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables


def score_by_loss(
    network: Network, variables: Variables, data: Batch, batch_size: int | None = None
) -> Float[np.ndarray, "N"]:
    """The log-odds of the stated label, high where the loss is low (ABL; Li et al., NeurIPS 2021, section 3.2).

    ABL reads the loss in the first epochs of a training of its own, made to flood at a value; here it is that of the
    finished model, in evaluation mode, since a checkpoint is all there is.
    """
    return _log_odds(*_read(network, variables, data, batch_size))


def score_by_unlearned(
    network: Network, unlearned: Variables, data: Batch, batch_size: int | None = None
) -> Float[np.ndarray, "N"]:
    """The log-odds of the stated label under the unlearned model (Li et al., ICML 2023, section 5).

    Unlearning clean images leaves the backdoor: triggered images stay at the target, clean ones are forgotten. Clean
    images of the target class stay as well where everything collapses onto it. Log-odds order samples as the
    confidence does.
    """
    return _log_odds(*_read(network, unlearned, data, batch_size))


def score_by_difference(
    network: Network, variables: Variables, unlearned: Variables, data: Batch, batch_size: int | None = None
) -> Float[np.ndarray, "N"]:
    """The loss on the stated label before unlearning minus that after it: high where unlearning changed little."""
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
    with np.errstate(invalid="ignore"):  # logits that are no numbers are told by score_samples
        return logits[own] - np.logaddexp.reduce(np.where(own, -np.inf, logits), axis=1)

"""An attempt to bring the backdoor back in an item's defended network, for its row.

``rnp-jax reactivate`` with its defaults has the same images, random numbers and figures.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from rnp_jax.errors import AbsentError, ConfigError
from rnp_jax.pipeline.measuring import Outcome
from rnp_jax.pipeline.parties import Scene
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.sweep.options import Reactivate
from rnp_jax.sweep.worker import describe_error


class Recovered(NamedTuple):
    """What a row says of an attempt.

    Attributes:
      fields: those of the row.
      notes: why it was not made, though the trigger is known.
    """

    fields: dict[str, Any]
    notes: tuple[str, ...] = ()


def reactivate_item(
    name: Reactivate, outcome: Outcome, seed: int, log: RunLog, draw: Callable[[], Scene] | None
) -> Recovered:
    """What the attempt reaches on the defended network. One that fails leaves the row its other figures.

    Args:
      name: the attempt.
      outcome: what the method made of the model.
      seed: of everything random.
      log: told what takes its time.
      draw: gives the images of both sides; None where the trigger is not known.

    Raises:
      AbsentError, OutsideError: the item cannot be run for now.
    """
    if name == "none":
        return Recovered({})
    asked = {"reactivation": name}
    if draw is None:
        return Recovered(asked)
    with log.stage("reactivate"):
        try:
            return Recovered(asked | _try(name, outcome, seed, draw))
        except AbsentError:
            raise
        except Exception as error:
            return Recovered(asked, (f"{name.upper()} could not be made: {describe_error(error)}",))


def _try(name: str, outcome: Outcome, seed: int, draw: Callable[[], Scene]) -> dict[str, Any]:
    from rnp_jax.pipeline.reactivating import try_alone  # imported late: few sweeps need it

    if outcome.model.extractor is not None:
        raise ConfigError("the network is a head on features, and re-activation takes networks that read images")
    made = try_alone(name, outcome.model, draw(), seed, outcome.batch_size)
    return {
        "asr_reactivated": None if made.after is None else made.after.asr,
        "asr_reactivated_control": made.controls[0].asr if made.controls else None,
    }

"""``rnp-jax reactivate``: is the backdoor really gone? Tries to bring it back."""

from dataclasses import dataclass
from typing import Annotated

from rnp_jax.config import FOLDER
from rnp_jax.errors import VerdictError
from rnp_jax.pipeline.reactivating import reactivate_checkpoint
from rnp_jax.pipeline.reactivation_document import MEANINGS, STATUS
from rnp_jax.pipeline.reactivation_options import ReactivationOptions
from rnp_jax.report.reactivation import ReactivationResult


@dataclass(frozen=True)
class ReactivateOptions(ReactivationOptions):
    """Try to bring back a backdoor that a defense is said to have removed.

    A low ASR can be superficial: a handful of triggered images and a few epochs bring the backdoor back. Each attempt
    is repeated on a clean network (--reference), since a handful of images may plant a trigger in any network. Writes
    into --out: report.html, result.json, run.log and config.yaml. No network is written.

    The exit status is 0 if no attempt brought the backdoor back, which does not prove that the network is clean; 3 if
    one did, or if the trigger works without any; 5 if that cannot be told: ASR may exceed 20 % and there is no
    --reference, the intervals are too wide, the network is hardly better than guessing, or no attempt was made that
    measures ASR. As in every command, 1 is an error that you can
    mend, such as a wrong option, 2 an unusable command line, 70 an unforeseen error, and 130 an interruption.

    Attributes:
      out: output folder; by default runs/reactivate-NAME.
    """

    out: Annotated[str | None, FOLDER] = None


def run(options: ReactivateOptions) -> ReactivationResult:
    """Tries, writes everything, and returns what result.json says.

    Raises:
      RnpError: an unusable checkpoint, data set or option; no source is written to.
      VerdictError: everything is written, and the finding is another than that no attempt brought the backdoor back.
    """
    result = reactivate_checkpoint(options, options.out).result
    if status := STATUS[result.finding]:
        raise VerdictError(f"exit status {status}: {MEANINGS[result.finding]}", status)
    return result

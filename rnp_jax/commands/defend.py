"""``rnp-jax defend``: remove a backdoor, and show what was done."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

import tyro

from rnp_jax.config import METHOD
from rnp_jax.pipeline.defending import defend_checkpoint
from rnp_jax.pipeline.judging import check_required
from rnp_jax.pipeline.options import Require, RunOptions, When
from rnp_jax.pipeline.request import Request
from rnp_jax.report.schema import Result


@dataclass(frozen=True)
class DefendOptions(RunOptions):
    """Remove a backdoor from a checkpoint with one method.

    Writes into --out: the cleaned checkpoint (same layout as the source), masks/ (orbax) and mask_values.txt (the RNP
    release's format), report.html, result.json, figures/, run.log and config.yaml. A method that trains a new network
    on an untrusted set, such as abl, writes that network in place of the cleaned one; hid adds its extractor.pt.

    Attributes:
      checkpoint: PyTorch file to defend.
      method: method to use.
      out: output folder; by default runs/defend-NAME.
      require: what the result must support: nothing, or that the backdoor is removed. If it does not, everything is
        still written, and the exit status is 3.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    _: KW_ONLY
    method: Annotated[str, METHOD] = "auto"
    evidence: When = "unknown"
    require: Require = "nothing"


def run(options: DefendOptions) -> Result:
    """Defends the checkpoint and writes everything; returns what result.json says.

    Raises:
      RnpError: an unusable checkpoint, data set or option; nothing is written to the source.
      RequirementError: everything is written, and the result does not support what was required.
    """
    (method,) = options.methods
    result = defend_checkpoint(Request.of(options.checkpoint, method, options), options.out)
    check_required(options.require, result.verdict)
    return result

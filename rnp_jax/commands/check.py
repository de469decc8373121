"""``rnp-jax check``: the whole way with one checkpoint, and one page."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated

import tyro

from rnp_jax.config import UNREAD
from rnp_jax.detection.signs import SignConfig
from rnp_jax.errors import ConfigError, VerdictError
from rnp_jax.pipeline.checking import check_checkpoint
from rnp_jax.pipeline.concluding import MEANINGS, STATUS
from rnp_jax.pipeline.detecting import DetectionOptions
from rnp_jax.pipeline.options import RunOptions, When
from rnp_jax.pipeline.request import Request
from rnp_jax.report.check import Check


@dataclass(frozen=True)
class CheckSigns(SignConfig):
    """Which signs are looked for that need no calibration; the searches measure on the images that the defense does."""

    holdout: Annotated[float, tyro.conf.Fixed, tyro.conf.Suppress] = field(default=0.2, metadata={UNREAD: True})


@dataclass(frozen=True, kw_only=True)
class CheckDetection(DetectionOptions):
    """How the network is examined."""

    signs: CheckSigns = field(default_factory=CheckSigns)


@dataclass(frozen=True)
class CheckOptions(RunOptions):
    """Say whether a checkpoint hides a backdoor, remove what is found, and say what is known of the result.

    Writes into --out: report.html, check.json, detection/ (what `detect` writes), run.log and config.yaml; and, only if
    the network was changed, the new checkpoint (cleaned.pt, in the layout of the source). A network that nothing speaks
    against is left as it came.

    The exit status is 0 if there is no evidence of a backdoor; 3 if a backdoor was found or suspected and nothing
    supports that it is gone; 4 if one was found and the evidence supports that it is gone from the new file; 5 if the
    network could not be checked, because it is hardly better than guessing as it was opened, or far under the accuracy
    that its file states. As in every command, 1 is an error that you can mend, such as a wrong option, 2 an unusable
    command line, 70 an unforeseen error, and 130 an interruption.

    Attributes:
      checkpoint: PyTorch file to check.
      method: what removes a backdoor; auto alone decides by itself whether there is something to remove.
      out: output folder; by default runs/check-NAME.
      detection: how the network is examined before anything is changed.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    _: KW_ONLY
    method: str = "auto"
    evidence: When = "unknown"
    sweep_images: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = field(default=0, metadata={UNREAD: True})
    detection: CheckDetection = field(default_factory=CheckDetection)

    @classmethod
    def list_methods(cls) -> tuple[str, ...]:
        """The one that looks before it changes anything, and may leave a network alone."""
        return ("auto",)

    def __post_init__(self):
        super().__post_init__()
        (method,) = self.methods
        if method.name not in self.list_methods():
            raise ConfigError(
                f"--method {method.name}: it changes every network, and check leaves alone what nothing speaks "
                "against. Leave --method out, or use 'rnp-jax defend'"
            )


def run(options: CheckOptions) -> Check:
    """Checks, writes everything, and returns what check.json says.

    Raises:
      RnpError: an unusable checkpoint, data set or option; nothing is written to the source.
      VerdictError: everything is written, and the conclusion is another than that there is no evidence of a backdoor.
    """
    (method,) = options.methods
    request = Request.of(options.checkpoint, method, options)
    check = check_checkpoint(request, options.detection, options.out).check
    if status := STATUS[check.conclusion]:
        raise VerdictError(f"exit status {status}: {MEANINGS[check.conclusion]}", status)
    return check

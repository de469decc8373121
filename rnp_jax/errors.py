"""Every error a user can cause, each saying the value, the expectation and the fix."""

from collections.abc import Sequence
from os import PathLike


class RnpError(Exception):
    """Base of every error raised on purpose by this package.

    Attributes:
      status: exit status of a command that ends with this error.
    """

    status = 1


class CheckpointError(RnpError):
    """A checkpoint file that is hostile, damaged, too large or of an unsupported kind. Nothing in it was executed.

    Attributes:
      path: the file.
      reason: what is wrong with it, in one sentence.
    """

    def __init__(self, path: str | PathLike[str], reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ArchitectureError(RnpError):
    """A state dict that no supported architecture fits, or that several fit."""


class UnknownNetworkError(ArchitectureError):
    """A state dict that has the structure of no supported architecture."""


class AmbiguousError(ArchitectureError):
    """A state dict that several architectures fit.

    Attributes:
      candidates: their names.
    """

    def __init__(self, candidates: Sequence[str]):
        super().__init__(
            f"the tensors fit {' or '.join(candidates)}: choose one with --architecture, or name clean images with "
            "--data, on which evaluate, defend, detect and check try each"
        )
        self.candidates = tuple(candidates)


class DataError(RnpError):
    """Images or labels that cannot be used as given."""


class UnstatedError(DataError):
    """Nothing says how a network's images were normalised."""


class AbsentError(RnpError):
    """What a checkpoint needs to be judged is not there, or no longer what it was: no fault of the checkpoint's."""


class UnusableDataError(AbsentError, DataError):
    """Data, or an extractor, that is not there, cannot be read, or is another than the checkpoint needs."""


class ChangedError(AbsentError, CheckpointError):
    """A checkpoint that is no longer the file that was planned."""


class ConfigError(RnpError):
    """An option with an unknown name or an impossible value."""


class DefenseError(RnpError):
    """A defense that cannot do its work on this model or these images."""


class RequirementError(RnpError):
    """A finished defense whose result does not support what was required of it. Everything asked for was written."""

    status = 3


class VerdictError(RnpError):
    """A finished check whose verdict is another than that nothing speaks for a backdoor. Everything was written.

    Attributes:
      status: as ``rnp-jax check --help`` says.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class ResultError(RnpError):
    """A result or report that cannot be read, written or drawn."""


class OutsideError(RnpError):
    """Something that no checkpoint is to blame for; the same command goes on once it is mended."""


class DiskFullError(OutsideError):
    """No room on the disk, or in the quota, for what is being written. Nothing of it is left behind."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a command that says what it keeps and how to go on."""


class SweepError(RnpError):
    """A sweep that could not be run to its end, or some of whose items failed."""

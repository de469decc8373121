"""Checkpoints read in a process apart: what a hostile file costs or breaks is that process, and not the sweep.

The child (`rnp_jax.sweep.parsing_child`) reads one file after another for a ``Parser``. It starts in the folder ``/``,
with its two pipes as the only open descriptors, an environment of a few harmless names, no accelerator, and limits
that it cannot take back. It executes nothing of a file either; this is the second wall. Its answers are lines of JSON
of bounded length, checked before they are believed.
"""

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic import Field, StringConstraints

from rnp_jax.checks import check_number
from rnp_jax.errors import ArchitectureError, CheckpointError, DataError, RnpError, SweepError
from rnp_jax.models import Architecture
from rnp_jax.sweep.faults import is_stopped
from rnp_jax.sweep.manifest import Entry
from rnp_jax.torch_io.source_file import Container
from rnp_jax.untrusted_text import spell_hidden

GIB = 2**30
MOST_KILLS = 3
"""Children that may be killed over one file before it is to blame, or while they start."""

START_SECONDS = 120.0
"""How long the child may take until it is ready, which it usually is after two seconds."""

MOST_TEXT = 4000
"""Characters of a reason, a name or an anomaly."""

MOST_ANOMALIES = 100
MOST_ANSWER = 2**20
"""Bytes of an answer, its line end included."""

_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")
_SET = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

Line: TypeAlias = Annotated[str, StringConstraints(max_length=MOST_TEXT)]


@dataclass(frozen=True)
class Parsed:
    """What a file says about itself.

    Attributes:
      sha256: of the whole file.
      container: the kind of file.
      key: where in it the state dict is, as ``SourceOptions.key``.
      architecture: the fields of ``Architecture``, as JSON values.
      parameters: trainable scalars.
      bytes: size of the file.
      anomalies: one sentence for each thing that is unusual or was left unread.
      normalization: the file's own or the card's, as 'm,m,m/s,s,s'; None without either.
      extractor: SHA-256 of the card's; None without a card, and so below.
      data: the card's.
    """

    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    container: Container
    key: Line
    architecture: dict[str, Any]
    parameters: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(ge=0)]
    anomalies: Annotated[tuple[Line, ...], Field(max_length=MOST_ANOMALIES)] = ()
    normalization: Line | None = None
    extractor: Line | None = None
    data: Line | None = None


@dataclass(frozen=True)
class Answer:
    """``ready`` once, then one a file: ``parsed``, the name of an error with its reason, ``memory`` or ``crash``."""

    kind: Literal["ready", "parsed", "CheckpointError", "ArchitectureError", "DataError", "memory", "crash"]
    reason: Line = ""
    parsed: Parsed | None = None


_ANSWER = pydantic.TypeAdapter(Answer)
_ARCHITECTURE = pydantic.TypeAdapter(Architecture)


class _ChildLostError(Exception):
    """The child cannot be asked again; the message says why, as the end of a sentence about the file."""


class _KilledError(_ChildLostError):
    """Somebody killed the child: the file may be to blame, as where the machine runs out of memory, or not."""


class _TimeSpentError(_ChildLostError):
    """The file took too long, which no file before it can have caused."""


@dataclass(frozen=True)
class ParserLimits:
    """What reading one file may cost.

    Attributes:
      memory_bytes: address space beyond what the child has when it is ready. The file is held once and its tensors
        once more: about two and a half times the file's size, above 2 GiB three times.
      cpu_seconds: processor time.
      wall_seconds: time altogether, waiting for a slow disk included.

    Raises:
      ConfigError: a limit below 1.
    """

    memory_bytes: int = 8 * GIB
    cpu_seconds: int = 120
    wall_seconds: float = 600.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_number(field.name, getattr(self, field.name), 1)


class Parser:
    """Reads untrusted files in a child process; a context manager, for one thread at a time.

    The child starts with the first file and reads many. One that dies is replaced, and a file that was not its first
    is tried once more in the new one: what becomes of a file never depends on those before it. One that is killed from
    outside is no verdict on the file, unless that happens to each that reads it.
    """

    def __init__(self, limits: ParserLimits | None = None, *, check_crc: bool = True):
        self._limits = limits or ParserLimits()
        self._check_crc = check_crc
        self._child: _Child | None = None

    def __enter__(self) -> "Parser":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child, and waits for its end."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def parse(self, entry: Entry) -> Parsed:
        """What the entry's file is.

        Raises:
          CheckpointError: it cannot be read, is hostile or damaged, or reading it cost too much or broke the child.
          ArchitectureError: its tensors are of no supported architecture, or of several.
          DataError: the card beside it cannot be read, or is another file's.
          SweepError: the child does not start.
        """
        request = _request(entry, check_crc=self._check_crc, cpu_seconds=self._limits.cpu_seconds)
        kills = 0
        while True:
            if self._child is None:
                self._child = _start_child(self._limits)
            is_first = self._child.asked == 0
            try:
                return _believe(self._child.ask(request), entry.path)
            except _ChildLostError as lost:
                self.close()
                kills += is_first and isinstance(lost, _KilledError)
                is_sure = is_first and (not isinstance(lost, _KilledError) or kills >= MOST_KILLS)
                if is_sure or isinstance(lost, _TimeSpentError):
                    raise CheckpointError(entry.path, f"the process that read it {lost}") from lost
            except RnpError:
                raise
            except BaseException:  # such as an interrupt: an answer may still come, and would be taken for the next
                self.close()
                raise


def _request(entry: Entry, *, check_crc: bool, cpu_seconds: int) -> dict[str, Any]:
    return {
        "path": os.path.abspath(entry.path),
        "key": entry.key,
        "prefix": entry.prefix,
        "architecture": entry.architecture,
        "image_shape": entry.image_shape,
        "is_head": entry.extractor is not None,
        "check_crc": check_crc,
        "cpu_seconds": cpu_seconds,
    }


def _believe(answer: Answer, path: str) -> Parsed:
    """The answer to a request, or the error that it tells.

    Raises:
      _ChildLostError: it makes no sense, or is the child's last.
    """
    reason = spell_hidden(answer.reason.replace(os.path.abspath(path), path))
    match answer.kind:
        case "CheckpointError":
            raise CheckpointError(path, reason)
        case "ArchitectureError":
            raise ArchitectureError(reason)
        case "DataError":
            raise DataError(reason)
        case "memory":
            raise _ChildLostError("took more memory than allowed (ParserLimits.memory_bytes)")
        case "crash":
            raise _ChildLostError(f"failed: {reason}")
    if answer.kind != "parsed" or answer.parsed is None:
        raise _ChildLostError(f"gave the unexpected answer {answer.kind!r}")
    parsed = answer.parsed
    try:
        architecture = _ARCHITECTURE.validate_python(parsed.architecture)
    except (pydantic.ValidationError, RnpError) as error:
        raise _ChildLostError("gave an answer with an impossible architecture") from error
    return dataclasses.replace(
        parsed,
        key=spell_hidden(parsed.key),
        architecture=json.loads(json.dumps(asdict(architecture))),
        anomalies=tuple(map(spell_hidden, parsed.anomalies)),
        normalization=parsed.normalization and spell_hidden(parsed.normalization),
        extractor=parsed.extractor and spell_hidden(parsed.extractor),
        data=parsed.data and spell_hidden(parsed.data),
    )


def _start_child(limits: ParserLimits) -> "_Child":
    """A child that is ready; one that somebody kills while it starts is replaced.

    Raises:
      SweepError: it does not start.
    """
    for _ in range(MOST_KILLS - 1):
        try:
            return _Child(limits)
        except SweepError as error:
            if not isinstance(error.__cause__, _KilledError):
                raise
    return _Child(limits)


class _Child:
    """The process and its two pipes."""

    def __init__(self, limits: ParserLimits):
        self._limits, self.asked = limits, 0
        command = [sys.executable, "-P", "-s", "-m", "rnp_jax.sweep.parsing_child", str(limits.memory_bytes)]
        kept = {name: value for name in _KEPT if (value := os.environ.get(name)) is not None}
        path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        self._process = subprocess.Popen(  # noqa: S603 (this interpreter, this module)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env={**kept, **_SET, "PYTHONPATH": path},
            start_new_session=True,  # an interrupt of the terminal is the sweep's own
        )
        self._requests = self._process.stdin.fileno()  # pyright: ignore[reportOptionalMemberAccess]
        self._answers = self._process.stdout.fileno()  # pyright: ignore[reportOptionalMemberAccess]
        self._poll = select.poll()  # unlike select, for descriptors of any number
        self._poll.register(self._answers, select.POLLIN)
        try:
            answer = self._receive(START_SECONDS)
            if answer.kind != "ready":
                raise _ChildLostError(f"answered {answer.kind}")
        except _ChildLostError as lost:
            self.end()
            raise SweepError(
                f"the process that reads checkpoints does not start: it {lost}; to see its messages, run "
                f"{sys.executable} -P -m rnp_jax.sweep.parsing_child {limits.memory_bytes}"
            ) from lost
        except BaseException:
            self.end()
            raise

    def ask(self, request: dict[str, Any]) -> Answer:
        """The child's answer.

        Raises:
          _ChildLostError: it died, took too long, or answered what is no answer.
        """
        self.asked += 1
        try:
            os.write(self._requests, json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise self._find_end() from None
        return self._receive(self._limits.wall_seconds)

    def _receive(self, seconds: float) -> Answer:
        end, line = time.monotonic() + seconds, b""
        while not line.endswith(b"\n"):
            if not self._poll.poll(max(0.0, end - time.monotonic()) * 1000):
                if is_stopped(self._process.pid):
                    raise _KilledError("was stopped (SIGSTOP)")
                raise _TimeSpentError(f"took more than {seconds:g} seconds (ParserLimits.wall_seconds)")
            part = os.read(self._answers, 65536)
            if not part:
                raise self._find_end()
            line += part
            if len(line) > MOST_ANSWER:
                raise _ChildLostError(f"gave an answer of more than {MOST_ANSWER} bytes")
        try:
            return _ANSWER.validate_json(line)
        except pydantic.ValidationError as error:
            raise _ChildLostError("gave an invalid answer") from error

    def _find_end(self) -> _ChildLostError:
        """Why the child, which closed its pipe, is no more."""
        try:
            status = self._process.wait(2)
        except subprocess.TimeoutExpired:
            return _ChildLostError("ended without an answer")
        if status == -signal.SIGXCPU:
            seconds = f"{self._limits.cpu_seconds} seconds of processor time"
            return _TimeSpentError(f"took more than {seconds} (ParserLimits.cpu_seconds)")
        if status == -signal.SIGKILL:
            return _KilledError("was killed (SIGKILL), as happens when the machine runs out of memory")
        if status == -signal.SIGTERM:
            return _KilledError("was told to end (SIGTERM)")
        if status < 0:
            return _ChildLostError(f"crashed ({signal.Signals(-status).name})")
        return _ChildLostError(f"ended without an answer (exit status {status})")

    def end(self) -> None:
        """Kills the child if it lives, and buries it."""
        with self._process:  # closes the pipes and waits
            self._process.kill()

"""The process that reads untrusted checkpoints for a `rnp_jax.sweep.parsing.Parser`.

``python -m rnp_jax.sweep.parsing_child BYTES`` imports what reading needs and then gives up, for good, whatever it can
do without: it writes to no file, leaves no core dump, and takes at most ``BYTES`` more of address space. From then on
it answers each line of JSON on its standard input with one on its standard output.
"""

import json
import math
import os
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rnp_jax.card import Card, NormalizationCard, read_card
from rnp_jax.data import Normalization
from rnp_jax.errors import AmbiguousError, CheckpointError, DataError, RnpError
from rnp_jax.models import Architecture
from rnp_jax.models.inference import entries
from rnp_jax.recognition import Recognised, recognise
from rnp_jax.sweep.parsing import MOST_ANOMALIES, MOST_ANSWER, MOST_TEXT, Answer, Parsed
from rnp_jax.torch_io import StateDict, find_state_dict, read_checkpoint

_STATM = Path("/proc/self/statm")


def _serve(memory_bytes: int) -> None:
    """The child's life: ready, then one answer a request, until there is none more or it can no longer be sure."""
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no answer
    _warm_up()
    _confine(memory_bytes)
    answer = Answer("ready")
    lines = iter(sys.stdin.buffer)
    while True:
        os.write(answers, _encode(answer))
        if answer.kind in ("memory", "crash") or (line := next(lines, None)) is None:
            return
        answer = _answer(json.loads(line))


def _encode(answer: Answer) -> bytes:
    line = json.dumps(asdict(answer)).encode() + b"\n"
    if len(line) <= MOST_ANSWER:
        return line
    return _encode(Answer("ArchitectureError", f"its description takes more than {MOST_ANSWER} bytes"))


def _warm_up() -> None:
    """Everything that reading needs is imported, and the compiler's threads run, before the limits are set."""
    entries(Architecture("mlp", 2, 0, (("0", 2),), (1, 1, 1)))
    sys.dont_write_bytecode = True


def _confine(memory_bytes: int) -> None:
    own = int(_STATM.read_text().split()[0]) * resource.getpagesize() if _STATM.exists() else 0
    for kind, most in (
        (resource.RLIMIT_AS, own + memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _allow_cpu(seconds: int) -> None:
    """So many seconds from now on, rounded up; then SIGXCPU ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _answer(request: dict[str, Any]) -> Answer:
    _allow_cpu(request["cpu_seconds"])
    try:
        return Answer("parsed", parsed=_read(request))
    except CheckpointError as error:
        return Answer("CheckpointError", _cut(error.reason))
    except DataError as error:
        return Answer("DataError", _cut(str(error)))
    except RnpError as error:
        return Answer("ArchitectureError", _cut(str(error)))
    except MemoryError:
        return Answer("memory")
    except Exception as error:  # a file that finds a fault of this package must not end the sweep
        return Answer("crash", _cut(f"{type(error).__name__}: {error}"))


def _read(request: dict[str, Any]) -> Parsed:
    path = request["path"]
    checkpoint = read_checkpoint(path, check_crc=request["check_crc"])
    state_dict = find_state_dict(checkpoint, request["key"])
    card = read_card(path, checkpoint.sha256)
    shape = _image_shape(request, state_dict, card)
    name = request["architecture"] or (card and card.architecture.name)
    prefix = request["prefix"]
    try:
        found = recognise(checkpoint, state_dict, name, shape, prefix=prefix)
    except AmbiguousError as error:  # the images will settle it; until then any of them groups the item
        found = recognise(checkpoint, state_dict, error.candidates[0], shape, prefix=prefix)
    weights = (entry.shape for entry in entries(found.architecture) if entry.path[0] == "params")
    return Parsed(
        sha256=checkpoint.sha256,
        container=checkpoint.container,
        key=_cut("/".join(map(str, state_dict.location))) or "/",
        architecture=asdict(found.architecture),
        parameters=sum(map(math.prod, weights)),
        bytes=os.stat(path).st_size,
        anomalies=tuple(map(_cut, checkpoint.anomalies[:MOST_ANOMALIES])),
        **{**_from_card(card), **_from_file(found)},
    )


def _cut(text: str) -> str:
    """The text as an answer may have it: not too long, and UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()[:MOST_TEXT]


def _image_shape(request: dict[str, Any], state_dict: StateDict, card: Card | None) -> tuple[int, int, int] | None:
    """The shape of the input, where the entry or the card says it, or the file is a head on features."""
    if request["image_shape"] is not None:
        return tuple(request["image_shape"])
    if request["is_head"]:
        widths = [ref.shape[1] for ref in state_dict.tensors.refs.values() if len(ref.shape) == 2]
        return (1, 1, widths[0]) if widths else None
    return None if card is None else card.architecture.image_shape


def _from_file(found: Recognised) -> dict[str, str]:
    return {} if found.normaliser is None else {"normalization": _cut(_spell(found.normaliser.values))}


def _spell(normalization: Normalization | NormalizationCard) -> str:
    return "/".join(",".join(map(str, values)) for values in (normalization.mean, normalization.std))


def _from_card(card: Card | None) -> dict[str, str | None]:
    if card is None:
        return {}
    return {
        "normalization": _cut(_spell(card.normalization)),
        "extractor": None if card.extractor is None else _cut(card.extractor.sha256),
        "data": _cut(card.data),
    }


if __name__ == "__main__":
    _serve(int(sys.argv[1]))

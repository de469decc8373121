"""Stages that a run finished before it was interrupted: the same command takes them from its folder and goes on."""

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnp_jax.atomic import open_atomic, write_atomic
from rnp_jax.defenses.method import Found, Keep, compute_anew
from rnp_jax.errors import DiskFullError, Interrupted, ResultError
from rnp_jax.pipeline.case import Case
from rnp_jax.pipeline.holding import STATES
from rnp_jax.pipeline.packing import Packed, pack, unpack
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.versions import device_name, package_versions
from rnp_jax.regular_file import MIB, read_regular
from rnp_jax.source_version import code_version
from rnp_jax.store import remove_tree

WORTH = 5.0
"""Seconds that a stage takes, at least, for its value to be kept."""

_BELONGS = "belongs.json"
_SUFFIX = ".state"
_MOST = 8192 * MIB


class KeptStages:
    """The values of finished stages, a file each, in a folder of the one run that they belong to (a ``Keep``).

    A file holds the SHA-256 of all that follows, a line that describes the value and the arrays that the stage was
    given, and the arrays of the value. A stage is numbered among those of its name.
    """

    def __init__(self, root: Path, belongs: Mapping[str, str], log: RunLog):
        self._root, self._belongs, self._log = root, dict(belongs), log
        self._folder = root / _digest([json.dumps(self._belongs, sort_keys=True).encode()])[:16]
        self._count: Counter[str] = Counter()
        for note in self._tell_foreign():
            log.say(f"  note: {note}")

    def __call__(self, stage: str, compute: "partial[Found]") -> tuple[Found, float]:
        """The value and the seconds that it took: as it was kept, if it was computed from the same arrays."""
        self._count[stage] += 1
        path = self._folder / f"{stage}-{self._count[stage]}{_SUFFIX}"
        if path.exists():
            try:
                found, seconds = _read(path, digest_arrays((compute.args, compute.keywords)))
            except (OSError, ResultError) as error:
                self._log.say(f"  note: {_set_aside(path)} is not used: {error}")
            else:
                self._log.say(f"{stage}: taken from the interrupted run, which spent {seconds:.0f} s on it")
                return found, seconds
        found, seconds = compute_anew(stage, compute)
        if seconds >= WORTH:
            self._save(path, found, seconds, compute)
        return found, seconds

    def _save(self, path: Path, found: Any, seconds: float, compute: partial) -> None:
        try:
            packed = pack(found)
            write_atomic(self._folder / _BELONGS, json.dumps(self._belongs).encode())
            _write(path, packed, seconds, digest_arrays((compute.args, compute.keywords)))
        except (TypeError, OSError, DiskFullError) as error:  # the run itself goes on
            self._log.say(f"  note: {path.stem} is not kept, and would be computed again: {error}")

    def _tell_foreign(self) -> Iterator[str]:
        """One sentence for each other run that left states here."""
        for other in sorted(self._root.glob(f"*/{_BELONGS}")):
            if other.parent == self._folder:
                continue
            try:
                theirs = json.loads(read_regular(other, MIB))
                changed = [name for name, mine in self._belongs.items() if theirs.get(name) != mine]
            except (OSError, ValueError, AttributeError):
                changed = ["run"]
            yield f"{other.parent} is of a run with another {', another '.join(changed)}: it is not used"

    def tell(self) -> str:
        """What is kept, and how to go on."""
        states = sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        if not states:
            return f"no stage of {WORTH:.0f} s or more was finished, so the same command begins again"
        kept = dict.fromkeys(path.stem.rpartition("-")[0] for path in states)
        return f"{self._root} keeps what is finished ({', '.join(kept)}); the same command goes on from there"

    def remove(self) -> None:
        """Removes the states, and those of other runs of the folder."""
        remove_tree(self._root)


@contextlib.contextmanager
def keep_stages(folder: Path, belongs: Mapping[str, str], log: RunLog) -> Iterator[Keep]:
    """Keeps what stages compute, in a folder that this run holds, until the block ends well.

    Args:
      folder: the run's; the states go to ``states`` in it.
      belongs: digests of whatever decides the values, by the name under which a difference is told; see ``identify``.
      log: told what is taken, and what is not.

    Raises:
      Interrupted: Ctrl-C, with what is kept and how to go on.
    """
    stages = KeptStages(folder / STATES, belongs, log)
    try:
        yield stages
    except KeyboardInterrupt:
        raise Interrupted(stages.tell()) from None
    stages.remove()


def identify(request: Request, case: Case) -> dict[str, str]:
    """Digests of what decides the outcome of a method: the checkpoint, the images, the options and the program."""
    options = {name: value for name, value in request.plain().items() if name != "checkpoint"}
    images = (case.data, case.holdout, case.test.images, case.test.labels)
    return identify_run(case.model.checkpoint.sha256, images, options)


def identify_run(checkpoint: str, images: Any, options: Mapping[str, Any]) -> dict[str, str]:
    """Digests of what decides an outcome.

    Args:
      checkpoint: digest of the file.
      images: arrays, in a tree.
      options: everything else that was asked for.
    """
    program = {**package_versions(), "code": code_version(), "device": device_name()}
    return {
        "checkpoint": checkpoint,
        "images": digest_arrays(images),
        "options": _digest([json.dumps(options, sort_keys=True, default=str).encode()]),
        "version of the program or device": _digest([json.dumps(program, sort_keys=True).encode()]),
    }


def digest_arrays(tree: Any) -> str:
    """SHA-256 of all arrays of a tree, with their types and shapes; other leaves do not count."""

    def parts() -> Iterator[bytes]:
        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            if isinstance(leaf, jax.Array | np.ndarray | np.generic):
                array = np.asarray(leaf)
                yield f"{array.dtype} {array.shape} ".encode()
                yield array.tobytes()

    return _digest(parts())


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _write(path: Path, packed: Packed, seconds: float, inputs: str) -> None:
    arrays = [[_spell(array.dtype), array.shape] for array in packed.arrays]
    head = {"inputs": inputs, "seconds": seconds, "form": packed.form, "arrays": arrays}
    parts = [json.dumps(head).encode(), b"\n", *(array.tobytes() for array in packed.arrays)]
    with open_atomic(path) as file:
        file.write(f"{_digest(parts)}\n".encode())
        file.writelines(parts)


def _read(path: Path, inputs: str) -> tuple[Any, float]:
    """The value and its seconds.

    Raises:
      ResultError: the file is not as it was written, or the stage was given other arrays.
      OSError: it cannot be read.
    """
    told, _, rest = read_regular(path, _MOST).partition(b"\n")
    if _digest([rest]) != told.decode("ascii", "replace"):
        raise ResultError("it is damaged: its digest is another")
    try:
        line, _, content = rest.partition(b"\n")
        head, arrays, start = json.loads(line), [], 0
        for spelled, shape in head["arrays"]:
            array = np.frombuffer(content, jnp.dtype(spelled), math.prod(shape), start).reshape(shape)
            arrays.append(array.copy())
            start += array.nbytes
        given, seconds = head["inputs"], float(head["seconds"])
    except (ValueError, LookupError, TypeError) as error:
        raise ResultError(f"it is not as this program writes it: {error}") from error
    if given != inputs:
        raise ResultError("the stage was given other numbers then")
    return unpack(Packed(head["form"], arrays)), seconds


def _spell(kind: np.dtype) -> str:
    """A type by a name that ``jnp.dtype`` knows."""
    if kind.hasobject:
        raise TypeError(f"an array of {kind} cannot be kept")
    return kind.name if kind.kind == "V" else kind.str  # V: bfloat16 and its like


def _set_aside(path: Path) -> Path:
    """The file under another name, under which nothing looks for it."""
    return path.replace(path.with_suffix(".unused"))

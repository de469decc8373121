"""Damaged files for every reader: each must end in a typed error or a usable value, within seconds.

    python -m benchmarks.fuzz [--minutes 30] [--seed 0] [--only TEXT] [--keep FOLDER]

Sound files, which must be read, are damaged as in the tests (``tests/damage.py``): a hundred for each reader in turn,
until the time is up. The counts are printed: what was read, what was refused with one of the package's errors, and what
escaped, as another error or by taking longer than ``--limit`` seconds. The last are kept in ``--keep``, and the exit
status is 1. The same seed gives the same files.
"""

import argparse
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase

from benchmarks.fuzz_readers import Reader, list_readers
from rnp_jax.errors import RnpError

ROUND = 100
"""Files of a reader before the next reader's turn."""


@dataclass
class Count:
    """What became of one reader's files."""

    read: int = 0
    refused: int = 0
    escaped: list[str] = field(default_factory=list)
    slowest: float = 0.0


class Slow(BaseException):
    """Raised where a reader takes too long; no handler of errors catches it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Ends what runs longer with ``Slow``."""

    def stop(*_: object) -> None:
        raise Slow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_one(reader: Reader, content: bytes, folder: Path, count: Count, limit: float) -> bool:
    """Reads one file; False if it escaped."""
    path = folder / reader.file
    path.write_bytes(content)
    start = time.perf_counter()
    try:
        with limited(limit):
            reader.read(path)
        count.read += 1
    except RnpError:
        count.refused += 1
    except (Slow, Exception) as error:  # whatever else comes is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        count.escaped.append(f"{type(error).__name__}: {error!s:.200} ({Path(place.filename).name}:{place.lineno})")
        return False
    finally:
        count.slowest = max(count.slowest, time.perf_counter() - start)
    return True


def run_round(reader: Reader, seed: int, folder: Path, count: Count, options: argparse.Namespace) -> None:
    """A hundred files."""

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=ROUND, deadline=None, database=None, phases=[Phase.generate],
                         suppress_health_check=list(HealthCheck))  # fmt: skip
    @hypothesis.given(reader.inputs)
    def each(content: bytes) -> None:
        if not try_one(reader, content, folder, count, options.limit) and options.keep:
            name = f"{len(count.escaped):04}-{''.join(c if c.isalnum() else '_' for c in reader.name)}-{reader.file}"
            (options.keep / name).write_bytes(content)

    each()


def show(counts: dict[str, Count]) -> str:
    """The counts as a table in Markdown, and every kind of escape once."""
    lines = ["| reader | files | read | refused | escaped | slowest, s |", "|---|---|---|---|---|---|"]
    for name, each in counts.items():
        files = each.read + each.refused + len(each.escaped)
        figures = (files, each.read, each.refused, len(each.escaped), f"{each.slowest:.2f}")
        lines.append(f"| {name} | " + " | ".join(map(str, figures)) + " |")
    kinds = {(name, kind) for name, each in counts.items() for kind in each.escaped}
    return "\n".join([*lines, "", *(f"- {name}: {kind}" for name, kind in sorted(kinds)[:50])])


def main() -> int:
    """Runs until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=20, help="seconds that one file may take")
    parser.add_argument("--only", default="", help="readers whose names hold this")
    parser.add_argument("--keep", type=Path, help="folder for the files that escaped")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    end, number = time.monotonic() + 60 * options.minutes, options.seed
    with tempfile.TemporaryDirectory() as name:
        (sound := Path(name) / "sound").mkdir()
        (folder := Path(name) / "damaged").mkdir()
        readers = [reader for reader in list_readers(sound) if options.only in reader.name]
        counts = {reader.name: Count() for reader in readers}
        for reader in readers:
            (folder / reader.file).write_bytes(reader.sound)
            reader.read(folder / reader.file)
        while time.monotonic() < end:
            for reader in readers:
                if time.monotonic() < end:
                    run_round(reader, number, folder, counts[reader.name], options)
            number += 1
    print(show(counts))
    total = sum(each.read + each.refused + len(each.escaped) for each in counts.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{total:,} files, {sum(len(each.escaped) for each in counts.values())} escaped; peak memory {peak:.1f} GiB")
    return int(any(each.escaped for each in counts.values()))


if __name__ == "__main__":
    sys.exit(main())

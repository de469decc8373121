"""A job without a model: a row from the item's name, so that a sweep's machinery can be tested by itself.

As a module it is a worker: ``python tests/sweep/light.py FOLDER SUPERVISOR``.
"""

import hashlib
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rnp_jax.errors import CheckpointError, DefenseError, SweepError
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.items import Item, make_key, read_plan
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.local import STOPPED, end_with_supervisor
from rnp_jax.sweep.worker import work

COMMAND = (sys.executable, str(Path(__file__).resolve()))
WILD, BAD, HARD, LONG = "wild", "bad", "hard", "long"
POISON, KILLED, HALTED = "poison", "killed", "halted"
_SENT = {POISON: signal.SIGSEGV, KILLED: signal.SIGKILL, HALTED: signal.SIGSTOP}


def items_of(*names: str) -> tuple[Item, ...]:
    return tuple(Item(make_key(name=name), name, "0" * 64, "none") for name in names)


def expected(item: Item) -> SweepRow:
    digest = int(hashlib.sha256(item.path.encode()).hexdigest(), 16)
    return SweepRow(key=item.key, checkpoint=item.path, sha256=item.sha256, method=item.method, status="ok",
                    attack="badnets", der=digest % 1000 / 1000)  # fmt: skip


class LightJob:
    """Sleeps ``seconds``; names that begin with one of the words above go wrong in that way."""

    def __init__(self, seconds: float = 0.0, together: int = 1):
        self.seconds, self.together = seconds, together
        self.loaded: list[str] = []

    def hand_size(self, item: Item) -> int:
        return self.together if item.method == "none" else 1

    def load(self, item: Item) -> Item:
        self.loaded.append(item.path)
        if item.path.startswith(BAD):
            raise CheckpointError(item.path, "no checkpoint")
        return item

    def run_hand(self, items: Sequence[Item], loaded: Sequence[Item], attempt: int) -> list[SweepRow]:
        assert len(items) <= self.together
        return [self.run(item, own, attempt) for item, own in zip(items, loaded, strict=True)]

    def run(self, item: Item, loaded: Item, attempt: int) -> SweepRow:
        assert loaded is item
        time.sleep(self.seconds)
        for word, sent in _SENT.items():
            if item.path.startswith(word):
                os.kill(os.getpid(), sent)
        if item.path.startswith(LONG):
            time.sleep(600)
        if item.path.startswith(WILD):
            raise ValueError("something else")
        if item.path.startswith(HARD):
            raise DefenseError("nothing to prune")
        return expected(item).model_copy(update={"attempt": attempt})


def serve(out: Path, supervisor: str = "") -> int:
    ledger = Ledger(out)
    job = LightJob(float(os.environ.get("LIGHT_SECONDS", "0.01")), int(os.environ.get("LIGHT_TOGETHER", "1")))
    with ledger.join(supervisor) as member:
        return work(ledger, read_plan(out), job, member, lambda: not supervisor or ledger.is_alive(supervisor))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end_with_supervisor()
    try:
        serve(Path(sys.argv[1]), sys.argv[2])
    except SweepError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(STOPPED)

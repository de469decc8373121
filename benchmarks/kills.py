"""Commands that are killed at random moments and run again until they end: is all as if nobody had disturbed them?

    python -m benchmarks.kills --out FOLDER [--kills 100] [--commands defend attack sweep simclr hid study] [--seed 0]

Each command takes seconds (``benchmarks/kill_commands.py``). It is run undisturbed twice, and then as a series of
cases: killed with SIGKILL up to six times, run again at once each time (training with ``--resume``), and let go.
Killed is its process or, as a power cut would, all of its processes; of a sweep sometimes a worker or another child.
Half of the kills come after a random time, half as soon as a random number of names was seen in the folder, since
writing takes little of the time. A state of a training is saved after every epoch, not every minute; what a
command imports has been imported before it starts (``benchmarks/kill_runs.py``).

A case is as it should be if the command ends well, the folder holds the same names, weights, masks and figures as
undisturbed (no draft, no lock, no saved state), and no process is left. The folders of others are kept in FOLDER, and
the exit status is 1. The same seed draws the same kills. The sources must not change meanwhile, since a sweep's rows
belong to one version of them.
"""

import argparse
import itertools
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compare import describe_machine
from benchmarks.kill_commands import COMMANDS, ROOT, Command, compare, describe
from benchmarks.kill_runs import run_command

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["benchmarks.kill_runs"])
_MARK = "RNP_JAX_KILLS"
_MOST_KILLS = 6  # of one case
_MOST_SECONDS = 600  # of one run
_PATIENCE = 15.0  # seconds in which the children of a killed process have to end
_POLL = 0.002
_REFUSED = re.compile("exists already|already contains a finished result")
_QUARTERS = ("first quarter", "second", "third", "last")


@dataclass(frozen=True)
class Kill:
    """Of ``main``, ``all`` or a ``child``, after ``seconds`` or once so many ``names`` were seen in the folder."""

    target: str
    seconds: float = 0.0
    names: int = 0


@dataclass
class Undisturbed:
    """What a command gives, and the shortest time that it took."""

    names: dict[str, str]
    seconds: float


@dataclass
class Tally:
    """Of one command: kills by whom they hit and when, cases by how often they were killed, and what was wrong."""

    kills: Counter[str] = field(default_factory=Counter)
    cases: int = 0
    late: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.kills[target] for target in ("main", "all", "child"))


class Runner:
    """Runs one command in a folder of its own, and kills it.

    Attributes:
      folder: where it runs.
      mark: in the environment of all its processes.
    """

    def __init__(self, command: Command, folder: Path, inputs: Path):
        self._command, self.folder, self._inputs = command, folder, inputs
        self.mark = f"{_MARK}={folder}"
        programs = os.environ.get("RNP_JAX_CACHE_DIR", str(inputs / "programs"))
        self._environment = {_MARK: str(folder), "PYTHONPATH": str(ROOT), "RNP_JAX_CACHE_DIR": programs}
        folder.mkdir(parents=True)
        (folder / "stderr").touch()

    def run(self, draw: random.Random, kill: Kill | None = None, again: bool = False) -> tuple[int, bool]:
        """The exit status, and whether the kill came in time."""
        arguments = [each.format(inputs=self._inputs) for each in self._command.arguments]
        arguments += self._command.again if again else ()
        words = [*arguments, "--threads", "1"]
        process = _FORKS.Process(target=run_command, args=(words, self.folder, self._environment))
        process.start()
        seen, began, done = set(), time.monotonic(), False
        while process.is_alive():
            now = time.monotonic() - began
            if kill is not None and not done:
                seen |= list_names(self.folder / "out") if kill.names else set()
                if len(seen) >= kill.names if kill.names else now >= kill.seconds:
                    done = self._kill(process, kill.target, draw)
            if now > _MOST_SECONDS:
                process.kill()
            time.sleep(_POLL)
        return process.exitcode or 0, done

    def _kill(self, process: Any, target: str, draw: random.Random) -> bool:
        """False where there is no such process, yet."""
        children = [found for found in self.processes() if found != process.pid] if target == "child" else []
        if target == "child" and not children:
            return False
        try:
            if target == "all" and os.getpgid(process.pid) == process.pid:  # it is the first of its session by now
                os.killpg(process.pid, signal.SIGKILL)
            else:
                os.kill(draw.choice(children) if children else process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def processes(self) -> list[int]:
        """Those that live and carry the mark, ascending."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return sorted(found)

    def end_processes(self) -> list[int]:
        """Those that were left, after a while in which they may end; they are killed."""
        end = time.monotonic() + _PATIENCE
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        for process in left:
            os.kill(process, signal.SIGKILL)
        return left

    def said(self) -> str:
        """The end of what its processes printed."""
        lines = (self.folder / "stderr").read_text("utf-8", "replace").strip().splitlines()
        return " / ".join(lines[-3:])[-400:]


def list_names(folder: Path) -> set[str]:
    """Of every file and folder below."""
    found = set()
    for parent, folders, files in os.walk(folder):
        found.update(os.path.join(parent, name) for name in (*folders, *files))
    return found


def run_undisturbed(command: Command, folder: Path, inputs: Path) -> Undisturbed:
    """Runs it once to compile its programs, and once more; both give the same. Cards hold paths: all are as deep."""
    described, seconds = [], 0.0
    for number in range(2):
        runner = Runner(command, folder.with_name(f"{folder.name}-{number}"), inputs)
        began = time.monotonic()
        status, _ = runner.run(random.Random(0))
        seconds = time.monotonic() - began
        if status:
            raise SystemExit(f"undisturbed, it ends with status {status}: {runner.said()}")
        described.append(describe(runner.folder / "out"))
    if differences := compare(*described):
        raise SystemExit(f"two undisturbed runs differ: {'; '.join(differences)}")
    return Undisturbed(described[1], seconds)


def write_inputs(folder: Path) -> None:
    """A file cut short, and what ``attack`` writes."""
    folder.mkdir(parents=True)
    (folder / "cut.pt").write_bytes((ROOT / "checkpoints" / "digits_clean.pt").read_bytes()[:2000])
    runner = Runner(COMMANDS["attack"], folder / "attack", folder)
    if runner.run(random.Random(0))[0]:
        raise SystemExit(runner.said())
    for path in (runner.folder / "out").iterdir():
        path.rename(folder / path.name)


def draw_kill(draw: random.Random, command: Command, usual: Undisturbed) -> Kill:
    target = draw.choice(("main", "all", "child", "child") if command.workers else ("main", "all"))
    if draw.random() < 0.5:
        return Kill(target, seconds=draw.uniform(0, usual.seconds))
    return Kill(target, names=draw.randint(1, len(usual.names)))


def run_case(runner: Runner, command: Command, usual: Undisturbed, draw: random.Random, most: int, tally: Tally) -> str:
    """Kills it up to ``most`` times and lets it end; what is wrong then."""
    out, again = runner.folder / "out", False
    for number in itertools.count():
        ended = command.last is not None and (out / command.last).exists()
        kill = None if ended or number >= most else draw_kill(draw, command, usual)
        began = time.monotonic()
        status, killed = runner.run(draw, kill, again)
        if killed and kill is not None:
            count_kill(tally, kill, (time.monotonic() - began) / usual.seconds, command, out)
        if status == -signal.SIGKILL and killed:
            again = True
            continue
        tally.late += kill is not None and not killed
        if not (killed or again):
            usual.seconds = min(usual.seconds, time.monotonic() - began)
        refused = ended and status == 1 and _REFUSED.search(runner.said())
        faults = [] if status == 0 or refused else [f"status {status}: {runner.said()}"]
        if left := runner.end_processes():
            faults.append(f"{len(left)} processes are left")
        return "; ".join(faults + compare(describe(out), usual.names))
    raise AssertionError


def count_kill(tally: Tally, kill: Kill, share: float, command: Command, out: Path) -> None:
    """Notes whom it hit, and when: the quarter of the usual time, and how far the folder was."""
    tally.kills[kill.target] += 1
    if kill.target != "child":
        tally.kills[_QUARTERS[min(int(4 * share), 3)]] += 1
        ended = command.last is not None and (out / command.last).exists()
        tally.kills["all written" if ended else "some written" if out.exists() else "nothing written"] += 1


def show(tallies: dict[str, Tally], usual: dict[str, Undisturbed]) -> str:
    """The counts as a table in Markdown, and what was wrong."""
    columns = ("main", "all", "child", *_QUARTERS, "nothing written", "some written", "all written")
    heads = ("command", "s", "kills", *columns, "cases", "not as undisturbed")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, tally in tallies.items():
        figures = [tally.total, *(tally.kills[column] for column in columns), tally.cases, len(tally.faults)]
        lines.append(f"| {name} | {usual[name].seconds:.0f} | " + " | ".join(map(str, figures)) + " |")
    total = sum(tally.total for tally in tallies.values())
    wrong = sum(len(tally.faults) for tally in tallies.values())
    cases = sum(tally.cases for tally in tallies.values())
    late = sum(tally.late for tally in tallies.values())
    told = f"{total} kills in {cases} cases; {late} more came after the command had ended; {wrong} not as undisturbed"
    return "\n".join([*lines, "", told, *(f"- {name}: {fault}" for name in tallies for fault in tallies[name].faults)])


def main() -> int:
    """Goes through the commands in turn until there were so many kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=600, help="after which no case is begun")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--out", type=Path, required=True, help="a new folder, for programs and what was not as usual")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out, draw = options.out.absolute(), random.Random(options.seed)
    inputs = out / "inputs"
    write_inputs(inputs)
    usual: dict[str, Undisturbed] = {}
    tallies = {name: Tally() for name in options.commands}
    began = time.monotonic()
    for number, name in enumerate(itertools.cycle(options.commands)):
        left = options.kills - sum(tally.total for tally in tallies.values())
        if left <= 0 or time.monotonic() - began > 60 * options.minutes:
            break
        command, tally = COMMANDS[name], tallies[name]
        if name not in usual:
            usual[name] = run_undisturbed(command, out / f"{name}-undisturbed", inputs)
        runner = Runner(command, out / f"{name}-{number:03}", inputs)
        fault = run_case(runner, command, usual[name], draw, min(left, draw.randint(1, _MOST_KILLS)), tally)
        tally.cases += 1
        if fault:
            tally.faults.append(f"{runner.folder}: {fault}")
        else:
            shutil.rmtree(runner.folder)
        sys.stderr.write(f"{options.kills - left:4} kills before; {name}: {fault or 'as undisturbed'}\n")
    print(f"{describe_machine()}\n\n{show({name: tallies[name] for name in usual}, usual)}")
    return int(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())

"""The campaign of kills sees what is missing, too much or another, and a few kills leave everything as it was."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kill_commands import COMMANDS, Command, compare, describe
from benchmarks.kills import Kill, Runner, Tally, Undisturbed, count_kill, draw_kill, list_names, show
from rnp_jax.store import save_tree

ROOT = Path(__file__).parents[2]


def write(folder: Path, seconds: float, acc: float, weights: bytes, mask: float) -> dict[str, str]:
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"timing": [{"seconds": seconds}], "after": {"acc": acc}}))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"acc": acc, "device": seconds}) + "\n" for _ in range(2)))
    (folder / "cleaned.pt").write_bytes(weights)
    (folder / "report.html").write_text(f"{seconds} s")
    (folder / "logs").mkdir()
    (folder / "logs" / str(seconds)).touch()
    save_tree(folder / "masks", {"layer": np.full(3, mask)}, {"method": "clp"})
    return describe(folder)


def test_times_may_differ_and_nothing_else(tmp_path):
    usual = write(tmp_path / "0", 1.0, 0.5, b"weights", 1.0)
    assert compare(write(tmp_path / "1", 2.0, 0.5, b"weights", 1.0), usual) == []
    other = write(tmp_path / "2", 1.0, 0.25, b"Weights", 0.0)
    assert compare(other, usual) == [f"differs {name}" for name in ("cleaned.pt", "masks", "result.json", "rows.jsonl")]
    (tmp_path / "1" / ".lock").touch()
    (tmp_path / "1" / "report.html").unlink()
    assert compare(describe(tmp_path / "1"), usual) == ["missing report.html", "left over .lock"]


@pytest.mark.parametrize("target", ["main", "all"])
def test_a_process_is_killed_when_it_is_time_and_those_that_it_leaves_are_found(target, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.kills._PATIENCE", 0.1)
    runner = Runner(Command(("cache",)), tmp_path / "case", tmp_path)
    status, killed = runner.run(random.Random(0), Kill(target))
    assert (status, killed) == (-9, True)
    with subprocess.Popen(["sleep", "60"], env={"RNP_JAX_KILLS": str(runner.folder)}) as left:
        assert runner.end_processes() == [left.pid]
    assert runner.processes() == []


def test_the_same_seed_draws_the_same_kills():
    usual = Undisturbed({"a": "file"}, 8.0)
    first, second = ([draw_kill(random.Random(1), COMMANDS["sweep"], usual) for _ in range(2)] for _ in range(2))
    assert first == second


def test_counts_are_shown(tmp_path):
    tally = Tally(cases=2, faults=["case: left over .lock"])
    count_kill(tally, Kill("main", seconds=1.0), 0.3, COMMANDS["defend"], tmp_path)
    count_kill(tally, Kill("all", names=3), 1.2, COMMANDS["defend"], tmp_path / "nothing")
    text = show({"defend": tally}, {"defend": Undisturbed({}, 8.0)})
    assert "| defend | 8 | 2 | 1 | 1 | 0 | 0 | 1 | 0 | 1 | 1 | 1 | 0 | 2 | 1 |" in text
    assert "2 kills in 2 cases; 0 more came after the command had ended; 1 not as undisturbed" in text
    assert text.endswith("- defend: case: left over .lock")
    assert list_names(tmp_path / "nothing") == set()


@pytest.mark.slow
def test_a_few_kills_of_a_training_and_a_sweep_leave_everything_as_it_was(tmp_path):
    options = ("--kills", "3", "--commands", "attack", "sweep", "--out", str(tmp_path / "out"))
    command = [sys.executable, "-m", "benchmarks.kills", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills in " in done.stdout

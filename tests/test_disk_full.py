"""Every writer where the disk is full: an error that says so, nothing half written, and the same again later."""

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import pytest

from rnp_jax.atomic import create_atomic, write_atomic
from rnp_jax.checkpoints import load_model, open_checkpoint, save_model, save_variables
from rnp_jax.config import ComputeOptions, write_yaml
from rnp_jax.document import write_text
from rnp_jax.errors import DiskFullError
from rnp_jax.help_cache import keep_help
from rnp_jax.masks import write_mask_values
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report.sweep_table import write_tables
from rnp_jax.store import save_tree
from rnp_jax.sweep.items import write_plan
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.torch_io import write_checkpoint
from tests.networks import network_of
from tests.runs import CHECKPOINT
from tests.sweep.light import expected, items_of

ITEMS = items_of("a", "b", "c")
ROWS = [expected(item) for item in ITEMS]
VALUES = {"layer": np.linspace(0, 1, 2000).astype(np.float32)}


def save_again(path: Path) -> None:
    model = load_model(CHECKPOINT)
    save_model(path, model, model.variables)


def save_as(container: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        checkpoint, state_dict, _ = open_checkpoint(CHECKPOINT)
        write_checkpoint(path, checkpoint, state_dict, {}, container=container)  # pyright: ignore[reportArgumentType]

    return write


def save_new(path: Path) -> None:
    network = network_of("mlp")
    save_variables(path, network, network.init(jax.random.key(0)))


def take_part(path: Path) -> None:
    ledger = Ledger(path)
    with ledger.join() as member:
        for row in ROWS:
            assert ledger.claim(row.key, member)
            ledger.commit(row)


def log_lines(path: Path) -> None:
    log = RunLog(quiet=True)
    log.say("a line " * 1000)
    log.write_to(path)


WRITERS = MappingProxyType(
    {
        "file": lambda path: write_atomic(path, bytes(9000)),
        "file made once": lambda path: create_atomic(path, bytes(9000)),
        "options": lambda path: write_yaml(path, ComputeOptions()),
        "report": lambda path: write_text(path, "text" * 2000),
        "mask values": lambda path: write_mask_values(path, VALUES),
        "tree": lambda path: save_tree(path, VALUES, {"a": 1}, overwrite=True),
        "cleaned checkpoint": save_again,
        "new checkpoint": save_new,
        **{kind: save_as(kind) for kind in ("zip", "legacy", "safetensors")},
        "tables": lambda path: write_tables(path, ROWS),
        "plan": lambda path: write_plan(path, ITEMS),
        "ledger": take_part,
        "log": log_lines,
    }
)


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow beyond this, as with a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_without_room_says_so_and_leaves_no_part_of_anything(name, tmp_path):
    write, sizes, fitted = WRITERS[name], (0, 64, 500, 1000, 4000, 5000, 1000_000), []
    write(tmp_path / "roomy")  # what it compiles is kept
    for size in sizes:
        path = tmp_path / str(size)
        told = None
        try:
            with room(size):
                write(path)
        except DiskFullError as error:
            told = str(error)
        if told is None:
            fitted.append(size)
        else:
            assert told.endswith("File too large; free some space and run the same command again")
            assert not [found for found in tmp_path.rglob("*") if found.name.endswith(".part")]
            if name not in ("tables", "ledger", "plan", "log"):  # of several files, or one to which lines are added
                assert not path.exists()
            write(path)
        assert path.exists()
    assert fitted == [size for size in sizes if size >= fitted[0] > 0]


def test_a_full_cache_of_help_pages_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("RNP_JAX_CACHE", "on")
    monkeypatch.setenv("RNP_JAX_CACHE_DIR", str(tmp_path))
    with room(0):
        keep_help(["defend", "--help"], "page")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


SMALL = ("--test-images", "60", "--batch-size", "20", "--defense.size", "100", "--sweep-images", "0")
CLP = ("--clp.threshold.rule", "number", "--clp.threshold.number", "3")
ATTACK = (*("--data", "digits", "--image-size", "8", "--width", "2"), "--train.epochs", "1", "--test-images", "60")
COMMANDS = MappingProxyType(
    {
        "defend": ("{victim}", "--method", "clp", *CLP, *SMALL, "--out", "{out}"),
        "compare": ("{victim}", "--method", "none", "clp", *CLP, *SMALL[:6], "--out", "{out}"),
        "attack": ("badnets", *ATTACK, "--out", "{out}/new.pt"),
        "sweep": ("{victim}", "--method", "none", "clp", *CLP, *SMALL, "--write", "report", "--out", "{out}"),
    }
)
"""Each with a small network."""

IN_A_SMALL_SPACE = """
import os, subprocess, sys
from pathlib import Path
from rnp_jax.cli import main
disk, sizes, *arguments = sys.argv[1:]
for size in sizes.split(","):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", disk], check=True)
    own = [each.format(out=f"{disk}/out") for each in arguments]
    first = main(own)
    rows = [path.read_text() for path in Path(disk).rglob("rows/*.json")]
    unfit = [row for row in rows if '"status":"ok"' not in row]
    subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    again = main(own) if first else None
    parts = [path.name for path in Path(disk).rglob("*") if path.name.endswith(".part")]
    print("RESULT", size, first, len(unfit), again, parts, flush=True)
    subprocess.run(["umount", disk], check=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("command", "count"), [("defend", 24), ("compare", 24), ("attack", 24), ("sweep", 6)])
def test_a_command_stops_on_a_full_disk_and_goes_on_when_there_is_room(command, count, small_victim, tmp_path):
    """File systems of several sizes, mounted where that is permitted to an ordinary user."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    (tmp_path / "disk").mkdir()
    sizes = ",".join(str(int(size)) for size in np.geomspace(4, 900, count))
    arguments = [each.replace("{victim}", str(small_victim)) for each in COMMANDS[command]]
    code = ["unshare", "-rm", sys.executable, "-c", IN_A_SMALL_SPACE, str(tmp_path / "disk"), sizes, command]
    done = subprocess.run([*code, *arguments], capture_output=True, text=True, env={**os.environ, "TMPDIR": "/tmp"})
    found = [line.split() for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(found) == count, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("rnp-jax: ")]
    full = [size for _, size, first, *_ in found if first == "1"]
    assert len(told) == len(full) > 2
    assert all("No space left on device; free some space and run the same command again" in line for line in told)
    for _, size, first, unfit, again, parts in found:
        assert (first, unfit, again, parts) == (("1", "0", "0", "[]") if size in full else ("0", "0", "None", "[]")), (
            size
        )

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from rnp_jax.checkpoints import open_checkpoint
from rnp_jax.errors import ArchitectureError, CheckpointError, ConfigError, DataError, SweepError
from rnp_jax.models import Architecture
from rnp_jax.models.inference import entries
from rnp_jax.sweep.manifest import Entry
from rnp_jax.sweep.parsing import MOST_KILLS, Parser, ParserLimits
from tests.torch_io import hostile as h

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
DIGITS = CHECKPOINTS / "digits_badnets.pt"
MIB = 2**20


def children() -> set[int]:
    """The parsing processes that are children of this one, dead and unburied ones too."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == os.getpid() and (state == "Z" or b"rnp_jax.sweep.parsing_child" in command):
            found.add(int(folder.name))
    return found


@pytest.fixture
def known():
    """The children there were before; none is added."""
    before = children()
    yield before
    assert children() == before


@pytest.fixture(scope="module")
def parser():
    """One for the tests that do it no harm."""
    with Parser() as shared:
        shared.parse(Entry(str(DIGITS)))
        yield shared
    assert children() == set()


def linear(path: Path, **shapes: tuple[int, ...]) -> Path:
    save_file({name.replace("_", "."): np.zeros(shape, np.float32) for name, shape in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> Path:
    """A small file, with a long list to interpret and a network of 201 layers to recognise: seconds of work."""
    shapes = {entry.key: entry.shape for entry in entries(Architecture("densenet201", 10, 2))}
    path = tmp_path_factory.mktemp("deep") / "deep.pt"
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    torch.save({"state_dict": state, "history": [300] * 400_000}, path)
    return path


def test_one_child_reads_many_files(parser):
    pids = children()
    for path in CHECKPOINTS.glob("digits_*.pt"):
        checkpoint, _, architecture = open_checkpoint(path)
        parsed = parser.parse(Entry(str(path)))
        assert parsed.sha256 == checkpoint.sha256
        assert parsed.architecture == json.loads(json.dumps(asdict(architecture)))
    assert children() == pids
    assert len(pids) == 1


def test_an_entry_says_what_the_file_leaves_open(parser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    linear(Path("head.safetensors"), fc_weight=(10, 64), fc_bias=(10,))
    with pytest.raises(ArchitectureError, match="8, 8, 1"):
        parser.parse(Entry("head.safetensors"))
    image = parser.parse(Entry("head.safetensors", image_shape=(8, 8, 1)))
    head = parser.parse(Entry("head.safetensors", extractor="clip"))
    assert image.architecture["image_shape"] == [8, 8, 1]
    assert head.architecture["image_shape"] == [1, 1, 64]
    assert image.key == "/"
    assert (image.normalization, image.data, image.extractor) == (None, None, None)
    with pytest.raises(CheckpointError, match='no key "net"'):
        parser.parse(Entry("head.safetensors", key="net"))


@pytest.mark.parametrize("name", [b"folder", b"\xff\x1b"])
def test_a_card_of_another_file_is_an_error_about_data(parser, known, tmp_path, name):
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    shutil.copy(CHECKPOINTS / "digits_clean.pt", folder / "m.pt")
    shutil.copy(DIGITS.with_suffix(".card.json"), folder / "m.card.json")
    with pytest.raises(DataError, match="describes a file") as caught:
        parser.parse(Entry(str(folder / "m.pt")))
    assert str(caught.value).isprintable()


def test_wrong_checksums_are_accepted_only_where_that_is_asked_for(parser, known, tmp_path):
    bias = h.tensor(shape=(2,), strides=(1,))
    members = h.torch_members(h.dict_(state_dict=h.ordered(**{"0.weight": h.tensor(), "0.bias": bias})))
    members[-1].crc = 1
    path = tmp_path / "m.pt"
    path.write_bytes(h.archive(*members))
    with Parser(check_crc=False) as lenient:
        parsed = lenient.parse(Entry(str(path)))
    assert "checksum" in parsed.anomalies[0]
    assert parsed.parameters == 6
    with pytest.raises(CheckpointError, match="checksum"):
        parser.parse(Entry(str(path)))


def test_a_file_that_is_not_there_is_named_as_it_was_given(parser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^none\.pt: cannot be read: No such file"):
        parser.parse(Entry("none.pt"))


def test_keys_from_a_file_cannot_write_to_a_terminal(parser, tmp_path):
    key = "\x1b[2J\u202e" + "x" * 1000
    save_file({key: np.zeros((2, 2, 2), np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(ArchitectureError) as caught:
        parser.parse(Entry(str(tmp_path / "m.safetensors")))
    text = str(caught.value)
    assert "\\x1b[2J\\u202e" in text
    assert text.replace("\n", "").isprintable()
    assert len(text) < 10_000


def test_the_child_is_confined(known, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    with open(os.devnull) as file, Parser(ParserLimits(memory_bytes=1024 * MIB)) as own:
        os.set_inheritable(file.fileno(), True)
        own.parse(Entry(str(DIGITS)))
        (pid,) = children() - known
        proc = Path(f"/proc/{pid}")
        limits = {line[:25].strip(): line[25:].split()[:2] for line in (proc / "limits").read_text().splitlines()[1:]}
        assert 1024 * MIB < int(limits["Max address space"][1]) < 1024 * MIB + 8 * 2**30
        assert 120 <= int(limits["Max cpu time"][0]) <= 180
        assert os.readlink(proc / "cwd") == "/"
        assert b"s3cret" not in (proc / "environ").read_bytes()
        opened = [os.readlink(each) for each in (proc / "fd").iterdir()]
        assert {link.partition(":")[0] for link in opened} == {"pipe", "/dev/null"}
        assert len({link for link in opened if link.startswith("pipe")}) == 2
        assert os.getsid(pid) != os.getsid(0)


@pytest.mark.slow
def test_too_much_memory_is_the_files_own_fault(parser, known, tmp_path):
    big = tmp_path / "big.pt"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "log": bytes(60 * MIB)}, big)
    with Parser(ParserLimits(memory_bytes=100 * MIB)) as own:
        own.parse(Entry(str(DIGITS)))
        with pytest.raises(CheckpointError, match="more memory than allowed"):
            own.parse(Entry(str(big)))
        assert own.parse(Entry(str(DIGITS))).data == "digits"
    with pytest.raises(ArchitectureError):
        parser.parse(Entry(str(big)))


@pytest.mark.slow
def test_processor_time_is_limited_for_each_file(known, deep):
    with Parser(ParserLimits(cpu_seconds=1)) as own:
        with pytest.raises(CheckpointError, match="more than 1 seconds of processor time"):
            own.parse(Entry(str(deep)))
        own.parse(Entry(str(DIGITS)))
        (pid,) = children() - known
        first = cpu_limit(pid)
        for _ in range(2000):
            if cpu_limit(pid) >= first + 2:  # together they took more than one may
                break
            own.parse(Entry(str(DIGITS)))
        assert cpu_limit(pid) >= first + 2
        assert children() - known == {pid}


@pytest.mark.slow
def test_time_is_limited_even_where_none_is_spent(known, tmp_path, monkeypatch):
    with impostor(tmp_path, monkeypatch, "sleep 60", wall_seconds=2) as own:
        with pytest.raises(CheckpointError, match=r"more than 2 seconds \(ParserLimits\.wall_seconds\)"):
            own.parse(Entry(str(DIGITS)))
        assert children() == known


@pytest.mark.slow
def test_a_child_that_is_stopped_is_replaced_and_the_file_read_again(known):
    with Parser(ParserLimits(wall_seconds=4.0)) as own:
        own.parse(Entry(str(DIGITS)))
        (pid,) = children() - known
        os.kill(pid, signal.SIGSTOP)
        assert own.parse(Entry(str(DIGITS))).data == "digits"
        assert pid not in children()


def kill_when(found: Callable[[], set[int]], times: int = 1) -> threading.Thread:
    def run() -> None:
        for _ in range(times):
            while not (pids := found()):
                time.sleep(0.02)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            while found() & pids:
                time.sleep(0.02)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def cpu_limit(pid: int) -> float:
    """Seconds of processor time that a process may take in all; infinite until it has a file in hand."""
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "cpu time" in line)
    return float(line.split()[3].replace("unlimited", "inf"))


def at_work(known: set[int]) -> set[int]:
    """New children that have a file in hand."""
    return {pid for pid in children() - known if cpu_limit(pid) < float("inf")}


@pytest.mark.slow
def test_three_children_killed_over_a_file_are_that_files_end(known, deep):
    with Parser() as own:
        killer = kill_when(lambda: at_work(known), MOST_KILLS)
        with pytest.raises(CheckpointError, match=r"deep\.pt: .* was killed \(SIGKILL\)"):
            own.parse(Entry(str(deep)))
        killer.join()
        assert children() == known
        assert own.parse(Entry(str(DIGITS))).data == "digits"


@pytest.mark.slow
def test_a_child_killed_later_is_replaced_and_the_file_read_again(known):
    with Parser() as own:
        first = own.parse(Entry(str(DIGITS)))
        (pid,) = children() - known
        os.kill(pid, signal.SIGSTOP)
        killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        killer.start()
        assert own.parse(Entry(str(DIGITS))) == first
        killer.join()
        assert len(children() - known) == 1
        assert pid not in children()


ABANDONED = """
import os, signal, sys
from pathlib import Path
from rnp_jax.sweep.manifest import Entry
from rnp_jax.sweep.parsing import Parser
Parser().parse(Entry(sys.argv[1]))
print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_does_not_outlive_a_killed_sweep():
    path = {"PYTHONPATH": str(CHECKPOINTS.parent)}
    command = [sys.executable, "-c", ABANDONED, str(DIGITS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | path)
    assert done.returncode == -signal.SIGKILL
    (pid,) = map(int, done.stdout.split())
    end = time.monotonic() + 20
    while (status := Path(f"/proc/{pid}/status")).exists() and "zombie" not in status.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)


def impostor(
    folder: Path, monkeypatch, *lines: str, ready: str = '{"kind": "ready"}', wall_seconds: float = 20
) -> Parser:
    """A parser whose child runs other code: what a child may do once it is taken over."""
    program = folder / "python"
    text = "".join(f"{line}\n" for line in lines)
    program.write_text(f"#!/bin/sh\necho '{ready}'\nread request\n{text}")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return Parser(ParserLimits(wall_seconds=wall_seconds))


FALSE = {"sha256": "0" * 64, "container": "zip", "key": "/", "parameters": 1, "bytes": 1,
         "architecture": {"name": "resnet18", "num_classes": 10}}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("echo rubbish", "an invalid answer"),
        ("echo", "an invalid answer"),
        ("head -c 500000 /dev/zero | tr '\\0' '['; echo", "an invalid answer"),
        ("yes | head -c 3000000 | tr -d '\\n'; sleep 60", "more than 1048576 bytes"),
        ('echo \'{"kind": "ready"}\'', "gave the unexpected answer 'ready'"),
        ('echo \'{"kind": "parsed"}\'', "gave the unexpected answer 'parsed'"),
        (
            f"echo '{json.dumps({'kind': 'parsed', 'parsed': {**FALSE, 'sha256': '../../x'}})}'",
            "an invalid answer",
        ),
        (f"echo '{json.dumps({'kind': 'parsed', 'parsed': {**FALSE, 'bytes': -1}})}'", "an invalid answer"),
        (
            f"echo '{json.dumps({'kind': 'parsed', 'parsed': {**FALSE, 'architecture': {'name': 'x'}}})}'",
            "an impossible architecture",
        ),
        ("exit 3", "ended without an answer (exit status 3)"),
        ("kill -SEGV $$", "crashed (SIGSEGV)"),
        pytest.param("exec >&-; sleep 60", "ended without an answer", marks=pytest.mark.slow),
    ],
)
def test_a_child_that_answers_rubbish_is_not_believed(known, tmp_path, monkeypatch, line, reason):
    with impostor(tmp_path, monkeypatch, line) as own, pytest.raises(CheckpointError) as caught:
        own.parse(Entry("m.pt"))
    assert reason in caught.value.reason


@pytest.mark.parametrize(("kills", "when"), [(2, "start"), (3, "start"), (2, "first file"), (3, "first file")])
def test_a_child_that_somebody_kills_is_no_verdict_on_a_file(tmp_path, monkeypatch, kills, when):
    """The impostor kills itself the first times, and then answers."""
    (tmp_path / "answer").write_text(json.dumps({"kind": "parsed", "parsed": FALSE}) + "\n")
    die = f"echo >>'{tmp_path}/count'; [ $(wc -l <'{tmp_path}/count') -le {kills} ] && kill -KILL $$"
    ready = '{"kind": "ready"}'
    program = [die, f"echo '{ready}'", "read request"] if when == "start" else [f"echo '{ready}'", "read request", die]
    own = impostor(tmp_path, monkeypatch)
    (tmp_path / "python").write_text("\n".join(["#!/bin/sh", *program, f"cat '{tmp_path}/answer'"]) + "\n")
    with own:
        if kills < MOST_KILLS:
            assert own.parse(Entry("m.pt")).bytes == 1
        else:
            kind = SweepError if when == "start" else CheckpointError
            with pytest.raises(kind, match=r"was killed \(SIGKILL\)"):
                own.parse(Entry("m.pt"))


def test_texts_of_a_child_are_made_printable(tmp_path, monkeypatch):
    answer = {"kind": "parsed", "parsed": {**FALSE, "anomalies": ["\x1b[2J\n"], "data": "\u202e"}}
    (tmp_path / "answer").write_text(json.dumps(answer) + "\n")
    with impostor(tmp_path, monkeypatch, f"cat '{tmp_path}/answer'") as own:
        parsed = own.parse(Entry("m.pt"))
    assert parsed.anomalies == ("\\x1b[2J\n",)
    assert parsed.data == "\\u202e"
    defaults = {"width": 64, "layers": [], "image_shape": [32, 32, 3], "form": [], "biases": [], "names": []}
    assert parsed.architecture == {**FALSE["architecture"], **defaults}


@pytest.mark.parametrize("ready", ["", '{"kind": "memory"}'])
def test_a_child_that_does_not_start_is_no_files_fault(known, tmp_path, monkeypatch, ready):
    with (
        impostor(tmp_path, monkeypatch, "exit 1", ready=ready) as own,
        pytest.raises(SweepError, match="does not start"),
    ):
        own.parse(Entry(str(DIGITS)))


def test_limits_below_one_are_refused():
    with pytest.raises(ConfigError, match="cpu_seconds"):
        ParserLimits(cpu_seconds=0)

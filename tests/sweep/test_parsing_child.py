"""The child asked through its pipes, as its parent does."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import rnp_jax
from rnp_jax.checkpoints import open_checkpoint, save_variables
from rnp_jax.models import Architecture, Network
from rnp_jax.sweep import parsing_child
from rnp_jax.sweep.parsing import MOST_ANOMALIES, MOST_ANSWER, MOST_TEXT, Answer, Parsed
from tests.torch_io.test_bad_inputs import container_cases, pickle_cases, tensor_cases

ROOT = Path(rnp_jax.__file__).parents[1]
CHECKPOINTS = ROOT / "checkpoints"
DIGITS = CHECKPOINTS / "digits_badnets.pt"
MIB = 2**20


class Child:
    """One process, with a gigabyte beyond what it has when it is ready."""

    def __init__(self, memory_bytes: int = 1024 * MIB):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rnp_jax.sweep.parsing_child", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        )
        assert self.answer() == {"kind": "ready", "reason": "", "parsed": None}

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        with self.process:
            self.process.kill()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline(MOST_ANSWER + 1)
        assert line.endswith(b"\n")
        assert len(line) <= MOST_ANSWER
        return json.loads(line)

    def send(self, content: bytes) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(content + b"\n")
        self.process.stdin.flush()
        return self.answer()

    def ask(self, path: Path, **request: Any) -> dict[str, Any]:
        open_ends = dict.fromkeys(("key", "prefix", "architecture", "image_shape"))
        known = {"path": str(path), **open_ends, "is_head": False, "check_crc": True, "cpu_seconds": 60}
        return self.send(json.dumps({**known, **request}).encode())


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """One for the tests that do it no harm: it ends in peace when there is no more to ask."""
    with Child() as shared:
        yield shared
        _, rest = shared.process.communicate(timeout=60)
        assert not rest
        assert shared.process.returncode == 0


@pytest.mark.parametrize("name", ["digits_badnets", "cifar10_clean"])
def test_what_is_told_is_what_reading_it_here_finds(child, name):
    path = CHECKPOINTS / f"{name}.pt"
    checkpoint, state_dict, architecture = open_checkpoint(path)
    card = json.loads(path.with_suffix(".card.json").read_text())
    trainable = [v.size for key, v in state_dict.tensors.items() if key.endswith((".weight", ".bias"))]
    (key,) = state_dict.location
    assert checkpoint.sha256 == card["sha256"]
    assert child.ask(path)["parsed"] == {
        "sha256": checkpoint.sha256,
        "container": checkpoint.container,
        "key": key,
        "architecture": json.loads(json.dumps(asdict(architecture))),
        "parameters": sum(trainable),
        "bytes": path.stat().st_size,
        "anomalies": list(checkpoint.anomalies),
        "normalization": "/".join(",".join(map(str, card["normalization"][k])) for k in ("mean", "std")),
        "extractor": None,
        "data": card["data"],
    }


BAD = [c for c in (*pickle_cases(), *tensor_cases(), *container_cases()) if c[0] != 40]  # 40: bad values, no network


def test_a_prefix_is_read_and_a_normalisation_in_the_file_is_told(child, tmp_path):
    layers = torch.load(DIGITS, weights_only=True)["state_dict"]
    pair = {"norm.mean": torch.tensor([0.25]), "norm.std": torch.tensor([0.5])}
    wrapped = {f"net.{key}": value for key, value in layers.items()}
    torch.save({**wrapped, **pair, "other.weight": torch.ones(2)}, tmp_path / "m.pt")
    assert "--prefix net." in child.ask(tmp_path / "m.pt")["reason"]
    parsed = child.ask(tmp_path / "m.pt", prefix="net.")["parsed"]
    assert (parsed["architecture"]["name"], parsed["normalization"]) == ("resnet18", "0.25/0.5")


@pytest.mark.parametrize(("content", "word"), [pytest.param(c[2], c[3], id=f"{c[0]:02}-{c[1]}") for c in BAD])
def test_a_hostile_file_is_refused_for_the_same_reason_and_the_child_lives(child, tmp_path, content, word):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    answer = child.ask(path)
    assert answer["kind"] == "CheckpointError"
    assert word in answer["reason"]
    assert child.ask(DIGITS)["kind"] == "parsed"


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"conv.weight": np.zeros((4, 3, 3, 3), np.float32)}, "supported architectures has these tensors"),
        (
            {"fc.weight": np.zeros((1, 7), np.float32), "fc.bias": np.zeros(1, np.float32)},
            "num_classes is 1, expected an integer between 2",
        ),
    ],
)
def test_a_network_that_is_none_is_refused(child, tmp_path, tensors, reason):
    save_file(tensors, tmp_path / "m.safetensors")
    answer = child.ask(tmp_path / "m.safetensors")
    assert answer["kind"] == "ArchitectureError"
    assert reason in answer["reason"]


def test_texts_are_cut_and_are_utf_8(child):
    assert parsing_child._cut("\U0001f600" * (MOST_TEXT + 1)) == "\U0001f600" * MOST_TEXT
    missing = child.ask(Path(os.fsdecode(b"\xff.pt")))
    assert missing["kind"] == "CheckpointError"
    assert missing["reason"].encode().decode() == missing["reason"]


def test_an_answer_that_is_too_long_says_so():
    texts = ("\U0001f600" * MOST_TEXT,) * MOST_ANOMALIES
    parsed = Parsed("0" * 64, "zip", "/", {}, 1, 1, texts)
    line = parsing_child._encode(Answer("parsed", parsed=parsed))
    assert json.loads(line)["kind"] == "ArchitectureError"
    assert f"more than {MOST_ANSWER} bytes" in json.loads(line)["reason"]
    short = Answer("parsed", parsed=Parsed("0" * 64, "zip", "/", {}, 1, 1, texts[:10]))
    assert json.loads(parsing_child._encode(short)) == json.loads(json.dumps(asdict(short)))


def test_what_it_cannot_take_back(child):
    pid = child.process.pid
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        assert resource.prlimit(pid, kind) == (0, 0)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    assert 1024 * MIB < soft == hard < 1024 * MIB + 8 * 2**30
    assert os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"  # a library that prints answers nothing


def test_processor_time_is_allowed_anew_for_each_file(child):
    for allowed in (50, 5):
        child.ask(DIGITS, cpu_seconds=allowed)
        user, system = (int(n) for n in Path(f"/proc/{child.process.pid}/stat").read_text().split()[13:15])
        used = (user + system) / os.sysconf("SC_CLK_TCK")
        soft, _ = resource.prlimit(child.process.pid, resource.RLIMIT_CPU)
        assert 0 < soft - used <= allowed + 2


def test_too_much_memory_is_the_last_answer(tmp_path):
    big = tmp_path / "big.pt"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "log": bytes(60 * MIB)}, big)
    with Child(32 * MIB) as own:
        assert own.ask(big)["kind"] == "memory"
        assert own.process.wait(60) == 0


def test_a_fault_of_the_package_is_the_last_answer():
    with Child() as own:
        answer = own.send(json.dumps({"path": str(DIGITS), "cpu_seconds": 60}).encode())
        assert answer == {"kind": "crash", "reason": "KeyError: 'check_crc'", "parsed": None}
        assert own.process.wait(60) == 0


def test_a_file_that_several_designs_fit_is_left_to_the_images(child, tmp_path):
    """Its items have one group, whichever design it is."""
    network = Network(Architecture("mobilenet_v2", 10, 8))
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    save_variables(tmp_path / "m.pt", network, jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes))
    answer = child.ask(tmp_path / "m.pt")
    assert answer["kind"] == "parsed"
    assert answer["parsed"]["architecture"]["name"] == "chenyaofo_mobilenet_v2"
    named = child.ask(tmp_path / "m.pt", architecture="mobilenet_v2")
    assert named["parsed"]["architecture"]["name"] == "mobilenet_v2"

"""Flags for XLA on a GPU."""

import os
import subprocess
import sys

import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.gpu_flags import FLAGS, share_memory, take_gpu_flags


@pytest.mark.parametrize("arguments", ["--gpu graphs defend m.pt", "defend --gpu=graphs m.pt"])
def test_the_option_may_stand_anywhere(arguments, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp/x")
    assert take_gpu_flags(arguments.split()) == ["defend", "m.pt"]
    assert os.environ["XLA_FLAGS"] == f"{FLAGS['graphs']} --xla_dump_to=/tmp/x"


def test_several_at_once_and_none(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert take_gpu_flags(["defend"]) == ["defend"]
    assert "XLA_FLAGS" not in os.environ
    take_gpu_flags(["--gpu", "deterministic,graphs"])
    assert os.environ["XLA_FLAGS"] == f"{FLAGS['graphs']} {FLAGS['deterministic']}"


@pytest.mark.parametrize("names", ["", "graph", "graphs,fast"])
def test_an_unknown_name_is_refused(names, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(ConfigError, match=r"--gpu is .*, expected some of graphs, deterministic"):
        take_gpu_flags(["defend", f"--gpu={names}"])
    assert os.environ["XLA_FLAGS"] == ""


def test_xla_knows_the_flags():
    """It ends a process at once over a flag that it does not know."""
    environment = {**os.environ, "XLA_FLAGS": " ".join(FLAGS.values()), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    subprocess.run(command, env=environment, check=True, timeout=120)


@pytest.mark.parametrize(("processes", "expected"), [(1, {}), (3, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"})])
def test_processes_share_a_gpu_s_memory_unless_the_environment_says_how(processes, expected, monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert share_memory(processes) == expected
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    assert share_memory(processes) == {}

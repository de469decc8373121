"""The number of threads: taken from the arguments, obeyed, inherited and recorded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.threads import VARIABLES, count_threads, limit_threads, take_threads

PROGRAM = """
import hashlib, os
{first}
import jax, numpy as np
values = jax.random.normal(jax.random.key(0), (65536, 16))
print(hashlib.sha256(np.asarray(jax.jit(lambda x: x.T @ x)(values)).tobytes()).hexdigest())
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "7")  # and put back


@pytest.mark.parametrize("arguments", ["--threads 1 defend m.pt", "defend --threads=1 m.pt", "defend m.pt --threads 1"])
def test_the_option_is_taken_and_obeyed_wherever_it_stands(arguments):
    assert take_threads(arguments.split()) == ["defend", "m.pt"]
    assert {os.environ[name] for name in VARIABLES} == {"1"}
    assert count_threads() == 1


def test_without_the_option_nothing_changes(monkeypatch):
    assert take_threads(["defend", "m.pt"]) == ["defend", "m.pt"]
    assert count_threads() == 7
    for odd in ("", "x", "0", "9" * 5000):
        monkeypatch.setenv("NPROC", odd)
        assert count_threads() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "1.5", "99999", "9" * 5000, "²"])
def test_what_is_no_number_of_threads(count):
    with pytest.raises(ConfigError, match=r"--threads is .*, expected a number from 1 to"):
        take_threads(["defend", f"--threads={count}"])
    with pytest.raises(ConfigError, match="--threads is ''"):
        take_threads(["defend", "--threads"])


@pytest.mark.slow
def test_one_thread_gives_the_same_bytes_however_many_processors_there_are():
    """Two threads, even on one processor, split the sums in another way."""
    one, some = sorted(os.sched_getaffinity(0))[:1], sorted(os.sched_getaffinity(0))
    first = "from rnp_jax.threads import limit_threads; os.sched_setaffinity(0, {}); {}"
    hashes = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(first=first.format(processors, what))],
            env={**os.environ, "RNP_JAX_CACHE": "off", "NPROC": threads},
            cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
        ).stdout
        for processors, threads, what in ((one, "1", ""), (some, "2", "limit_threads('1')"), (some, "2", ""))
    ]  # fmt: skip
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_limit_is_inherited():
    limit_threads("1")
    told = "import os; print(os.environ['NPROC'])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"

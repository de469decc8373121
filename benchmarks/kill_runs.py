"""A run of ``rnp-jax`` in a process that has been forked from one in which everything is imported already."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import matplotlib.figure  # noqa: F401

import rnp_jax.report.leaderboard  # noqa: F401
from rnp_jax.cli import main
from rnp_jax.commands import arguments, attack, defend, saved_states, simclr, study, sweep  # noqa: F401


def run_command(words: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Runs in ``folder`` as the first process of a session, which prints to the file ``stderr`` there; ends with it."""
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    log = os.open("stderr", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    saved_states.SAVE_EVERY = 0.0
    sys.exit(main(words))

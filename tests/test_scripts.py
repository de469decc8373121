"""Scripts are thin: the command line under another name."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").glob("*.py"))
COMMAND = {"convert_torch": "convert", "defend_rnp": "defend", "evaluate": "evaluate", "train_backdoor": "attack"}


def test_every_script_is_known_here():
    assert [script.stem for script in SCRIPTS] == sorted(COMMAND)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(script, tmp_path):
    done = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: rnp-jax {COMMAND[script.stem]} ")
    assert ("--rnp.unlearn.stop-loss" in done.stdout) == (script.stem == "defend_rnp")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_length(script):
    assert len(script.read_text("utf-8").splitlines()) <= 30

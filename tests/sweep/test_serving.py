import os
import subprocess
import sys

from rnp_jax.sweep.local import STOPPED


def test_without_a_sweep_it_says_so(tmp_path):
    command = [sys.executable, "-m", "rnp_jax.sweep.serving", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == STOPPED
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr

"""Which version of the code runs."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import rnp_jax
from rnp_jax.source_version import code_version

PACKAGE = Path(rnp_jax.__file__).parent


def test_it_is_a_digest_of_every_source(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "rnp_jax", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", "from rnp_jax.source_version import code_version; print(code_version())"]

    def version() -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    assert version() == code_version()
    assert len(bytes.fromhex(code_version())) == hashlib.sha256().digest_size
    (tmp_path / "rnp_jax" / "report" / "new.py").write_text("")
    assert version() != code_version()

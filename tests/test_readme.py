"""What the README shows is run as it stands."""

import re
from pathlib import Path

import pytest

from rnp_jax import NORMALIZATIONS, load_model

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_ten_lines_of_python_defend_a_bundled_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    statements = [line for line in code.splitlines() if line and not line.startswith("import")]
    assert len(statements) <= 10
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    cleaned = load_model("cleaned.pt", normalization=NORMALIZATIONS["digits"])
    assert names["result"].choice.pruned > 0
    assert cleaned.network == names["model"].network


def test_every_file_it_links_to_exists():
    text = (ROOT / "README.md").read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

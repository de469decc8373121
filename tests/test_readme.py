"""What the README and the guides show is run as it stands."""

import re
from pathlib import Path

import pytest

from rnp_jax import METHODS, NORMALIZATIONS, load_model
from rnp_jax.commands.table import COMMANDS

ROOT = Path(__file__).parents[1]


def run_code(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Runs the Python of a page, in its order, in a folder with the bundled checkpoints."""
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(folder)
    names: dict = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE):
        exec(compile(code, page, "exec"), names)
    return names


@pytest.mark.slow
def test_the_ten_lines_of_python_defend_a_bundled_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = run_code("README.md", tmp_path, monkeypatch)
    cleaned = load_model("cleaned.pt", normalization=NORMALIZATIONS["digits"])
    assert names["result"].choice.pruned > 0
    assert cleaned.network == names["model"].network


@pytest.mark.slow
def test_the_guide_to_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = run_code("docs/guides/python.md", tmp_path, monkeypatch)
    assert names["cleaned"].result.choice.pruned > 0
    assert names["own"].num_classes == 10


@pytest.mark.slow
def test_the_method_that_the_guide_adds_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = run_code("docs/guides/add_method.md", tmp_path, monkeypatch)
    assert names["done"].choice.ranking == "shift"
    assert names["done"].choice.pruned > 0


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 120
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 10


def test_every_command_that_the_readme_names_is_there():
    text = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"rnp-jax (\w+)", text)) - {"COMMAND"}
    table = {
        name for row in re.findall(r"^\| (`\w+`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert named | table <= set(COMMANDS)
    assert set(COMMANDS) - {"cache"} <= named | table


def test_there_are_as_many_defenses_as_the_readme_says():
    assert "more than twenty other published defenses" in " ".join((ROOT / "README.md").read_text("utf-8").split())
    others = {name for name, method in METHODS.items() if not method.control} - {"auto", "rnp", "holder"}
    assert len(others) > 20

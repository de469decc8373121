"""The notebook runs as it stands, and the site shows it."""

import json
from importlib import import_module
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "digits.ipynb"


def sources(kind: str) -> list[str]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def test_the_page_has_its_text_its_code_and_what_was_printed(tmp_path: Path):
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "b"]},
        {
            "cell_type": "code",
            "source": ["print(1)\n", "2"],
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
                {"output_type": "display_data", "data": {"text/plain": ["<Figure>"], "image/png": "AAAA\n"}},
            ],
        },
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}), "utf-8")
    picture = '<img alt="what the cell drew" src="data:image/png;base64,AAAA">'
    page = "# A\nb\n\n```python\nprint(1)\n2\n```\n\n```text\n1\n```\n\n```text\n2\n```\n\n" + picture
    assert import_module("site_notebook").write_notebook(path) == page


def test_it_is_small_and_was_run():
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    kinds = {output["output_type"] for cell in notebook["cells"] for output in cell.get("outputs", ())}
    assert "error" not in kinds
    assert NOTEBOOK.stat().st_size < 200_000
    assert all(cell["outputs"] for cell in notebook["cells"] if "print(" in "".join(cell["source"]))
    assert all("/" + "work" not in text for text in sources("code") + sources("markdown"))


@pytest.mark.slow
def test_its_cells_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    with mpl.rc_context({"backend": "agg"}):
        for number, code in enumerate(sources("code")):
            exec(compile(code, f"cell {number}", "exec"), names)
    assert names["after"].asr.value < 0.2 < 0.9 < names["after"].acc.value

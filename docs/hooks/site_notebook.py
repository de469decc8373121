"""A notebook as a page: its text, its code and what its cells printed and drew."""

import json
from pathlib import Path


def write_notebook(path: Path) -> str:
    """The cells as Markdown; pictures stand in the page itself."""
    notebook = json.loads(path.read_text("utf-8"))
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [part for output in cell.get("outputs", ()) for part in _write_output(output)]
    return "\n\n".join(parts)


def _write_output(output: dict) -> list[str]:
    if output["output_type"] == "stream":
        return [f"```text\n{''.join(output['text']).rstrip()}\n```"]
    data = output.get("data", {})
    if "image/png" in data:
        return [f'<img alt="what the cell drew" src="data:image/png;base64,{"".join(data["image/png"].split())}">']
    return [f"```text\n{''.join(data['text/plain'])}\n```"] if "text/plain" in data else []

"""The result of a run: `result.json`, figures and a self-contained HTML page."""

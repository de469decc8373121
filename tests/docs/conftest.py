from pathlib import Path

import pytest

HOOKS = Path(__file__).parents[2] / "docs" / "hooks"


@pytest.fixture(autouse=True)
def _hooks_are_importable(monkeypatch: pytest.MonkeyPatch):
    """As MkDocs has it while it loads them."""
    monkeypatch.syspath_prepend(str(HOOKS))

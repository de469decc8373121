import json

import pytest

from rnp_jax.errors import SweepError
from rnp_jax.sweep import items
from rnp_jax.sweep.items import Item, make_key, read_plan, write_plan

PATHLESS = {"key": "k", "path": 3, "sha256": "", "method": ""}


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = (
        Item("k" * 64, "a.pt", "0" * 64, "rnp", "g", {"image_shape": [8, 8, 1], "target": 3}),
        Item("l", "é", "", "none"),
        Item("m", "caf\udce9.pt", "", "none", "g", {"extractor": "\udcff"}),
    )
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan


@pytest.mark.parametrize(
    "content",
    [None, "", "{", json.dumps([{"key": "a"}]), "[" * 100_000, json.dumps([PATHLESS])],
)
def test_no_readable_plan(content, tmp_path):
    if content is not None:
        (tmp_path / items.PLAN).write_text(content)
    with pytest.raises(SweepError, match="cannot read the plan of the sweep"):
        read_plan(tmp_path)


def test_a_key_depends_on_every_value_and_on_the_code(monkeypatch):
    first = make_key(file="a", method="rnp")
    assert first == make_key(method="rnp", file="a")
    assert len({first, make_key(file="b", method="rnp"), make_key(file="a", method="clp")}) == 3
    monkeypatch.setattr(items, "code_version", lambda: "another")
    assert make_key(file="a", method="rnp") != first

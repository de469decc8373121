import csv
import io

from rnp_jax.report.ablation import Ablation
from rnp_jax.report.ablation_tables import to_csv, to_markdown, write_ablation
from rnp_jax.untrusted_text import spell_hidden


def test_tables_hold_every_cell(ablation: Ablation):
    lines = list(csv.DictReader(io.StringIO(to_csv(ablation.cells))))
    for line, cell in zip(lines, ablation.cells, strict=True):
        assert cell.acc
        assert cell.asr
        assert (float(line["alpha"]), line["radii"], line["rule"]) == (cell.alpha, cell.radii, cell.rule)
        assert (float(line["acc"]), float(line["asr_high"])) == (cell.acc.value, cell.asr.high)
        assert (line["ra"], int(line["pruned"])) == ("", cell.pruned)
        assert float(line["rank_correlation"]) == cell.rank_correlation
    text = to_markdown(ablation)
    assert "| CLP |" in text
    assert "| std | feature | 2 | 0.02, 0.1 | 1 | 1 | 77.25% | 45.00% | unknown | 45 | 0.55 |" in text
    assert text.count("\n| ") == len(lines) + 5


def test_hostile_names_are_written_and_drawn(cells, ablation: Ablation, tmp_path):
    hostile = "=$\\frac{|<script>\u732b\x00"
    named = [cell.model_copy(update={"rule": hostile, "radii": hostile, "scope": hostile}) for cell in cells[:2]]
    path = write_ablation(tmp_path, ablation.model_copy(update={"cells": tuple(named), "reference": hostile}))
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "ablation.csv",
        "ablation.json",
        "ablation.md",
        "figures",
        "report.html",
    ]
    assert "<script" not in path.read_text("utf-8")
    assert "<script" not in (tmp_path / "report.html").read_text("utf-8")
    assert b"<script" not in (tmp_path / "figures" / "ablation.svg").read_bytes()
    assert f"'{spell_hidden(hostile)}" in (tmp_path / "ablation.csv").read_bytes().decode()

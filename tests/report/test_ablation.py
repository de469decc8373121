import csv
import io
import itertools
import json

import numpy as np
import pytest

from rnp_jax.document import to_json
from rnp_jax.errors import ResultError
from rnp_jax.report.ablation import (
    Ablation,
    AblationCell,
    plot_ablation,
    read_ablation,
    to_csv,
    to_markdown,
    write_ablation,
)
from rnp_jax.untrusted_text import spell_hidden
from tests.report.examples import share

ALPHAS, NORMS, RADII, SCOPES, RULES = (
    (1.0, 0.5),
    ("inf", "2"),
    ("0.05", "0.02, 0.1"),
    ("local", "feature"),
    ("std", "mad"),
)


@pytest.fixture
def cells() -> list[AblationCell]:
    settings = itertools.product(SCOPES, RULES, NORMS, RADII, ALPHAS, (0, 1))
    return [
        AblationCell(
            alpha=alpha, radii=radii, norm=norm, scope=scope, rule=rule, seed=seed,
            acc=share(1500 + i, 2000), asr=share(10 * i, 1000), pruned=i, rank_correlation=1 - i / 100,
        )
        for i, (scope, rule, norm, radii, alpha, seed) in enumerate(settings)
    ]  # fmt: skip


@pytest.fixture
def ablation(cells, result) -> Ablation:
    return Ablation(
        created=result.created, versions=result.versions, device="cpu", config={}, reference="CLP", cells=cells
    )


def test_a_map_a_rule_and_scope_with_the_means_over_seeds(cells):
    figure = plot_ablation(cells)
    maps = figure.axes[:4]
    assert [ax.get_title(loc="left") for ax in maps] == ["std", "mad"] * 2
    assert [ax.get_ylabel() for ax in maps] == ["local scope", "", "feature scope", ""]
    assert [text.get_text() for text in maps[2].get_xticklabels()] == ["0.5", "1"]
    rows = [text.get_text() for text in maps[0].get_yticklabels()]
    assert rows == ["0.05  p = 2", "0.02, 0.1  p = 2", "0.05  p = inf", "0.02, 0.1  p = inf"]
    chosen = [c for c in cells if (c.scope, c.rule, c.norm, c.radii, c.alpha) == ("feature", "std", "inf", "0.05", 0.5)]
    asr, acc = (np.mean([getattr(cell, field).value for cell in chosen]) for field in ("asr", "acc"))
    assert len(chosen) == 2
    assert np.asarray(maps[2].images[0].get_array())[2, 0] == pytest.approx(asr)
    texts = {text.get_position(): text.get_text() for text in maps[2].texts}
    assert texts[(0, 2)] == f"{100 * acc:.1f}"
    assert len(texts) == 8
    assert figure.axes[-1].get_xlabel() == "colour: ASR; number: ACC in %"


def test_settings_that_were_not_run_stay_empty(cells):
    figure = plot_ablation([cells[0], cells[-1].model_copy(update={"asr": None})])
    image = figure.axes[0].images[0].get_array()
    assert np.isfinite(np.asarray(np.ma.filled(image, np.nan))).sum() == 1
    assert [len(ax.texts) for ax in figure.axes[:4]] == [1, 0, 0, 1]
    figure.draw_without_rendering()
    with pytest.raises(ResultError, match="without cells"):
        plot_ablation([])


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
    ]
    assert "<script" not in path.read_text("utf-8")
    assert b"<script" not in (tmp_path / "figures" / "ablation.svg").read_bytes()
    assert f"'{spell_hidden(hostile)}" in (tmp_path / "ablation.csv").read_bytes().decode()


def test_round_trip_and_range(ablation: Ablation, tmp_path):
    write_ablation(tmp_path, ablation)
    assert read_ablation(tmp_path / "ablation.json") == ablation
    document = json.loads(to_json(ablation))
    document["cells"][0]["rank_correlation"] = 1.5
    (tmp_path / "ablation.json").write_text(json.dumps(document))
    with pytest.raises(ResultError, match=r"rank_correlation: Input should be less than or equal to 1"):
        read_ablation(tmp_path / "ablation.json")

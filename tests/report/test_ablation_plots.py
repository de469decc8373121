import numpy as np
import pytest

from rnp_jax.errors import ResultError
from rnp_jax.report.ablation_plots import plot_ablation


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

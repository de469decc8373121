import re

import pytest

from rnp_jax.report.ablation import Ablation
from rnp_jax.report.ablation_page import SHOWN, rank_cells, render_ablation
from rnp_jax.report.ablation_tables import write_ablation
from tests.report.browsing import assert_sound, show
from tests.report.examples import share


def test_the_best_setting_has_the_largest_difference_of_acc_and_asr(ablation: Ablation):
    figures = ((800, 0), (960, 30), (990, 900), (700, None), (None, 0))
    cells = [
        cell.model_copy(update={"acc": acc and share(acc, 1000), "asr": None if asr is None else share(asr, 1000)})
        for cell, (acc, asr) in zip(ablation.cells, figures, strict=False)
    ]
    ranked = rank_cells(ablation.model_copy(update={"cells": tuple(cells)}))
    assert [cell.acc and cell.acc.count for cell in ranked] == [960, 800, 700, 990, None]


def test_the_page_is_like_the_others(ablation: Ablation):
    page = render_ablation(ablation, b"<svg/>")
    titles = re.findall("<h[123]>(.*?)</h[123]>", page)
    assert titles[0].startswith("Best of the settings: ASR\xa00.00%, ACC\xa075.00%")
    assert titles[1:] == [
        "All settings at a glance", "Attack success and accuracy", "Settings, the best first", "Settings and versions",
    ]  # fmt: skip
    assert "<dd>head.pt</dd>" in page
    assert "default-src &#x27;none&#x27;" in page
    shown, folded = page.split("<h2>Settings, the best first</h2>")[1].split("</section>")[0].split("<details>")
    assert shown.count("<tr>") == SHOWN + 1
    assert f"Show {len(ablation.cells) - SHOWN} more" in folded
    assert folded.count("<tr>") == len(ablation.cells) - SHOWN + 1


def test_a_page_without_a_trigger_says_so(ablation: Ablation):
    cells = tuple(cell.model_copy(update={"asr": None}) for cell in ablation.cells[:2])
    page = render_ablation(ablation.model_copy(update={"cells": cells}), b"<svg/>")
    assert "<h1>Best of the settings: ACC\xa0" in page
    assert "only ACC was measured" in page
    assert "<dt>ASR over all settings</dt><dd>unknown</dd>" in page


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_in_a_browser(browser, ablation: Ablation, tmp_path, width: int):
    write_ablation(tmp_path, ablation)
    show(browser, tmp_path / "report.html", width)
    assert_sound(browser, width)

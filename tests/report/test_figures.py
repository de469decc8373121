import io
import re
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rnp_jax.errors import ResultError
from rnp_jax.report.figures import FIGURES, plot_figures, render_png, render_svg, save_figures
from rnp_jax.report.samples import Samples
from rnp_jax.report.schema import Phase, PrunedFilter, Result


def test_every_figure_is_written_twice_and_stale_ones_are_removed(
    result: Result, masks, samples: Samples, tmp_path: Path
):
    files = save_figures(tmp_path, plot_figures(result, masks, samples))
    assert tuple(files) == tuple(name for name in FIGURES if not name.startswith("score"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{n}.{e}" for n in files for e in ("png", "svg"))
    for png, svg in files.values():
        with Image.open(png) as image:
            assert image.width == 1800
            image.load()
        assert svg.read_bytes().startswith(b"<?xml")
    (tmp_path / "notes.txt").write_text("mine")
    save_figures(tmp_path, plot_figures(result.model_copy(update={"phases": (), "sweeps": ()}), {}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt"]


def test_a_run_without_attack_or_pruned_filters_has_its_figures(unattacked: Result, masks):
    bare = unattacked.model_copy(update={"pruned_filters": (), "choice": None})
    figures = plot_figures(bare, masks)
    assert set(figures) == set(FIGURES) - {"samples", "score_histogram", "scores_by_layer"}
    for name, labels in (("sweep", ["ACC"]), ("rankings", ["ACC", "ranking: release"])):
        assert [text.get_text() for text in figures[name].legends[0].get_texts()] == labels
    assert [ax.get_legend().get_texts()[0].get_text() for ax in figures["mask_histogram"].axes]


def test_scores_take_the_place_of_masks(scored: Result, scores, tmp_path: Path):
    figures = plot_figures(scored, scores)
    assert set(figures) == set(FIGURES) - {"samples", "mask_histogram", "masks_by_layer"}
    assert figures["rankings"].axes[0].get_xlabel() == "threshold: filters with a score above it are pruned"
    figures = {name: figures[name] for name in ("score_histogram", "scores_by_layer")}
    for file in save_figures(tmp_path, figures).values():
        assert not re.search(rb'font-family|<text|(href|src)="(?!#|data:)', file.svg.read_bytes())


@pytest.mark.parametrize(
    "sizes", [[1], [64], [2048], [64, 256] * 20 + [512, 2048] * 7], ids=["filter", "layer", "wide", "54-layers"]
)
def test_networks_of_any_depth_and_width_are_drawn(result: Result, sizes: list[int]):
    masks = {f"layer{i}.bn": np.linspace(0, 1, n) for i, n in enumerate(sizes)}
    pruned = (PrunedFilter(layer="layer0.bn", index=0, mask=0.0),)
    alone = result.model_copy(update={"pruned_filters": pruned, "sweeps": (), "phases": (), "timing": ()})
    figure = plot_figures(alone, masks)["masks_by_layer"]
    with Image.open(io.BytesIO(render_png(figure))) as image:
        assert image.width == 1800
        assert image.height < 4400
    figure.draw_without_rendering()
    boxes = [name.get_window_extent() for name in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(boxes)), "layer names overlap"


def test_histories_of_one_epoch_and_names_that_fonts_lack_are_drawn(result: Result, masks):
    hostile = "$\\frac{</svg><script>\u732b\x00\udcff"
    phases = tuple(Phase(name=hostile, series={f"{hostile}_loss": [v]}, stopped="") for v in (0.5, np.nan))
    masks = {hostile + layer: mask for layer, mask in masks.items()}
    figures = plot_figures(result.model_copy(update={"phases": phases, "pruned_filters": ()}), masks)
    for name in ("phases", "masks_by_layer"):
        assert b"<script" not in render_svg(figures[name])


def test_equal_figures_give_equal_files(result: Result):
    first, second = (render_svg(plot_figures(result.model_copy(update={"phases": ()}), {})["sweep"]) for _ in range(2))
    assert first == second
    assert not re.search(rb'font-family|<text|(href|src)="(?!#|data:)', first), "a figure needs no font and no network"


def test_figures_are_made_without_pyplot_and_off_the_main_thread(result: Result, masks, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # another test may have imported it
    made: list[set[str]] = []
    worker = threading.Thread(target=lambda: made.append(set(plot_figures(result, masks))))
    worker.start()
    worker.join()
    assert made == [set(FIGURES) - {"samples", "score_histogram", "scores_by_layer"}]
    assert "matplotlib.pyplot" not in sys.modules


def test_inconsistent_input_is_a_typed_error(result: Result, masks, samples: Samples):
    with pytest.raises(ResultError, match="must be a non-empty vector"):
        plot_figures(result, masks | {"bn1": np.full(16, np.nan)})
    with pytest.raises(ResultError, match="has no mask"):
        plot_figures(result, {"other": np.ones(3)})
    with pytest.raises(ResultError, match="score of layer 'bn1'"):
        plot_figures(result.model_copy(update={"kind": "score"}), {"bn1": np.full(16, -1.0)})
    with pytest.raises(ResultError, match="sample images"):
        plot_figures(result, masks, samples._replace(labels=[]))


def test_a_folder_that_cannot_be_written_is_a_typed_error(result: Result, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResultError, match=r"file/figures cannot be written"):
        save_figures(tmp_path / "file" / "figures", plot_figures(result, {}))

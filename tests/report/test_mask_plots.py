import numpy as np
from matplotlib.colors import to_rgba

from rnp_jax.report import palette
from rnp_jax.report.mask_plots import (
    CELL,
    LAYER_GAP,
    draw_strips,
    plot_mask_histogram,
    plot_masks_by_layer,
)


def test_strips_put_every_filter_in_its_cell():
    masks = [np.linspace(0, 1, 5), np.ones(600), np.zeros(2)]
    pruned = [np.array([False, True, False, False, False]), np.zeros(600, bool), np.zeros(2, bool)]
    pruned[1][599] = True
    canvas, centers = draw_strips(masks, pruned)
    high, wide = CELL
    assert canvas.shape == (30 + (3 * high + LAYER_GAP) + 30, 256 * wide, 4)  # slots of 1, 3 and 1 lines
    assert centers == [10 + (high - 1) / 2, 30 + 2 + (3 * high - 1) / 2, 62 + 10 + (high - 1) / 2]
    cut = [round(255 * c) for c in to_rgba(palette.ASR)]
    assert canvas[10, wide].tolist() == cut, "filter 1 of the first layer"
    assert canvas[30 + 2 + 2 * high, (599 - 512) * wide].tolist() == cut, "filter 599 of the second, on its third line"
    assert (canvas == cut).all(axis=2).sum() == 2 * (high - 1) * (wide - 1)
    assert (canvas[..., 3] == 255).sum() == 607 * (high - 1) * (wide - 1)
    blue = canvas[10, ::wide, 2][[0, 2, 3, 4]].astype(int)
    red = canvas[10, ::wide, 0][[0, 2, 3, 4]].astype(int)
    assert (np.diff(red) > 0).all(), "a higher mask is a lighter cell"
    assert (blue > red).all()


def test_histogram_counts_every_filter_once():
    masks = {"a": np.array([0.0, 0.0, 1.0, 0.5]), "b": np.array([0.025, 0.99])}
    pruned = {"a": np.array([True, False, False, False]), "b": np.array([True, False])}
    figure = plot_mask_histogram(masks, pruned, threshold=0.05)
    cut, kept = figure.axes[0].containers
    assert [bar.get_height() for bar in cut][:3] == [1, 1, 0]
    assert sum(bar.get_height() for bar in kept) == 4
    texts = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert texts == {"pruned (2)", "kept (4)", "threshold 0.05"}


def test_every_layer_is_named_with_its_share_pruned():
    masks = {f"layer{i}": np.ones(64) for i in range(54)}
    pruned = {name: np.zeros(64, bool) for name in masks}
    pruned["layer3"][:5] = True
    figure = plot_masks_by_layer(masks, pruned)
    left, right = ([text.get_text() for text in ax.get_yticklabels()] for ax in figure.axes)
    assert left == list(masks)
    assert right[3] == "5 / 64"
    assert right.count("0 / 64") == 53

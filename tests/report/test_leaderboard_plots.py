import numpy as np
import pytest

from rnp_jax.report.figures import render_svg
from rnp_jax.report.leaderboard_plots import MAX_PANELS, MAX_VECTORS, plot_items
from rnp_jax.report.sweep_row import SweepRow
from tests.report.examples import share


def make_row(number: int, **fields) -> SweepRow:
    known = {
        "checkpoint": f"{number}.pt",
        "attack": "sig",
        "poison_rate": 0.1,
        "seed": 0,
        "method": "rnp",
        "key": "0" * 64,
        "status": "ok",
        "acc": share(900 - number % 7, 1000),
        "asr": share(number % 11, 1000),
        "acc_before": share(950, 1000),
        "asr_before": share(1000, 1000),
    }
    return SweepRow.model_validate(known | fields)


def points(ax) -> list[list]:
    return [np.asarray(each.get_offsets()).round(9).tolist() for each in ax.collections]


def test_a_panel_a_method_with_its_points_before_and_after():
    rows = [make_row(1), make_row(2, method="clp", mode="head"), make_row(3, method="clp"), make_row(4)]
    rows += [make_row(5, status="failed"), make_row(6, asr=None)]
    figure = plot_items(rows)
    assert figure
    panels = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in panels] == ["CLP", "RNP", "CLP, head"]
    assert points(panels[1]) == [[[0.95, 1.0], [0.95, 1.0]], [[0.899, 0.001], [0.896, 0.004]]]
    assert points(panels[2]) == [[[0.95, 1.0]], [[0.898, 0.002]]]
    faces = [len(ax.collections[1].get_facecolor()) for ax in panels]
    assert faces == [1, 1, 0]  # hollow where the head alone was pruned


def test_nothing_to_draw_is_no_figure():
    assert plot_items([]) is None
    assert plot_items([make_row(0, asr=None), make_row(1, status="failed")]) is None


def test_the_first_methods_are_drawn():
    figure = plot_items([make_row(i, method=f"m{i}") for i in range(MAX_PANELS + 2)])
    assert figure
    assert sum(ax.axison for ax in figure.axes) == MAX_PANELS


@pytest.mark.parametrize(("n", "pixels"), [(MAX_VECTORS, False), (5000, True)])
def test_many_points_are_drawn_as_pixels(n: int, pixels: bool):
    figure = plot_items([make_row(i) for i in range(n)])
    assert figure
    svg = render_svg(figure)
    assert (b"data:image/png;base64" in svg) == pixels
    assert len(svg) < 400_000

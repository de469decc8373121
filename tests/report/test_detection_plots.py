import numpy as np
import pytest

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.detection_plots import BACKDOORED, CLEAN, KnownScore, plot_calibration

SCORES = [
    KnownScore("a", None, 0.3, "calibration"),
    KnownScore("b", None, 0.5, "held-out"),
    KnownScore("c", None, 0.7, "held-out"),
    KnownScore("d", "sig", 0.9, "calibration"),
    KnownScore("e", "$wanet", 0.6, "held-out"),
    KnownScore("f", "sig", 0.8, "held-out"),
    KnownScore("g", "sig", 0.2, "weak"),
]


def test_every_model_lies_at_its_score_in_the_row_of_its_kind():
    rows, _ = plot_calibration(SCORES, 0.65, 0.4).axes
    labels = [text.get_text() for text in rows.get_yticklabels()]
    assert labels == ["clean", "$wanet", "sig"]
    drawn = [line for line in rows.lines if line.get_marker() in ("o", "x")]
    assert len(drawn) == len(SCORES)
    for line, each in zip(drawn, SCORES, strict=True):
        ((x,), (y,)) = line.get_data()
        assert (x, labels[int(y)]) == (each.score, each.attack or "clean")
        assert line.get_color() == (BACKDOORED if each.attack else CLEAN)
        assert (line.get_markerfacecolor() == palette.PAPER) == (each.role == "held-out")
        assert (line.get_marker() == "x") == (each.role == "weak")


def test_the_threshold_and_what_is_undecided_are_marked():
    rows, roc = plot_calibration(SCORES, 0.65, 0.4).axes
    (line,) = [line for line in rows.lines if line.get_marker() not in ("o", "x")]
    assert set(line.get_xdata()) == {0.65}
    (band,) = rows.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.4, 0.65))
    (point,) = [line for line in roc.lines if line.get_marker() == "o"]
    assert [*point.get_xdata(), *point.get_ydata()] == [0.5, 0.5]


def test_the_curve_encloses_the_auroc():
    curve = plot_calibration(SCORES, 0.65, 0.4).axes[1].lines[0]
    x, y = np.asarray(curve.get_data())
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(3 / 4)  # of the four pairs 0.6 > 0.5, 0.8 > 0.5 and 0.8 > 0.7


def test_both_kinds_must_be_held_out():
    with pytest.raises(ResultError, match="2 clean and 0 backdoored models held out"):
        plot_calibration([each for each in SCORES if each.role != "held-out" or not each.attack], 0.6, 0.4)


@pytest.mark.parametrize("mark", [-0.4, 0.0, 0.5, 0.66, 1.0, 3.2])
def test_this_model_is_in_view_and_named_wherever_it_lies(mark: float):
    figure = plot_calibration(SCORES, 0.65, 0.4, mark=mark)
    rows, _ = figure.axes
    low, high = rows.get_xlim()
    assert low <= mark <= high
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in rows.texts}
    assert set(boxes) == {"threshold", f"this model: {mark:.2f}"}
    for box in boxes.values():
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    first, second = boxes.values()
    assert first.x1 <= second.x0 or second.x1 <= first.x0 or first.y1 <= second.y0 or second.y1 <= first.y0

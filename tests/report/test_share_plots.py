import numpy as np
import pytest

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.share_plots import plot_shares

SHARES = np.array([[0.1, 0.4, 0.5], [0.0, 0.9, 0.1]])


def test_the_label_s_line_stands_out_and_the_others_are_there():
    (ax,) = plot_shares({"train": SHARES}, 1, ["a", "b", "c"]).axes
    (line,) = [line for line in ax.lines if line.get_color() == palette.ASR]
    np.testing.assert_allclose(line.get_ydata(), SHARES[:, 1])
    others = [line.get_ydata() for line in ax.lines if line.get_color() == palette.QUIET and len(line.get_ydata()) == 2]
    assert {tuple(each) for each in others} == {(0.1, 0.0), (0.5, 0.1)}


def test_a_panel_a_mode():
    axes = plot_shares({"train": SHARES, "frozen": SHARES}, 0, ["a", "b", "c"]).axes
    assert [ax.get_title() or ax.get_title("left") for ax in axes] == ["batch norm: train", "batch norm: frozen"]


@pytest.mark.parametrize(
    ("shares", "label", "names"),
    [
        ({}, 0, ["a"]),
        ({"train": SHARES}, 3, ["a", "b", "c"]),
        ({"train": SHARES}, 0, ["a"]),
        ({"t": SHARES * 2}, 0, list("abc")),
    ],
)
def test_what_does_not_fit(shares, label, names):
    with pytest.raises(ResultError, match="expected"):
        plot_shares(shares, label, names)

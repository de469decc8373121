"""Figures of a re-activation: which lines are drawn, and what they mean."""

from rnp_jax.reactivation import Attempt, Curve
from rnp_jax.report import palette
from rnp_jax.report.reactivation_plots import plot_attempts
from tests.report.examples import share

CURVES = (
    Curve(figure="epochs", name="purified, 5 triggered images", x=(0, 1), y=(0.0, 0.7)),
    Curve(figure="epochs", name="purified, 0 triggered images", x=(0, 1), y=(0.0, 0.4)),
    Curve(figure="epochs", name="reference, 5 triggered images", x=(0, 1), y=(0.0, 0.1)),
    Curve(figure="images", name="purified", x=(0, 5), y=(0.4, 0.7), low=(0.3, 0.6), high=(0.5, 0.8)),
)


def test_colours_tell_the_networks_and_dots_the_control():
    figure = plot_attempts((Attempt(name="ra", curves=CURVES),), share(99, 100))["budget"]
    left, right = figure.axes
    looks = [(line.get_color(), line.get_linestyle()) for line in left.lines]
    assert looks == [(palette.ASR, "-"), (palette.ASR, ":"), (palette.ACC, "-"), (palette.QUIET, "--")]
    assert right.lines[-1].get_ydata()[0] == 0.99
    assert left.get_ylim() == right.get_ylim() == (-0.02, 1.02)


def test_without_the_original_there_is_no_line_for_it():
    left, _ = plot_attempts((Attempt(name="ra", curves=CURVES),))["budget"].axes
    assert len(left.lines) == 3


def test_a_figure_needs_both_of_its_panels():
    path = (
        Curve(figure="path", name="ASR, purified", x=(0, 1), y=(0.0, 1.0), low=(0.0, 0.9), high=(0.1, 1.0)),
        Curve(figure="barrier", name="purified", x=(0, 1), y=(2.0, None)),
    )
    assert list(plot_attempts((Attempt(name="ra", curves=CURVES), Attempt(name="lmc", curves=path)))) == [
        "budget",
        "path",
    ]
    assert list(plot_attempts((Attempt(name="lmc", curves=path),))) == ["path"]
    assert plot_attempts((Attempt(name="ra", curves=CURVES[:2]),)) == {}

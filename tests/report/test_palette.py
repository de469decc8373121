import matplotlib
import pytest
from matplotlib.colors import to_rgb

from rnp_jax.defenses import METHODS
from rnp_jax.report import palette


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer4.0.bn1", "layer4.0.bn1"),
        ("\u732b", r"\u732b"),
        ("a\x00\n\u202e\udcff", r"a\x00\n\u202e\udcff"),
        ("x" * 50, "x" * 18 + "..." + "x" * 18),
        ("$\\frac{", "$\\frac{"),
    ],
)
def test_labels_can_always_be_drawn(text: str, shown: str):
    assert palette.label(text) == shown


def test_style_leaves_the_process_as_it_was():
    before = dict(matplotlib.rcParams)
    with palette.style():
        assert matplotlib.rcParams["text.parse_math"] is False
    assert dict(matplotlib.rcParams) == before


def _luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


LINES = [palette.ACC, palette.ASR, palette.RA, palette.HOLDOUT, palette.QUIET]
LOOKS = palette.method_looks([*METHODS, *(f"other {i}" for i in range(6))])


def test_colour_and_marker_tell_methods_apart():
    assert len(set(LOOKS.values())) == len(LOOKS)
    assert len({marker for _, marker in LOOKS.values()}) == len(LOOKS), "in grey too"
    assert palette.method_looks(["x", "clp"])["clp"] == LOOKS["clp"] == (METHODS["clp"].colour, METHODS["clp"].marker)
    assert set(palette.method_looks(["x", "clp"])) == {"x", "clp"}


@pytest.mark.parametrize("color", sorted({*LINES, *(color for color, _ in LOOKS.values())}))
def test_colors_of_lines_reach_the_contrast_that_wcag_asks_of_graphics(color: str):
    assert (_luminance(palette.PAPER) + 0.05) / (_luminance(color) + 0.05) >= 3

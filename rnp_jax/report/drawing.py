"""What figures take from matplotlib, which is imported here alone and without the settings of the current folder.

matplotlib obeys a file ``matplotlibrc`` in the current folder, which may be the folder of the checkpoints; such a file
can have text drawn by LaTeX.
"""

import contextlib
from pathlib import Path

with contextlib.chdir(Path(__file__).parent):
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize, hsv_to_rgb, to_rgb
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.style import context as style_context
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

__all__ = [
    "Axes",
    "Axis",
    "Figure",
    "FuncFormatter",
    "Line2D",
    "LinearSegmentedColormap",
    "MaxNLocator",
    "Normalize",
    "Patch",
    "PercentFormatter",
    "ScalarMappable",
    "hsv_to_rgb",
    "style_context",
    "to_rgb",
]

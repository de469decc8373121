import subprocess
import sys

import matplotlib

from rnp_jax.report import palette
from rnp_jax.report.figures import render_svg


def test_a_matplotlibrc_in_the_current_folder_is_not_read(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"text.usetex: True\nfigure.titlesize: \x1b[2J\n\xff\n")
    command = [sys.executable, "-P", "-c", "import os; from rnp_jax.report import drawing; print(os.getcwd())"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (str(tmp_path), "")


def draw() -> bytes:
    with palette.style():
        figure = palette.new_figure(1.0)
        figure.subplots().set_title("$x")
    return render_svg(figure)


def test_settings_of_others_change_no_figure():
    plain = draw()
    with matplotlib.rc_context({"text.usetex": True, "text.latex.preamble": r"\input{x}", "axes.facecolor": "red"}):
        assert draw() == plain

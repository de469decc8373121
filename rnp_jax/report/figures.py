"""Every figure of a report, and their files.

Figures are made with matplotlib's objects, never with pyplot: nothing global changes, and no display is needed.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rnp_jax.atomic import write_atomic
from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.curves import find_used, knows_more, plot_phases, plot_ranking, plot_sweeps
from rnp_jax.report.drawing import Figure
from rnp_jax.report.mask_plots import plot_mask_histogram, plot_masks_by_layer
from rnp_jax.report.samples import Samples, check_samples, plot_samples
from rnp_jax.report.schema import Result
from rnp_jax.report.score_plots import plot_score_histogram, plot_scores_by_layer
from rnp_jax.report.values import Values, check_values, mark_pruned

FIGURES = (
    "sweep",
    "rankings",
    "phases",
    "mask_histogram",
    "masks_by_layer",
    "score_histogram",
    "scores_by_layer",
    "samples",
)
PNG_DPI = 200  # twice the 100 CSS pixels an inch that figures are laid out for


class FigureFiles(NamedTuple):
    """Where a figure was written."""

    png: Path
    svg: Path


def plot_figures(result: Result, values: Values, samples: Samples | None = None) -> dict[str, Figure]:
    """The figures that the result has the data for, by name, in the order of `FIGURES`.

    Args:
      values: per layer, one mask in [0, 1] or one score from 0 up a filter, as ``result.kind`` says; empty where the
        method has neither.

    Raises:
      ResultError: values, pruned filters or samples that do not fit together.
    """
    check_values(values, result.kind)
    if samples is not None:
        check_samples(samples)
    return dict(_plot(result, values, samples))


def _plot(result: Result, values: Values, samples: Samples | None) -> Iterator[tuple[str, Figure]]:
    sweeps = [sweep for sweep in result.sweeps if sweep.points]
    if (used := find_used(sweeps, result.choice)) is not None:
        yield "sweep", plot_ranking(used, result.choice, result.oracle)
        if knows_more(sweeps):
            yield "rankings", plot_sweeps(sweeps, result.choice, result.oracle, result.kind)
    if result.phases:
        yield "phases", plot_phases(result.phases)
    if values:
        pruned = mark_pruned(values, result.pruned_filters)
        threshold = None if result.choice is None else result.choice.threshold
        if result.kind == "mask":
            yield "mask_histogram", plot_mask_histogram(values, pruned, threshold)
            yield "masks_by_layer", plot_masks_by_layer(values, pruned)
        else:
            yield "score_histogram", plot_score_histogram(values, pruned, threshold)
            yield (
                "scores_by_layer",
                plot_scores_by_layer(values, pruned, _thresholds(result, values)),
            )
    if samples is not None:
        yield "samples", plot_samples(samples)


def _thresholds(result: Result, values: Values) -> dict[str, float | None]:
    """Each layer's own threshold, or the one that all share; none where filters are chosen by number."""
    if result.choice is None:
        return {}
    return result.choice.thresholds or dict.fromkeys(values, result.choice.threshold)


def render_svg(figure: Figure) -> bytes:
    """The figure as SVG that needs no font; equal figures give equal bytes."""
    return _render(figure, format="svg", dpi=PNG_DPI, metadata={"Date": None})


def render_png(figure: Figure) -> bytes:
    """The figure as PNG at twice its size on screen."""
    return _render(figure, format="png", dpi=PNG_DPI)


def _render(figure: Figure, **options) -> bytes:
    buffer = io.BytesIO()
    with palette.style():
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def save_figures(
    out_dir: str | Path, figures: Mapping[str, Figure], known: Iterable[str] = FIGURES
) -> dict[str, FigureFiles]:
    """Write ``out_dir/NAME.png`` and ``NAME.svg``; files of ``known`` figures that an earlier report had are removed.

    Raises:
      ResultError: the folder cannot be written.
    """
    out_dir = Path(out_dir)
    files = {name: FigureFiles(out_dir / f"{name}.png", out_dir / f"{name}.svg") for name in figures}
    try:
        for name, figure in figures.items():
            write_atomic(files[name].png, render_png(figure))
            figure.set_layout_engine("none")  # laid out by now; again would take as long as the drawing
            write_atomic(files[name].svg, render_svg(figure))
        for name in set(known) - set(figures):
            (out_dir / f"{name}.png").unlink(missing_ok=True)
            (out_dir / f"{name}.svg").unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(f"{out_dir} cannot be written: {error.strerror}. Choose another output folder.") from error
    return files

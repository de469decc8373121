from dataclasses import dataclass

import numpy as np
import pytest
from matplotlib.axes import Axes

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.sample_plots import ScoredSamples, plot_roc, plot_sample_scores, plot_suspicious

RNG = np.random.default_rng(0)
TRUTH = np.arange(60) % 6 == 0
SCORED = ScoredSamples(
    RNG.integers(0, 256, (60, 8, 8, 3), np.uint8),
    [str(i % 10) for i in range(60)],
    RNG.permutation(60).astype(float) + 100 * TRUTH,
    "unlearned",
    threshold=60.0,
    poisoned=TRUTH,
)


@dataclass
class Cell:
    title: str
    below: str
    framed: bool


def cells(axes: list[Axes]) -> list[Cell]:
    shown = [ax for ax in axes if ax.axison]
    return [Cell(ax.get_title(loc="center"), ax.get_xlabel(), ax.spines["top"].get_visible()) for ax in shown]


def test_the_sheet_shows_the_highest_scores_first_and_frames_poisoned_ones():
    figure = plot_suspicious(SCORED)
    found = cells(figure.axes)
    order = np.argsort(-SCORED.scores)[:30]
    assert [cell.title for cell in found] == [f"#{i}: {i % 10}" for i in order]
    assert [cell.framed for cell in found] == TRUTH[order].tolist() == [True] * 10 + [False] * 20
    assert [cell.below.endswith("poisoned") for cell in found] == TRUTH[order].tolist()
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), SCORED.images[order[0]])


def test_without_the_truth_nothing_is_framed_and_few_samples_leave_cells_empty():
    few = ScoredSamples(SCORED.images[:12, ..., :1], SCORED.labels[:12], SCORED.scores[:12], "$loss$")
    found = cells(plot_suspicious(few).axes)
    assert len(found) == 12
    assert not any(cell.framed or "poisoned" in cell.below for cell in found)


def test_the_histogram_counts_every_sample_once():
    ax = plot_sample_scores(SCORED).axes[0]
    assert [sum(bar.get_height() for bar in bars) for bars in ax.containers] == [50, 10]
    (line,) = ax.lines
    assert list(line.get_xdata()) == [60, 60]
    figure = ax.get_figure()
    assert figure
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(texts) == ["clean (50)", "listed from 60", "poisoned (10)"]
    (bars,) = plot_sample_scores(SCORED._replace(poisoned=None, threshold=None)).axes[0].containers
    assert sum(bar.get_height() for bar in bars) == 60


def test_equal_scores_are_drawn():
    plot_sample_scores(SCORED._replace(scores=np.full(60, 3.0))).draw_without_rendering()


def test_the_curve_is_monotone_and_its_legend_says_what_it_is_worth():
    figure = plot_roc(SCORED)
    curve = figure.axes[0].lines[0]
    assert curve.get_color() == palette.ASR
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    assert x[0] == 1 / 100, "nothing listed stands half a clean sample from the left"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["unlearned: AUROC 1.000", "guessing", "100.0% found at 1 % false positives"]
    worthless = plot_roc(SCORED._replace(scores=np.zeros(60)))
    assert worthless.legends[0].get_texts()[0].get_text() == "unlearned: AUROC 0.500"


@pytest.mark.parametrize("poisoned", [None, np.zeros(60, bool), np.ones(60, bool)])
def test_a_curve_needs_both_kinds(poisoned):
    with pytest.raises(ResultError, match="needs some poisoned and some clean"):
        plot_roc(SCORED._replace(poisoned=poisoned))


@pytest.mark.parametrize(
    "changes",
    [
        {"images": SCORED.images.astype(np.float32)},
        {"images": SCORED.images[..., :2]},
        {"labels": SCORED.labels[:3]},
        {"scores": SCORED.scores[:3]},
        {"poisoned": TRUTH[:3]},
        {"scores": np.full(60, np.nan)},
    ],
)
def test_samples_that_cannot_be_drawn(changes):
    for plot in (plot_suspicious, plot_sample_scores, plot_roc):
        with pytest.raises(ResultError):
            plot(SCORED._replace(**changes))

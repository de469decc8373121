"""Sections of a sweep's page that explain its methods: means, figures, what choices rest on, covariates."""

from collections.abc import Mapping, Sequence

from rnp_jax.defenses import registry
from rnp_jax.report import comparison_plots, leaderboard_plots, rates
from rnp_jax.report.appendix import show_pairs
from rnp_jax.report.comparison import Estimate
from rnp_jax.report.comparison_text import name_attack
from rnp_jax.report.figure_sections import embed_figure
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.leaderboard_matrix import (
    MATRIX_WORDS,
    Matrix,
    Metric,
    list_metrics,
    make_matrix,
    metric_table,
    show_estimate,
)
from rnp_jax.report.outcome_matrix import show_outcomes
from rnp_jax.report.sections import section
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.report.wording import UNKNOWN, number

MAX_COVARIATES = 200
"""More covariates and attacks than these are in rows.csv but not on the page."""

CAPTIONS = {
    "outcomes": (
        "Means by attack",
        "ASR against ACC. Colour and marker show the method, bars 95 % intervals. The best corner is bottom right.",
    ),
    "items": (
        "Every item",
        "ASR against ACC. Crosses: checkpoints before the method. Coloured markers: after it, hollow for a head.",
    ),
    "rates": (
        "Poison rates",
        "ACC, ASR and RA against the share of training images that are poisoned, with 95 % intervals.",
    ),
    "seconds": (
        "Seconds by stage",
        "Mean wall-clock seconds per item over all attacks, on a logarithmic axis, and the share of each stage.",
    ),
}


def show_matrix(rows: Sequence[SweepRow]) -> Markup | None:
    """Attacks as rows, methods as columns: what became of each backdoor, then, folded away, a table a metric."""
    matrix = make_matrix(rows)
    if not matrix.lines:
        return None
    further = element("p", f"{matrix.further:,} further attacks are in the table of items.") if matrix.further else None
    return section("Attacks and methods", *show_outcomes(rows, matrix), further, _show_metrics(matrix, rows))


def _show_metrics(matrix: Matrix, rows: Sequence[SweepRow]) -> Markup:
    parts = [element("summary", "Every figure with its interval"), element("p", MATRIX_WORDS, class_="quiet")]
    for metric, (title, meaning) in list_metrics(rows).items():
        names, found = metric_table(matrix, metric)
        if names:
            lines = [[attack, *(_estimate(each, metric) for each in estimates)] for attack, estimates in found]
            shown = table(["Attack", *names], lines, class_="compared")
            parts += [element("h3", title), element("p", meaning, class_="quiet"), shown]
    return element("details", *parts)


def _estimate(estimate: Estimate | None, metric: Metric) -> Markup:
    if estimate is None:
        return join("\N{EN DASH}")
    shown = join(show_estimate(estimate, metric)) if metric in ("der", "pruned") else share_cell(estimate)
    return join(shown, element("small", f"n = {estimate.n:,}"))


def share_cell(share: Estimate | None) -> Markup:
    """``93.21%`` and, in small type, its interval where there is one."""
    if share is None:
        return join(UNKNOWN)
    if share.low is None or share.high is None:
        return join(f"{share.value:.2%}")
    return join(f"{share.value:.2%}", element("small", f"{100 * share.low:.1f}\N{EN DASH}{share.high:.1%}"))


def show_figures(rows: Sequence[SweepRow], svg: Mapping[str, bytes]) -> Markup | None:
    """The figures with their captions, embedded as SVG."""
    further = _count_undrawn(rows)
    figures = []
    for name, content in svg.items():
        kind = "rates" if name.startswith("rates") else name
        figures += embed_figure(*CAPTIONS[kind], content, further.get(kind, ""))
    return section("Figures", *figures) if figures else None


def _count_undrawn(rows: Sequence[SweepRow]) -> dict[str, str]:
    """By kind of figure, what it leaves out; empty where that is nothing."""
    measured = [row for row in rows if row.status == "ok" and row.acc and row.asr]
    attacks = len({(row.attack, row.poison_rate) for row in measured}) - comparison_plots.MAX_PANELS
    methods = len({(row.mode, row.method) for row in measured}) - leaderboard_plots.MAX_PANELS
    curves = len(rates.find_several_rates(row for row in rows if row.status == "ok")) - rates.MAX_FIGURES
    counts = {"outcomes": (attacks, "attacks"), "items": (methods, "methods"), "rates": (curves, "attacks")}
    return {kind: f"{n:,} further {what} are in the tables." for kind, (n, what) in counts.items() if n > 0}


def show_methods(rows: Sequence[SweepRow]) -> Markup | None:
    """What the masks or scores of each method are, with the source."""
    names = sorted({row.method for row in rows if registry.basis(row.method)}, key=registry.order)
    pairs = [(registry.title(name), registry.basis(name)) for name in names]
    return section("How each method works", show_pairs(pairs)) if pairs else None


def show_covariates(rows: Sequence[SweepRow]) -> Markup | None:
    """Range over items by attack and poison rate."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for name, value in row.covariates.items():
            if value is not None:
                found.setdefault((name, name_attack(row.attack, row.poison_rate)), []).append(value)
    if not found:
        return None
    words = "Measured to explain the outcomes, with knowledge that no defender has; not used for any choice."
    lines = [
        [name, attack, number(min(values)), number(sum(values) / len(values)), number(max(values))]
        for (name, attack), values in found.items()
    ]
    shown = table(["Covariate", "Attack", "Lowest", "Mean", "Highest"], lines[:MAX_COVARIATES], class_="points")
    further = len(lines) - MAX_COVARIATES
    rest = element("p", f"{further:,} further lines are in rows.csv.") if further > 0 else None
    return section("Covariates", element("p", words), shown, rest)

"""A comparison as a self-contained page, and the folder that holds all of its forms."""

import itertools
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from rnp_jax.report import methods
from rnp_jax.report.appendix import show_pairs, show_tree
from rnp_jax.report.comparison import Comparison, ComparisonRow, Estimate, Summary
from rnp_jax.report.comparison_plots import MAX_PANELS, plot_outcomes, plot_seconds
from rnp_jax.report.comparison_text import (
    INTERVALS,
    by_attack,
    name_attack,
    name_method,
    name_run,
    show_pruned,
    show_rating,
    show_seconds,
    to_csv,
    to_markdown,
)
from rnp_jax.report.document import to_json, write_text
from rnp_jax.report.figures import save_figures
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.page import render_document
from rnp_jax.report.rates import plot_all_rates
from rnp_jax.report.sections import embed_figure, section
from rnp_jax.report.wording import UNKNOWN, number

FIGURES = ("outcomes", "seconds")
CAPTIONS = {
    "outcomes": (
        "Attack success against accuracy",
        "The best corner is bottom right: low ASR, high ACC. Colour and marker tell methods; bars are 95 % intervals.",
    ),
    "seconds": (
        "Seconds by stage",
        "Mean wall-clock seconds of a run over every attack, on a logarithmic axis, and how its stages divide them.",
    ),
    "rates": (
        "Poison rates",
        "ACC, ASR and RA against the share of training images that are poisoned, with 95 % intervals.",
    ),
}


def write_comparison(out_dir: str | Path, comparison: Comparison) -> Path:
    """Write ``comparison.json|csv|md``, ``figures/*.png|svg`` and, last, ``comparison.html``, each whole or not at all.

    Returns:
      The path of ``comparison.html``.

    Raises:
      ResultError: the folder cannot be written.
    """
    out_dir = Path(out_dir)
    files = save_figures(out_dir / "figures", plot_comparison(comparison), FIGURES)
    write_text(out_dir / "comparison.json", to_json(comparison))
    write_text(out_dir / "comparison.csv", to_csv(comparison.rows))
    write_text(out_dir / "comparison.md", to_markdown(comparison))
    page = render_comparison(comparison, {name: file.svg.read_bytes() for name, file in files.items()})
    return write_text(out_dir / "comparison.html", page)


def plot_comparison(comparison: Comparison) -> dict[str, Figure]:
    """The figures that the rows have the data for, by name."""
    figures = {}
    if any(row.acc and row.asr for row in comparison.rows):
        figures["outcomes"] = plot_outcomes(comparison.rows)
    seconds = plot_seconds(comparison.rows)
    if seconds is not None:
        figures["seconds"] = seconds
    return figures | plot_all_rates(comparison.rows)


def render_comparison(comparison: Comparison, svg: Mapping[str, bytes]) -> str:
    """The page as text; ``svg`` holds the figures to embed, by name."""
    return render_document(
        "Defenses compared \N{MIDDLE DOT} rnp_jax report",
        _show_header(comparison),
        *(_show_attack(name_attack(*key), summaries) for key, summaries in by_attack(comparison.rows).items()),
        _show_figures(comparison, svg),
        _show_methods(comparison),
        _show_covariates(comparison),
        _show_notes(comparison),
        _show_settings(comparison),
        element("footer", "Every run with its counts is beside this page: comparison.json, comparison.csv."),
    )


def _show_header(comparison: Comparison) -> Markup:
    rows = comparison.rows
    facts = {
        "Runs": f"{len(rows):,}",
        "Methods": f"{len({row.method for row in rows}):,}",
        "Attacks": f"{len({row.attack for row in rows}):,}",
        "Checkpoints": f"{len({row.checkpoint for row in rows}):,}",
        "Seeds": f"{len({row.seed for row in rows}):,}",
        "Device": comparison.device,
    }
    moment = comparison.created.strftime("%Y-%m-%d %H:%M UTC")
    return element(
        "header",
        element("p", element("span", "Backdoor defenses"), element("span", moment), class_="eyebrow"),
        element("h1", "Defenses compared"),
        element("p", INTERVALS, class_="lead"),
        element("dl", *(element("div", element("dt", k), element("dd", v)) for k, v in facts.items()), class_="facts"),
        class_="unknown",
    )


def _show_attack(name: str, summaries: list[Summary]) -> Markup:
    head = ["Method", "Runs", "ACC", "ASR", "RA", "DER", "Pruned", "Time"]
    rows = []
    for each in summaries:
        oracle = element("small", methods.ORACLE_NOTE) if each.keys["method"] == "oracle" else None
        cells = [share_cell(share) for share in (each.acc, each.asr, each.ra)]
        rest = [show_rating(each.der), show_pruned(each), show_seconds(each.total)]
        rows.append([join(name_method(each.keys), oracle), f"{each.n:,}", *cells, *rest])
    return section(name, table(head, rows, class_="compared"))


def share_cell(share: Estimate | None) -> Markup:
    """``93.21%`` and, in small type, its interval where there is one."""
    if share is None:
        return join(UNKNOWN)
    if share.low is None or share.high is None:
        return join(f"{share.value:.2%}")
    return join(f"{share.value:.2%}", element("small", f"{100 * share.low:.1f}\N{EN DASH}{share.high:.1%}"))


def _show_figures(comparison: Comparison, svg: Mapping[str, bytes]) -> Markup | None:
    figures = []
    for name, content in svg.items():
        heading, caption = CAPTIONS["rates" if name.startswith("rates") else name]
        rest = len(by_attack(comparison.rows)) - MAX_PANELS
        if name == "outcomes" and rest > 0:
            caption += f" {rest:,} further attacks are in the tables."
        figures += embed_figure(heading, caption, content)
    return section("Figures", *figures) if figures else None


def _show_methods(comparison: Comparison) -> Markup | None:
    names = sorted({row.method for row in comparison.rows if methods.basis(row.method)}, key=methods.order)
    rows = [(methods.title(name), methods.basis(name)) for name in names]
    return section("What the choices rest on", show_pairs(rows)) if rows else None


def _show_covariates(comparison: Comparison) -> Markup | None:
    """Range over runs by attack and poison rate."""
    found: dict[tuple[str, str], list[float]] = {}
    for row, (name, value) in itertools.chain.from_iterable(
        ((row, item) for item in row.covariates.items()) for row in comparison.rows
    ):
        if value is not None:
            found.setdefault((name, name_attack(row.attack, row.poison_rate)), []).append(value)
    if not found:
        return None
    words = "Measured to explain the outcomes, with what a defender does not know; no choice rests on them."
    rows = [
        [name, attack, number(min(values)), number(sum(values) / len(values)), number(max(values))]
        for (name, attack), values in found.items()
    ]
    head = ["Covariate", "Attack", "Lowest", "Mean", "Highest"]
    return section("Covariates", element("p", words), table(head, rows, class_="points"))


def _show_notes(comparison: Comparison) -> Markup | None:
    said: list[ComparisonRow] = [row for row in comparison.rows if row.note]
    if not said:
        return None
    notes = element("ul", *(element("li", f"{name_run(row)}: {row.note}") for row in said), class_="notes warning")
    return section("Notes", notes)


def _show_settings(comparison: Comparison) -> Markup:
    return section(
        "Settings and versions",
        show_pairs([("Device", comparison.device), *comparison.versions]),
        show_tree("Resolved configuration", comparison.config),
    )

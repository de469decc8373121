"""An ablation as one self-contained page: the best setting, the heat maps, and every setting."""

from datetime import UTC

from rnp_jax.report.ablation import Ablation, AblationCell
from rnp_jax.report.appendix import show_pairs, show_tree
from rnp_jax.report.figure_sections import embed_figure
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.page import render_document
from rnp_jax.report.sections import section
from rnp_jax.report.wording import UNKNOWN, number, percent

SHOWN = 10
"""More settings than these are folded away."""

RULE = "Settings are ranked by ACC minus ASR, which is the order of DER."
SEES = "This order uses the trigger, which no defender has: it explains the method and is no advice."
BLIND = "Here the trigger is not known, so only ACC was measured."
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
CAPTION = (
    f"One map a threshold rule and scope; rows are norms and radii, columns the exponent {ALPHA}. "
    "The colour is ASR, strong where the backdoor works; the number is ACC in percent."
)


def rank_cells(ablation: Ablation) -> list[AblationCell]:
    """The settings, the best first; those with equal figures stay in their order, those without any come last."""

    def rate(cell: AblationCell) -> float:
        return -2.0 if cell.acc is None else cell.acc.value - (cell.asr.value if cell.asr else 0.0)

    return sorted(ablation.cells, key=rate, reverse=True)


def render_ablation(ablation: Ablation, svg: bytes) -> str:
    """The page as text; ``svg`` is its figure."""
    ranked = rank_cells(ablation)
    headline = _say(ranked[0])
    return render_document(
        f"{headline} \N{MIDDLE DOT} rnp_jax report",
        _show_header(ablation, headline),
        section("All settings at a glance", *embed_figure("Attack success and accuracy", CAPTION, svg)),
        _show_cells(ablation, ranked),
        section(
            "Settings and versions",
            show_pairs([("Device", ablation.device), *ablation.versions]),
            show_tree("Resolved configuration", ablation.config),
        ),
        element("footer", f"Written by rnp_jax {ablation.versions.rnp_jax}. Machine-readable: ablation.json."),
    )


def _say(best: AblationCell) -> str:
    figures = [
        f"{name}\N{NO-BREAK SPACE}{percent(share)}" for name, share in (("ASR", best.asr), ("ACC", best.acc)) if share
    ]
    return f"Best of the settings: {', '.join(figures) or 'nothing was measured'}"


def _show_header(ablation: Ablation, headline: str) -> Markup:
    best = rank_cells(ablation)[0]
    checkpoint = str(ablation.config.get("checkpoint", UNKNOWN)).replace("\\", "/").rsplit("/", 1)[-1]
    asr = [cell.asr.value for cell in ablation.cells if cell.asr]
    facts = {
        "Checkpoint": checkpoint,
        "Settings tried": f"{len(ablation.cells):,}",
        "ASR over all settings": f"{min(asr):.1%} to {max(asr):.1%}" if asr else UNKNOWN,
        "Best rule and scope": f"{best.rule}, {best.scope}",
        "Best norm and radii": f"{best.norm}; {best.radii}",
        "Best exponent": f"{best.alpha:g}",
    }
    moment = ablation.created.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return element(
        "header",
        element(
            "p",
            element("span", "Ablation of H\N{LATIN SMALL LETTER O WITH DIAERESIS}lder pruning"),
            element("span", moment),
            class_="eyebrow",
        ),
        element("h1", headline),
        element("p", f"{RULE} {SEES if asr else BLIND}", class_="lead"),
        element("dl", *(element("div", element("dt", k), element("dd", v)) for k, v in facts.items()), class_="facts"),
        class_="unknown",
    )


def _show_cells(ablation: Ablation, ranked: list[AblationCell]) -> Markup:
    head = ["Rule and scope", "ASR", "ACC", "RA", "Pruned", "Rank correlation"]
    rows = [
        [
            _name(cell),
            *(percent(share) for share in (cell.asr, cell.acc, cell.ra)),
            UNKNOWN if cell.pruned is None else f"{cell.pruned:,}",
            number(cell.rank_correlation),
        ]
        for cell in ranked
    ]
    words = f"The rank correlation is that of the scores with {ablation.reference}; 1 means the same order."
    rest = rows[SHOWN:]
    return section(
        "Settings, the best first",
        element("p", words, class_="quiet"),
        table(head, rows[:SHOWN], class_="compared"),
        element("details", element("summary", f"Show {len(rest):,} more"), table(head, rest, class_="compared"))
        if rest
        else None,
    )


def _name(cell: AblationCell) -> Markup:
    """A setting by its rule and scope, and in small type by what else varies."""
    rest = f"p = {cell.norm}, radii {cell.radii}, {ALPHA} = {cell.alpha:g}"
    return join(f"{cell.rule}, {cell.scope}", element("small", rest))

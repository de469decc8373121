"""Attempts to bring a backdoor back, as a versioned document and the one page that shows it.

The page says, in this order: the conclusion, what was tried and what it reached, the way there, what is known, and what
is not.
"""

from pathlib import Path

from rnp_jax.document import Part, Sha256, Text, to_json, write_text
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.reactivation import REACTIVATIONS, RECOVERED, Attempt, Finding
from rnp_jax.report.appendix import show_file, show_pairs, show_settings, show_timing
from rnp_jax.report.figure_sections import embed_figure
from rnp_jax.report.figures import render_svg
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.outcome import Level
from rnp_jax.report.page import render_document
from rnp_jax.report.reactivation_plots import CAPTIONS, plot_attempts
from rnp_jax.report.schema import Run
from rnp_jax.report.sections import section, show_header, show_warnings
from rnp_jax.report.wording import UNKNOWN, interval, number, percent

LEVELS: dict[Finding, Level] = {
    "still works": "bad",
    "superficial": "bad",
    "undecided": "warning",
    "no reference": "unknown",
    "not recovered": "ok",
    "explains": "unknown",
}
"""The colour of each finding."""

RULE = (
    "The floor is ASR of the clean reference after the same attempt. The backdoor is back where ASR exceeds the floor "
    f"by more than {100 * RECOVERED:.0f} points, even from the lower end of its 95 % interval to the upper end of the "
    f"floor's. It is not back where even the other two ends are at most {100 * RECOVERED:.0f} points apart. In "
    "between, the attempt decides nothing."
)


class OtherNetwork(Part):
    """A network beside the purified one, and its figures before any attempt."""

    role: Text
    path: Text
    sha256: Sha256
    metrics: Metrics


class Ruled(Part):
    """What an attempt shows, and why."""

    name: Text
    finding: Finding
    sentence: Text


class ReactivationResult(Run):
    """Attempts to bring the backdoor of one purified network back.

    ``before`` are its figures before any attempt, ``attempts`` what each reached and ``rulings`` what that means, in
    the same order. ``untried`` says which attempts were left out, and why. ``finding`` is the worst of all.
    """

    before: Metrics
    others: tuple[OtherNetwork, ...]
    attempts: tuple[Attempt, ...]
    rulings: tuple[Ruled, ...]
    untried: tuple[Text, ...]
    finding: Finding
    unknown: tuple[Text, ...]


def write_reactivation(out_dir: str | Path, result: ReactivationResult) -> Path:
    """Write ``result.json`` and, last, ``report.html``, each whole or not at all.

    Returns:
      The path of ``report.html``.

    Raises:
      ResultError: the folder cannot be written.
    """
    write_text(Path(out_dir) / "result.json", to_json(result))
    return write_text(Path(out_dir) / "report.html", render_reactivation(result))


def render_reactivation(result: ReactivationResult) -> str:
    """The page as text."""
    return render_document(
        f"{result.verdict.headline} \N{MIDDLE DOT} rnp_jax reactivate",
        show_header(result, "Is it really gone?", _facts(result)),
        show_warnings(result),
        section("What was tried", *_show_attempts(result), *_list(result.untried)),
        _show_figures(result),
        section("Controls", *_show_controls(result)),
        section("The networks before any attempt", _show_networks(result)),
        section("What is not known", *_list(result.unknown)),
        section("How each attempt works", *_show_bases(result)),
        show_file(result),
        show_settings(result),
        show_timing(result),
        element("footer", f"Written by rnp_jax {result.versions.rnp_jax}. Machine-readable: result.json."),
    )


def _facts(result: ReactivationResult) -> dict[str, str]:
    attack = "unknown" if result.attack is None else result.attack.name
    names = {each.role: each.path.replace("\\", "/").rsplit("/", 1)[-1] for each in result.others}
    return {
        "Backdoored original": names.get("original", "not given"),
        "Clean reference": names.get("reference", "not given"),
        "Trigger": attack,
        "Attacker's images": f"{result.data.defense_images:,} of {result.data.name}",
    }


def _show_attempts(result: ReactivationResult) -> list[Markup]:
    """A table of those that measure ASR, and in words what the others explain."""
    ruled = list(zip(result.attempts, result.rulings, strict=True))
    head = ["Attempt", "ASR before", "ASR after", "Floor", "ACC after"]
    rows = [
        [
            join(_title(attempt.name), " ", _badge(own.finding), element("small", _tell_budget(attempt))),
            _share(result.before.asr),
            _share(attempt.after.asr),
            _share(attempt.floor and attempt.floor.asr),
            "unchanged" if attempt.after.acc is None else _share(attempt.after.acc),
        ]
        for attempt, own in ruled
        if attempt.after is not None
    ]
    told = [
        element("li", element("b", f"{_title(attempt.name)}: "), own.sentence)
        for attempt, own in ruled
        if attempt.after is None
    ]
    explained = [element("p", "Measured to explain, which decides nothing:"), element("ul", *told)] if told else []
    measured = [table(head, rows, class_="points signs"), element("p", RULE, class_="quiet")] if rows else []
    return [*measured, *explained]


def _badge(finding: Finding) -> Markup:
    return element("span", finding, class_=f"badge {LEVELS[finding]}")


def _tell_budget(attempt: Attempt) -> str:
    return ", ".join(f"{name}: {number(value)}" for name, value in attempt.budget.items())


def _share(share: Proportion | None) -> Markup | str:
    return "\N{EN DASH}" if share is None else join(percent(share), element("small", interval(share)))


def _show_figures(result: ReactivationResult) -> Markup | None:
    original = next((each.metrics.asr for each in result.others if each.role == "original"), None)
    figures = plot_attempts(result.attempts, original)
    parts = [part for name, figure in figures.items() for part in embed_figure(*CAPTIONS[name], render_svg(figure))]
    return section("The way there", *parts) if parts else None


def _show_controls(result: ReactivationResult) -> list[Markup]:
    rows = [
        [join(_title(attempt.name), element("small", control.name)), _share(control.asr), _share(control.acc)]
        for attempt in result.attempts
        for control in attempt.controls
    ]
    numbers = [
        (f"{_title(attempt.name)}: {name}", number(value, none=UNKNOWN))
        for attempt in result.attempts
        for name, value in attempt.figures.items()
    ]
    words = "What the same effort does without the trigger, or to a network that never had the backdoor."
    told = [element("p", words, class_="quiet"), table(["Control", "ASR", "ACC"], rows, class_="points")]
    folded = element("details", element("summary", f"Show {len(numbers)} further figures"), show_pairs(numbers))
    return [*(told if rows else []), *([folded] if numbers else [])]


def _show_networks(result: ReactivationResult) -> Markup:
    own = [("purified", result.checkpoint.path, result.before)]
    rows = [
        [join(role, element("small", path)), _share(metrics.acc), _share(metrics.asr), _share(metrics.ra)]
        for role, path, metrics in (*own, *((each.role, each.path, each.metrics) for each in result.others))
    ]
    return table(["Network", "ACC", "ASR", "RA"], rows, class_="points")


def _show_bases(result: ReactivationResult) -> list[Markup]:
    return [
        element("p", element("b", f"{_title(each.name)}: "), REACTIVATIONS[each.name].basis)
        for each in result.attempts
        if each.name in REACTIVATIONS
    ]


def _title(name: str) -> str:
    return REACTIVATIONS[name].title if name in REACTIVATIONS else name


def _list(sentences: tuple[str, ...]) -> list[Markup]:
    return [element("ul", *(element("li", text) for text in sentences))] if sentences else []

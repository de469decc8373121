"""What a reader comes for: the verdict, before and after, the operating point, warnings."""

import re
from collections.abc import Mapping

from rnp_jax.defenses import registry
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.schema import Choice, Oracle, Proportion, Result, Run
from rnp_jax.report.wording import DER, METRICS, UNKNOWN, change, interval, name_trigger, number, percent, rating

LEVELS = {"ok": "Good", "warning": "Caution", "bad": "Bad", "unknown": "Not measured"}
ORACLE = "Oracle: best by ASR, which a defender cannot see"

UNCHOSEN = "What the method did"
"""Heading of what stands in the place of an operating point, for a method that has none."""

_UNPRUNED = {"weights": "none: weights were tuned", "bounds": "none: weights stay as they are"}


def section(heading: str, *content: Markup | None) -> Markup:
    """A titled block of the page."""
    return element("section", element("h2", heading), *content)


def show_verdict(result: Result) -> Markup:
    """The conclusion, and the facts that identify the run."""
    checkpoint = result.checkpoint
    pruned, filters = len(result.pruned_filters), checkpoint.filters
    share = f" ({pruned / filters:.1%})" if filters else ""
    cut = _UNPRUNED.get(result.kind, f"{pruned:,} of {filters:,}{share}")
    facts = {
        "Method": registry.title(result.method),
        "Filters pruned": cut,
        "Clean images used": f"{result.data.defense_images:,} of {result.data.name}",
        "Attack tested": "none known" if result.attack is None else result.attack.name,
    }
    return show_header(result, "Backdoor removal report", facts)


def show_header(run: Run, kind: str, facts: Mapping[str, str], *, lead: bool = True) -> Markup:
    """The verdict, in the largest type of the page, and the facts that identify the run.

    Without ``lead``, the verdict's detail is left to a section of the page.
    """
    verdict, checkpoint = run.verdict, run.checkpoint
    facts = {
        "Checkpoint": checkpoint.path.replace("\\", "/").rsplit("/", 1)[-1],
        "Architecture": f"{checkpoint.architecture}, {checkpoint.parameters:,} parameters",
        **facts,
    }
    badge = element("span", LEVELS[verdict.level], class_="badge")
    moment = run.created.strftime("%Y-%m-%d %H:%M UTC")
    return element(
        "header",
        element("p", badge, element("span", kind), element("span", moment), class_="eyebrow"),
        element("h1", _hold_together(verdict.headline)),
        element("p", verdict.detail, class_="lead") if lead else None,
        element("dl", *(element("div", element("dt", k), element("dd", v)) for k, v in facts.items()), class_="facts"),
        class_=verdict.level,
    )


def _hold_together(headline: str) -> str:
    """The headline, its lines never broken between a figure's name, its value and what it became."""
    return re.sub(r"(?<=ACC|ASR) (?=\d)| (?=→ \d)|(?<= →) (?=\d)", "\N{NO-BREAK SPACE}", headline)


def show_metrics(result: Result) -> Markup:
    """Before and after, each share with its 95 % interval and count."""
    rows = []
    for field, (name, meaning) in METRICS.items():
        before, after = getattr(result.before, field), getattr(result.after, field)
        if field != "acc_without_target" or before is not None or after is not None:
            rows.append([_name(name, meaning), _share(before), _share(after), change(before, after)])
    if result.after.der is not None:
        rows.append([_name(*DER), "", rating(result.after), ""])
    return section(
        "Before and after",
        table(["Metric", "Before", "After", "Change, points"], rows, class_="metrics"),
        _tested_on(result),
    )


def _name(name: str, meaning: str) -> Markup:
    return join(name, element("small", meaning))


def _share(share: Proportion | None) -> Markup:
    if share is None:
        return join(UNKNOWN)
    return join(
        percent(share), element("small", interval(share)), element("small", f"{share.count:,} of {share.total:,}")
    )


def _tested_on(result: Result) -> Markup:
    if result.attack is None:
        text = "No trigger is known for this checkpoint, so ASR and RA cannot be measured."
    else:
        text = f"Trigger: {name_trigger(result.attack.name, result.attack.mapping, result.attack.target)}."
    return element("p", f"{text} Ranges are 95 % Wilson score intervals.", class_="quiet")


def show_operating_point(result: Result) -> Markup | None:
    """How the number of pruned filters was chosen and, named so, what hindsight would have chosen."""
    choice, oracle = result.choice, result.oracle
    if choice is None:
        return None
    if result.kind in _UNPRUNED:
        return _show_nothing_chosen(choice, result)
    budget = "" if choice.budget is None else f" Accuracy budget: {100 * choice.budget:.3g} points."
    held = (
        f"{result.data.holdout_images:,} of the {result.data.defense_images:,} clean defense images were held out to "
        f"measure accuracy and were not used in the optimisation.{budget}"
        if result.data.holdout_images
        else f"No images were held out to measure accuracy.{budget}"
    )
    ours = [*_point(choice), *(_held_out(choice) if result.data.holdout_images else [])]
    columns, rows = ["Quantity", "Chosen from clean data"], [[name, cell] for name, cell in ours]
    if oracle is not None:
        theirs = dict(_point(oracle))
        rows = [[name, cell, theirs.get(name, "not used")] for name, cell in rows]
        rows += [
            [METRICS[field][0], *(_share(getattr(each, field)) for each in (result.after, oracle.metrics))]
            for field in ("acc", "asr", "ra")
        ]
        columns.append(ORACLE)
    return section(
        "Operating point",
        element("p", _sentence(choice.rule)),
        element("p", held),
        table(columns, rows, class_="points"),
    )


def _show_nothing_chosen(choice: Choice, result: Result) -> Markup:
    """For a defense with fixed settings: what it did to the images that were held out."""
    held = (
        f"{result.data.holdout_images:,} of the {result.data.defense_images:,} clean defense images were held out to "
        "measure the outcome and were not used in the optimisation."
    )
    rows = _held_out(choice)
    told = [element("p", _sentence(text)) for text in (registry.basis(result.method), choice.rule) if text]
    if not result.data.holdout_images:
        return section(UNCHOSEN, *told)
    return section(UNCHOSEN, *told, element("p", held), table([], rows, class_="pairs"))


def _held_out(choice: Choice) -> list[tuple[str, str]]:
    """What the choice did to the images that were held out."""
    return [
        ("Held-out accuracy before", _share(choice.holdout_acc_before)),
        ("Held-out accuracy after", _share(choice.holdout_acc_after)),
        *([] if choice.holdout_acc_lost is None else [("Held-out accuracy lost", str(choice.holdout_acc_lost))]),
    ]


def _sentence(text: str) -> str:
    """A rule, which is written as part of a line of the log, as a sentence of its own."""
    return f"{text[:1].upper()}{text[1:]}" + "." * (not text.endswith((".", "!", "?")))


def _point(point: Choice | Oracle) -> list[tuple[str, str]]:
    """What is pruned; a threshold only where one decided."""
    threshold = _threshold(point)
    return [
        ("Ranking of filters", point.ranking),
        *([] if threshold is None else [("Threshold", threshold)]),
        ("Filters pruned", f"{point.pruned:,}"),
    ]


def _threshold(point: Choice | Oracle) -> str | None:
    if point.threshold is None and isinstance(point, Choice) and point.thresholds:
        set_ = sum(value is not None for value in point.thresholds.values())
        return f"one per layer, in {set_:,} of {len(point.thresholds):,} layers"
    return None if point.threshold is None else number(point.threshold)


def show_covariates(result: Result) -> Markup | None:
    """Measured beside the outcome, to explain it."""
    if not result.covariates:
        return None
    words = "Measured to explain the outcome, with knowledge that no defender has; not used for any choice."
    rows = [[name, number(value)] for name, value in result.covariates.items()]
    return section("Covariates", element("p", words), table([], rows, class_="pairs"))


def show_warnings(result: Run) -> Markup | None:
    """What weakens the conclusion."""
    if not result.warnings:
        return None
    notes = element("ul", *(element("li", text) for text in result.warnings), class_="notes warning")
    return section("Warnings", notes)

"""What a reader comes for: the verdict, before and after, the operating point, warnings, figures, sample images."""

import base64
from collections.abc import Mapping

from rnp_jax.defenses import registry
from rnp_jax.report.curves import MAX_PHASES
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.samples import MAX_SAMPLES, Samples, amplify_difference, encode_png
from rnp_jax.report.schema import Choice, Metrics, Oracle, Proportion, Result, Run
from rnp_jax.report.wording import DER, METRICS, UNKNOWN, change, interval, number, percent, rating

LEVELS = {"ok": "Good", "warning": "Caution", "bad": "Bad", "unknown": "Not measured"}
ORACLE = "Oracle: best by ASR, which a defender cannot see"

TITLES = {
    "sweep": "Accuracy and attack success as more filters are pruned",
    "phases": "Optimisation",
    "mask_histogram": "Mask values",
    "masks_by_layer": "Masks by layer",
    "score_histogram": "Scores",
    "scores_by_layer": "Scores by layer",
    "timing": "Time by stage",
}
CAPTIONS = {
    "sweep": "A good operating point has a low ASR while ACC is still high. Bands are 95 % intervals.",
    "phases": "Loss and accuracy at the end of each epoch.",
    "mask_histogram": "Number of filters by mask value, on a logarithmic axis. "
    "Filters that the defense exposed have masks near 0.",
    "masks_by_layer": "Each cell is a filter, in index order from the left; wide layers wrap onto further lines.",
    "score_histogram": "Filters by score, on logarithmic axes; scores of 0 stand apart. High scores are suspicious.",
    "scores_by_layer": "Each dot is a filter: its score divided by the median of its layer's scores above 0. "
    "Scores of 0 stand apart at the left.",
    "timing": "Wall-clock seconds, in the order the stages ran.",
}
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


def show_header(run: Run, kind: str, facts: Mapping[str, str]) -> Markup:
    """The verdict, in the largest type of the page, and the facts that identify the run."""
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
        element("h1", verdict.headline),
        element("p", verdict.detail, class_="lead"),
        element("dl", *(element("div", element("dt", k), element("dd", v)) for k, v in facts.items()), class_="facts"),
        class_=verdict.level,
    )


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
        "Before and after", table(["", "Before", "After", "Change, points"], rows, class_="metrics"), _tested_on(result)
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
        target = "all classes" if result.attack.target is None else f"class {result.attack.target}"
        text = f"Trigger: {result.attack.name}, {result.attack.mapping.replace('_', ' ')}, target {target}."
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
    ours = [
        *_point(choice),
        ("Held-out accuracy before", _share(choice.holdout_acc_before)),
        ("Held-out accuracy after", _share(choice.holdout_acc_after)),
        *_outcome(result.after),
    ]
    theirs = {} if oracle is None else dict([*_point(oracle), *_outcome(oracle.metrics)])
    columns = ["", "Chosen from clean data"] + ([ORACLE] if oracle else [])
    rows = [[name, cell] + ([theirs.get(name, "not used")] if oracle else []) for name, cell in ours]
    return section(
        "Operating point", element("p", choice.rule), element("p", held), table(columns, rows, class_="points")
    )


def _show_nothing_chosen(choice: Choice, result: Result) -> Markup:
    """For a defense with fixed settings: what it did to the images that were held out."""
    held = (
        f"{result.data.holdout_images:,} of the {result.data.defense_images:,} clean defense images were held out to "
        "measure the outcome and were not used in the optimisation."
    )
    rows = [
        ("Held-out accuracy before", _share(choice.holdout_acc_before)),
        ("Held-out accuracy after", _share(choice.holdout_acc_after)),
    ]
    told = [element("p", text) for text in (registry.basis(result.method), choice.rule) if text]
    if not result.data.holdout_images:
        return section("Operating point", *told)
    return section("Operating point", *told, element("p", held), table([], rows, class_="pairs"))


def _point(point: Choice | Oracle) -> list[tuple[str, str]]:
    return [
        ("Ranking of filters", point.ranking),
        ("Threshold", _threshold(point)),
        ("Filters pruned", f"{point.pruned:,}"),
    ]


def _threshold(point: Choice | Oracle) -> str:
    if point.threshold is None and isinstance(point, Choice) and point.thresholds:
        set_ = sum(value is not None for value in point.thresholds.values())
        return f"one per layer, in {set_:,} of {len(point.thresholds):,} layers"
    return number(point.threshold, none="none: chosen by number")


def _outcome(metrics: Metrics) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = [
        (METRICS[field][0], _share(getattr(metrics, field))) for field in ("acc", "asr", "ra")
    ]
    return rows if metrics.der is None else [*rows, ("DER", rating(metrics))]


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


def show_figures(result: Result, svg: Mapping[str, bytes]) -> Markup | None:
    """The figures with their captions, embedded as SVG."""
    shown = [name for name in TITLES if name in svg]
    if not shown:
        return None
    figures = []
    for name in shown:
        figures += embed_figure(TITLES[name], CAPTIONS[name], svg[name], *_details(name, result))
    return section("Figures", *figures)


def embed_figure(heading: str, caption: str, svg: bytes, *details: str) -> list[Markup]:
    """A figure under its heading, its SVG inside the page; ``details`` go on with the caption."""
    image = element("img", src=data_uri("image/svg+xml", svg), alt=f"{heading}. {caption}")
    scroll = element("div", image, class_="scroll")
    caption = " ".join([caption, *filter(None, details)])
    return [
        element("h3", heading),
        element("figure", scroll, element("figcaption", caption), class_="chart"),
    ]


def _details(name: str, result: Result) -> list[str]:
    """What a caption says of this run alone."""
    if name == "phases":
        drawn = result.phases[:MAX_PHASES]
        stops = [f"{phase.name.capitalize()}: {phase.stopped}" for phase in drawn if phase.stopped]
        rest = len(result.phases) - len(drawn)
        return [*stops, f"{rest:,} further phases are in result.json."] if rest else stops
    if name in ("mask_histogram", "score_histogram"):
        return [registry.basis(result.method)]
    if name == "scores_by_layer":
        choice = result.choice
        limits = [] if choice is None else [choice.threshold, *choice.thresholds.values()]
        return ["A vertical bar marks the threshold of its layer."] * any(limit is not None for limit in limits)
    if name != "sweep":
        return []
    chosen = "The filled triangle marks the point chosen from clean data."
    return [chosen] * (result.choice is not None) + ([] if result.oracle is None else [_tell_oracle(result.oracle)])


def _tell_oracle(oracle: Oracle) -> str:
    """The rule that the oracle's point follows."""
    limit = (
        "" if oracle.budget is None else f" whose ACC is at most {100 * oracle.budget:.3g} points lower than unpruned"
    )
    return (
        f"The open triangle marks the oracle's point, which a defender cannot see: of the points{limit}, the one with "
        "the lowest ASR and then the fewest filters."
    )


def show_samples(samples: Samples | None) -> Markup | None:
    """Up to `MAX_SAMPLES` images: clean, triggered, what changed, and the classes predicted for the triggered one."""
    if samples is None:
        return None
    difference, factor = amplify_difference(samples)
    cards = []
    for i in range(min(MAX_SAMPLES, len(samples.clean))):
        views = {"clean": samples.clean[i], "triggered": samples.triggered[i], "difference": difference[i]}
        row = [
            element("img", src=data_uri("image/png", encode_png(image)), alt=f"{samples.labels[i]}, {view}")
            for view, image in views.items()
        ]
        said = join(
            element("b", samples.labels[i]), element("br"), f"before: {samples.before[i]}", element("br"),
            f"after: {samples.after[i]}",
        )  # fmt: skip
        cards.append(element("figure", element("div", *row, class_="row"), element("figcaption", said)))
    words = (
        "Each image without the trigger, with it, and the difference between the two "
        f"(brightened {factor:.3g} times). Below: its true class and the class predicted for the triggered image."
    )
    return section("Sample images", element("p", words, class_="quiet"), element("div", *cards, class_="samples"))


def data_uri(kind: str, content: bytes) -> str:
    """The content as an address of its own, of this media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

"""The pictures of a defense's page: its figures with their captions, and sample images with and without the trigger."""

import base64
from collections.abc import Mapping

from rnp_jax.defenses import registry
from rnp_jax.report.curves import MAX_PHASES, find_used
from rnp_jax.report.html import Markup, element, join
from rnp_jax.report.pictures import Pictures
from rnp_jax.report.samples import MAX_SAMPLES, Samples, encode_png, view_samples
from rnp_jax.report.schema import Oracle, Result
from rnp_jax.report.sections import section

CAPTIONS = {
    "sweep": (
        "Accuracy and attack success as more filters are pruned",
        (
            "Filters are pruned in the order that the method chose from. A good point has a low ASR while ACC is still "
            "high. Bands are 95 % intervals."
        ),
    ),
    "rankings": (
        "Every ranking, against the threshold and the number of filters pruned",
        "Line styles tell the rankings apart.",
    ),
    "phases": ("Optimisation", "Loss and accuracy at the end of each epoch."),
    "mask_histogram": (
        "Mask values",
        "Number of filters by mask value, on a logarithmic axis. Filters that the defense exposed have masks near 0.",
    ),
    "masks_by_layer": (
        "Masks by layer",
        "Each cell is a filter, in index order from the left; wide layers wrap onto further lines.",
    ),
    "score_histogram": (
        "Scores",
        "Filters by score, on logarithmic axes; scores of 0 stand apart. High scores are suspicious.",
    ),
    "scores_by_layer": (
        "Scores by layer",
        (
            "Each dot is a filter: its score divided by the median of its layer's scores above 0. Scores of 0 stand "
            "apart at the left."
        ),
    ),
}
"""Heading and caption of each figure, in the order of the page."""

WITHOUT_TRIGGER = (
    "Accuracy as more filters are pruned",
    (
        "Filters are pruned in the order that the method chose from. The trigger is not known, so there is no ASR to "
        "draw. Bands are 95 % intervals."
    ),
)
"""The same for the first figure where no ASR was measured."""

FOLDED = "rankings"
"""The figure that is shown when it is asked for."""


def show_figures(result: Result, svg: Mapping[str, bytes]) -> Markup | None:
    """The figures with their captions, embedded as SVG."""
    figures = []
    for name, (heading, caption) in CAPTIONS.items():
        if name not in svg:
            continue
        if name == "sweep" and not _knows_asr(result):
            heading, caption = WITHOUT_TRIGGER
        shown = embed_figure(heading, caption, svg[name], *_details(name, result))
        if name == FOLDED:
            shown = [element("details", element("summary", heading), *shown[1:])]
        figures += shown
    return section("Figures", *figures) if figures else None


def embed_figure(heading: str, caption: str, svg: bytes, *details: str, pictures: bool = False) -> list[Markup]:
    """A heading and the figure under it, its SVG inside the page; ``details`` go on with the caption.

    A figure of ``pictures`` keeps its colours on a dark page, where others are turned dark.
    """
    image = element("img", src=data_uri("image/svg+xml", svg), alt=f"{heading}. {caption}")
    scroll = element("div", image, class_="scroll")
    caption = " ".join([caption, *filter(None, details)])
    return [
        element("h3", heading),
        element("figure", scroll, element("figcaption", caption), class_="chart pictures" if pictures else "chart"),
    ]


def _knows_asr(result: Result) -> bool:
    used = find_used(result.sweeps, result.choice)
    return used is not None and any(point.asr is not None for point in used.points)


def _details(name: str, result: Result) -> list[str]:
    """What a caption says of this run alone."""
    if name == "phases":
        drawn = result.phases[:MAX_PHASES]
        stops = [f"{phase.name.capitalize()}: {phase.stopped.rstrip('.')}." for phase in drawn if phase.stopped]
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
    used = find_used(result.sweeps, result.choice)
    own, best = (
        used is not None and point is not None and point.ranking == used.ranking
        for point in (result.choice, result.oracle)
    )
    return [chosen] * own + ([_tell_oracle(result.oracle)] if best and result.oracle is not None else [])


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
    views = view_samples(samples)
    cards = []
    for i in range(min(MAX_SAMPLES, len(samples.clean))):
        row = [_show_view(view, i, samples.labels[i]) for view in views]
        right = samples.after[i] == samples.labels[i]
        mark = element(
            "span", "\N{CHECK MARK} right" if right else "\N{BALLOT X} wrong", class_="ok" if right else "bad"
        )
        said = join(
            element("b", samples.labels[i]), element("br"), f"before: {samples.before[i]}", element("br"),
            f"after: {samples.after[i]} ", mark,
        )  # fmt: skip
        cards.append(element("figure", element("div", *row, class_="row"), element("figcaption", said)))
    words = "Below each image: its true class, and the class predicted for it with the trigger."
    return section("Sample images", element("p", words, class_="quiet"), element("div", *cards, class_="samples"))


def _show_view(view: Pictures, i: int, label: str) -> Markup:
    image = data_uri("image/png", encode_png(view.images[i]))
    said = f"{view.title} {view.caption}".strip()
    return element("div", element("img", src=image, alt=f"{label}, {said}"), element("small", said))


def data_uri(kind: str, content: bytes) -> str:
    """The content as an address of its own, of this media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

"""What detection found in a checkpoint: the page that shows it, and the files beside it."""

from collections.abc import Mapping
from pathlib import Path

from rnp_jax.document import to_json, write_text
from rnp_jax.report.appendix import show_file, show_pairs, show_settings, show_timing
from rnp_jax.report.detection import Detection, SamplePart, SignPart, StatisticPart, TriggerPart
from rnp_jax.report.drawing import Figure
from rnp_jax.report.figure_sections import embed_figure
from rnp_jax.report.figures import save_figures
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.page import render_document
from rnp_jax.report.sections import section, show_header, show_warnings
from rnp_jax.report.wording import UNKNOWN, number

FIGURES = (
    *("shares", "calibration_labels", "calibration_triggers"),
    *("triggers_unlearned", "norms_unlearned", "triggers_original", "norms_original"),
    *("suspicious", "sample_scores", "roc"),
)
CAPTIONS = {
    "shares": ("Where predictions go", "Share of each label among the predictions on clean images, after each epoch."),
    "calibration_labels": ("Unlearning: the score among known models", "The dashed line marks this model."),
    "calibration_triggers": ("Trigger size: the score among known models", "The dashed line marks this model."),
    "triggers": (
        "Recovered triggers",
        "Above, the mask of each label: what it covers stands out; below, the trigger seen through it, on grey.",
    ),
    "norms": ("Sizes of the masks", "A mask far smaller than the others is suspicious. The limit is dashed."),
    "suspicious": (
        "The most suspicious samples",
        "Above each sample, its position in the training set and its stated label; below, its score.",
    ),
    "sample_scores": (
        "Sample scores",
        "Number of samples by score, on a logarithmic axis. High scores are suspicious.",
    ),
    "roc": ("Quality of the score", "Measured with the known poisoned samples, which were not used for any choice."),
}


def write_detection(out_dir: str | Path, detection: Detection, figures: Mapping[str, Figure]) -> Path:
    """Write ``figures/*.png|svg``, ``detection.json`` and, last, ``report.html``, each whole or not at all.

    Args:
      out_dir: the folder.
      detection: the document.
      figures: by name, of ``FIGURES``.

    Returns:
      The path of ``report.html``.

    Raises:
      ResultError: the folder cannot be written.
    """
    out_dir = Path(out_dir)
    files = save_figures(out_dir / "figures", figures, FIGURES)
    write_text(out_dir / "detection.json", to_json(detection))
    page = render_detection(detection, {name: file.svg.read_bytes() for name, file in files.items()})
    return write_text(out_dir / "report.html", page)


def render_detection(detection: Detection, svg: Mapping[str, bytes]) -> str:
    """The page as text; ``svg`` holds the figures to embed, by name."""
    return render_document(
        f"{detection.verdict.headline} \N{MIDDLE DOT} rnp_jax report",
        show_header(detection, "Backdoor detection report", _facts(detection), lead=not _is_in_signs(detection)),
        show_warnings(detection),
        _show_statistics(detection, svg),
        _show_shares(detection, svg),
        *(_show_triggers(part, svg) for part in detection.triggers),
        *(_show_samples(part, svg if i == 0 else {}) for i, part in enumerate(detection.samples)),
        show_file(detection),
        show_settings(detection),
        show_timing(detection),
        element("footer", f"Written by rnp_jax {detection.versions.rnp_jax}. Machine-readable: detection.json."),
    )


STATISTICS = {
    "labels": "share of the predictions that go to one label while the model unlearns",
    "triggers": "how much smaller the smallest recovered trigger is than the median",
}


def _facts(detection: Detection) -> dict[str, str]:
    attack = detection.attack
    return {
        "Suspected label": "none" if detection.label is None else f"{detection.label}",
        "Clean images used": f"{detection.data.defense_images:,} of {detection.data.name}",
        "Samples scored": f"{detection.samples[0].samples:,}" if detection.samples else "none given",
        "Known attack": "none known" if attack is None else f"{attack.name}; not used for any choice",
    }


def _is_in_signs(detection: Detection) -> bool:
    """Whether the signs say, one by one, what the verdict's detail says."""
    said = [sign.sentence for sign in detection.signs]
    return bool(said) and all(sentence in detection.verdict.detail for sentence in said)


def _show_statistics(detection: Detection, svg: Mapping[str, bytes]) -> Markup:
    head = ["Score", "This model", "Threshold", "Outcome", "Label", "Source of the threshold"]
    rows = [
        [STATISTICS[each.statistic], f"{each.score:.3f}", number(each.threshold), each.outcome, each.label,
         each.calibration]
        for each in detection.statistics
    ]  # fmt: skip
    words = (
        "One strong sign makes a model likely backdoored, and one weak sign makes it suspicious. It is called likely "
        "clean only if a score is as low as hardly any known backdoored model's."
    )
    return section(
        "Verdict",
        element("p", words),
        table(["Sign", "What was found"], list(map(_show_sign, detection.signs)), class_="points signs"),
        *(figure for each in detection.statistics for figure in _embed_score(each, svg)),
        _fold("The scores that known models of the same kind are compared by", table(head, rows, class_="points"))
        if rows
        else None,
    )


STRENGTHS = {"strong": "bad", "weak": "warning", "none": "unknown", "clears": "ok"}
"""The colour of a sign by its strength."""


def _show_sign(sign: SignPart) -> list[Markup]:
    badge = element("span", sign.strength, class_=f"badge {STRENGTHS[sign.strength]}")
    misses = element("small", element("b", "Misses: "), sign.blind)
    named = element("small", f"label {_name_labels(sign)}") if sign.strength in ("strong", "weak") else None
    return [join(sign.title, " ", badge, named), join(sign.sentence, misses)]


def _name_labels(sign: SignPart) -> str:
    named = [*map(str, sign.labels), *(["all to all"] if sign.all_to_all else [])]
    return ", ".join(named)


def _show_shares(detection: Detection, svg: Mapping[str, bytes]) -> Markup:
    ranked = sorted(detection.shares, key=lambda each: -each.share)[:10]
    words = (
        "The model unlearned clean images in a few small steps. The predictions of a backdoored model go "
        "to its backdoor's label early; those of a clean model wander."
    )
    return section(
        "Unlearning",
        element("p", words),
        *_embed("shares", svg),
        _fold(
            f"The {len(ranked):,} labels with the largest shares",
            table(
                ["Label", "Mean share of predictions"],
                [[f"{each.label} ({each.name})", f"{each.share:.1%}"] for each in ranked],
                class_="points",
            ),
        ),
    )


def _fold(summary: str, content: Markup) -> Markup:
    return element("details", element("summary", summary), content)


def _show_triggers(part: TriggerPart, svg: Mapping[str, bytes]) -> Markup:
    head = ["Label", "Norm, px", "Index", "Success", "Success on the original", "Overlap with the known trigger"]
    rows = [
        [
            f"{each.label} ({each.name})",
            f"{each.norm:.1f}" if each.reached else f"{each.norm:.1f}, not reached",
            number(each.index),
            f"{each.success:.0%}",
            f"{each.success_on_original:.0%}",
            UNKNOWN if each.overlap is None else f"{each.overlap:.2f}",
        ]
        for each in sorted(part.labels, key=lambda each: each.norm)[:20]
    ]
    said = ", ".join(map(str, part.suspected)) or "none"
    return section(
        f"Triggers recovered from the {part.model} model",
        element("p", f"Labels whose mask is suspiciously small: {said}."),
        *_embed(f"triggers_{part.model}", svg),
        *_embed(f"norms_{part.model}", svg),
        _fold(f"Figures of the {len(rows):,} smallest masks", table(head, rows, class_="points")),
    )


def _show_samples(part: SamplePart, svg: Mapping[str, bytes]) -> Markup:
    rows = [
        ("Training set", f"{part.data}, {part.samples:,} samples"),
        ("Listed", f"{len(part.suspicious):,}: {part.rule}"),
        ("First listed", ", ".join(map(str, part.suspicious[:20])) or "none"),
    ]
    if (truth := part.truth) is not None:
        found = f"AUROC {truth.auroc:.3f} ({truth.low:.3f}\N{EN DASH}{truth.high:.3f}), {truth.tpr:.1%} found at 1 %"
        rows.append(("True labels", f"{found} false positives; {truth.poisoned:,} poisoned, {truth.clean:,} clean"))
    return section(
        f"Samples: {part.title}",
        show_pairs(rows),
        *_embed("suspicious", svg),
        *_embed("sample_scores", svg),
        *_embed("roc", svg),
    )


def _embed_score(score: StatisticPart, svg: Mapping[str, bytes]) -> list[Markup]:
    """The score among those of known models, its caption with the figures: a narrow page shows the left part only."""
    limit = "" if score.threshold is None else f" The threshold is {score.threshold:.2f}."
    return _embed(f"calibration_{score.statistic}", svg, f"It has {score.score:.2f}.{limit}")


def _embed(name: str, svg: Mapping[str, bytes], *details: str) -> list[Markup]:
    if name not in svg:
        return []
    kind = name.removesuffix("_unlearned").removesuffix("_original")
    return embed_figure(*CAPTIONS[kind], svg[name], *details, pictures=kind in ("triggers", "suspicious"))

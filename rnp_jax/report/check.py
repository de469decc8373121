"""The whole way with one checkpoint as a versioned document, and the one page that shows it.

The page says, in this order: the conclusion, what was found, what was done, what is known of the result, and what is
not known.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from rnp_jax.document import Share, Text, to_json, write_text
from rnp_jax.evaluation.metrics import Proportion
from rnp_jax.report.appendix import show_file, show_settings, show_timing
from rnp_jax.report.detection import Detection, SignPart
from rnp_jax.report.detection_page import CAPTIONS, STRENGTHS
from rnp_jax.report.evidence import show_classes, show_evidence
from rnp_jax.report.figure_sections import embed_figure, show_samples
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.page import render_document
from rnp_jax.report.samples import Samples
from rnp_jax.report.schema import Result, Run
from rnp_jax.report.sections import section, show_header, show_metrics, show_warnings
from rnp_jax.report.wording import interval, percent

Conclusion = Literal["no evidence", "supported", "not supported", "unchecked"]
"""Nothing speaks for a backdoor; something does, and that it is gone from the new file is supported, or is not; or the
network could not be looked at."""

FIGURES = ("triggers_original", "shares")
"""Of the figures of the detection, those that the page shows."""


class Check(Run):
    """One checkpoint, the whole way.

    ``acc`` is that of the file as it came, on images that nothing learned from; ``stated`` what its card or the file
    says. ``detection`` and ``defense`` are the documents of `detect` and `defend`, None where nothing could be
    concluded. ``written`` is the new checkpoint, None where the network was left as it came.
    """

    conclusion: Conclusion
    acc: Proportion
    stated: Share | None
    normalization: Text  # with where it came from
    detection: Detection | None
    defense: Result | None
    written: Text | None
    done: Text
    known: tuple[Text, ...]
    unknown: tuple[Text, ...]


def write_check(out_dir: str | Path, check: Check, svg: Mapping[str, bytes], samples: Samples | None = None) -> Path:
    """Write ``check.json`` and, last, ``report.html``, each whole or not at all.

    Args:
      out_dir: the folder.
      check: the document.
      svg: figures of the detection, by name.
      samples: test images without and with the trigger, where it is known and something was done.

    Returns:
      The path of ``report.html``.

    Raises:
      ResultError: the folder cannot be written.
    """
    write_text(Path(out_dir) / "check.json", to_json(check))
    return write_text(Path(out_dir) / "report.html", render_check(check, svg, samples))


def render_check(check: Check, svg: Mapping[str, bytes], samples: Samples | None = None) -> str:
    """The page as text; ``svg`` holds the figures of the detection to embed, by name."""
    defense = check.defense
    changed = [] if defense is None or check.written is None else [defense]
    return render_document(
        f"{check.verdict.headline} \N{MIDDLE DOT} rnp_jax check",
        show_header(check, "Checkpoint check", _facts(check)),
        section("What was done", element("p", check.done)),
        section("What is known of the new file", _list(check.known)) if check.known else None,
        section("What is not known", _list(check.unknown)),
        show_warnings(check),
        *(show_metrics(each) for each in changed),
        *(show_evidence(each) for each in changed),
        _show_detection(check.detection, svg),
        *(show_classes(each) for each in changed),
        show_samples(samples),
        show_file(check),
        show_settings(check),
        show_timing(check),
        element("footer", f"Written by rnp_jax {check.versions.rnp_jax}. Machine-readable: check.json."),
    )


def _list(sentences: tuple[str, ...]) -> Markup:
    return element("ul", *(element("li", text) for text in sentences))


def _facts(check: Check) -> dict[str, str]:
    stated = "" if check.stated is None else f"; {check.stated:.1%} stated"
    data = check.data
    return {
        "Classes": f"{check.checkpoint.num_classes:,}",
        "Normalisation": check.normalization,
        "Accuracy as it came": f"{percent(check.acc)} ({interval(check.acc)}) of {check.acc.total:,} images{stated}",
        "Clean images": f"{data.defense_images:,} to work with and {data.test_images:,} to measure on, of {data.name}",
        "New file": check.written or "none: the network was left as it came",
    }


def _show_detection(detection: Detection | None, svg: Mapping[str, bytes]) -> Markup | None:
    """What the verdict rests on."""
    if detection is None:
        return None
    rows = [[join(each.title.capitalize(), " ", _badge(each)), _tell(each)] for each in detection.signs]
    figures = [
        part for name in FIGURES if name in svg for part in embed_figure(*CAPTIONS[name.split("_")[0]], svg[name])
    ]
    return section(
        "What the verdict rests on", table(["Sign", "What was found"], rows, class_="points signs"), *figures
    )


def _tell(sign: SignPart) -> Markup:
    return join(sign.sentence, element("small", element("b", "Misses: "), sign.blind))


def _badge(sign: SignPart) -> Markup:
    return element("span", sign.strength, class_=f"badge {STRENGTHS[sign.strength]}")

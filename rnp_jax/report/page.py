"""The report: one HTML file that asks nothing of a network, opens offline and runs no script.

Its Content-Security-Policy allows embedded images and, by hash, the page's own style sheet, and nothing else; a page
that has a script of its own allows that one too. Every string that is not this package's own is escaped by
`rnp_jax.report.html`.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from rnp_jax.document import write_text
from rnp_jax.report.appendix import show_file, show_pruned_filters, show_settings, show_timing
from rnp_jax.report.evidence import show_classes, show_evidence
from rnp_jax.report.figure_sections import show_figures, show_samples
from rnp_jax.report.figures import plot_figures, save_figures
from rnp_jax.report.html import Markup, element
from rnp_jax.report.samples import Samples
from rnp_jax.report.schema import Result, write_result
from rnp_jax.report.sections import (
    show_covariates,
    show_metrics,
    show_operating_point,
    show_verdict,
    show_warnings,
)
from rnp_jax.report.values import Values


def write_report(out_dir: str | Path, result: Result, values: Values, samples: Samples | None = None) -> Path:
    """Write ``figures/*.png|svg``, ``result.json`` and, last, ``report.html``, each whole or not at all.

    Args:
      values: per layer, the mask in [0, 1] or the score from 0 up of each filter, [F], as ``result.kind`` says; empty
        where the method has neither.

    Returns:
      The path of ``report.html``.

    Raises:
      ResultError: values, pruned filters and samples do not fit together, or the folder cannot be written.
    """
    out_dir = Path(out_dir)
    files = save_figures(out_dir / "figures", plot_figures(result, values, samples))
    write_result(out_dir / "result.json", result)
    page = render_page(result, {name: file.svg.read_bytes() for name, file in files.items()}, samples)
    return write_text(out_dir / "report.html", page)


def render_page(result: Result, svg: Mapping[str, bytes], samples: Samples | None = None) -> str:
    """The page as text; ``svg`` holds the figures to embed, by name."""
    return render_document(
        f"{result.verdict.headline} \N{MIDDLE DOT} rnp_jax report",
        show_verdict(result),
        show_metrics(result),
        show_warnings(result),
        show_evidence(result),
        show_samples(samples),
        show_operating_point(result),
        show_classes(result),
        show_figures(result, svg),
        show_covariates(result),
        show_pruned_filters(result),
        show_file(result),
        show_settings(result),
        show_timing(result),
        element("footer", f"Written by rnp_jax {result.versions.rnp_jax}. Machine-readable: result.json."),
    )


def render_document(title: str, *content: Markup | None, styles: Sequence[str] = (), script: str | None = None) -> str:
    """A whole page, its style sheets, its script and its policy in it.

    Args:
      styles: files of this package that follow ``page.css``.
      script: the file of this package that runs after the content; by default none does.
    """
    style = "".join(map(_read, ("page.css", *styles)))
    code = None if script is None else _read(script)
    body = element("body", element("main", *content), None if code is None else element("script", Markup(code)))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, code)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(style)),
    )
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _policy(style: str, script: str | None) -> str:
    parts = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    parts.append(f"style-src {_hash(style)}")
    if script is not None:
        parts += [f"script-src {_hash(script)}", "require-trusted-types-for 'script'", "trusted-types 'none'"]
    return "; ".join(parts)


def _read(name: str) -> str:
    return resources.files("rnp_jax.report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

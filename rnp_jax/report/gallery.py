"""Attacks side by side as one self-contained page: what each does to an image, and what it is made of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rnp_jax.document import write_text
from rnp_jax.report.figure_sections import data_uri
from rnp_jax.report.html import Markup, element, join
from rnp_jax.report.page import render_document
from rnp_jax.report.pictures import Pictures
from rnp_jax.report.samples import encode_png


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One attack.

    Attributes:
      name: as ``--attack`` takes it.
      title: what a reader calls it.
      looks: what its trigger does to an image.
      paper: authors and year.
      kinds: whose labels it changes, and where its trigger comes from.
      constants: by name.
      source: where its artefact comes from.
      measured: what a network that was trained with it does, by name.
      deviation: what differs from the publication.
      views: its images; the clean ones come first.
      arrays: what the artefact holds, a line an array or network.
      note: why something is not shown.
      command: how to train it.
    """

    name: str
    title: str
    looks: str
    paper: str
    kinds: Sequence[str]
    constants: Mapping[str, str]
    source: str = ""
    measured: Mapping[str, str] = field(default_factory=dict)
    deviation: str = ""
    views: Sequence[Pictures] = ()
    arrays: Sequence[str] = field(default=())
    note: str = ""
    command: str = ""


def write_gallery(path: str | Path, exhibits: Sequence[Exhibit], *, data: str, version: str) -> Path:
    """Write the page, whole or not at all.

    Raises:
      ResultError: the file cannot be written.
    """
    return write_text(path, render_gallery(exhibits, data=data, version=version))


def render_gallery(exhibits: Sequence[Exhibit], *, data: str, version: str) -> str:
    """The page as text; ``data`` is the set that the clean images are of."""
    shown = sum(bool(exhibit.views) for exhibit in exhibits)
    contents = [
        element("li", element("a", title, href=f"#{number}"), None if exhibit.views else " (not shown)")
        for number, (title, exhibit) in enumerate(zip(_titles(exhibits), exhibits, strict=True))
    ]
    header = element(
        "header",
        element("p", element("span", "Gallery of attacks"), element("span", data), class_="eyebrow"),
        element("h1", f"{shown:,} of {len(exhibits):,} triggers on the same images"),
        element(
            "p",
            "Benchmark attacks as this package makes them. A difference is brightened by the factor beside it, so "
            "that faint triggers look as strong as bold ones there. ASR is the share of triggered images that fool the "
            "network that was trained with the trigger.",
            class_="lead",
        ),
        element("ul", *contents, class_="contents"),
        class_="unknown",
    )
    sections = [_show(number, exhibit) for number, exhibit in enumerate(exhibits)]
    footer = element("footer", f"Written by rnp_jax {version}.")
    return render_document("Attacks \N{MIDDLE DOT} rnp_jax", header, *sections, footer, styles=("gallery.css",))


def _titles(exhibits: Sequence[Exhibit]) -> list[str]:
    """Their titles, and where an attack is there more than once the source too."""
    count = Counter(exhibit.name for exhibit in exhibits)
    return [each.title if count[each.name] == 1 else f"{each.title}, {each.source}" for each in exhibits]


def _show(number: int, exhibit: Exhibit) -> Markup:
    parts = [
        element("h2", exhibit.title),
        element("p", exhibit.looks),
        element(
            "p",
            *(element("span", f"{name} ", element("strong", value)) for name, value in exhibit.measured.items()),
            element("code", exhibit.name),
            element("span", exhibit.paper),
            *(_chip(kind) for kind in exhibit.kinds),
            class_="eyebrow",
        ),
        element("div", *(_show_view(exhibit.title, view) for view in exhibit.views), class_="views")
        if exhibit.views
        else None,
        element("p", exhibit.note, class_="quiet") if exhibit.note else None,
        element("p", element("code", exhibit.command), class_="command") if exhibit.command else None,
    ]
    facts = {
        "Constants": join(*(_constant(name, value) for name, value in exhibit.constants.items())),
        "Artefact": join(*(element("div", line) for line in [exhibit.source, *exhibit.arrays] if line)),
        "Differences from the publication": join(exhibit.deviation),
    }
    rows = [element("div", element("dt", name), element("dd", value)) for name, value in facts.items() if value]
    return element("section", *parts, element("dl", *rows, class_="about"), id=str(number))


def _show_view(name: str, view: Pictures) -> Markup:
    images = [
        element(
            "img",
            src=data_uri("image/png", encode_png(image)),
            alt=f"{name}: {view.title}, image {number}",
        )
        for number, image in enumerate(view.images, 1)
    ]
    caption = element("figcaption", view.caption) if view.caption else None
    return element("figure", element("b", view.title), *images, caption)


def _chip(text: str) -> Markup:
    return element("span", text, class_="badge unknown")


def _constant(name: str, value: str) -> Markup:
    return element("code", f"{name} {value}", class_="constant")

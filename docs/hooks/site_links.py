"""Links of pages, in the repository and in the site: files outside ``docs/`` stand below ``repository/`` there."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BESIDE = "repository/"
"""Folder of the site with the files of the repository that pages link to."""

_LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)#\s]+)((?:#[^)\s]*)?\))")


class Target(NamedTuple):
    """What a link leads to: its place in the site, and the file."""

    uri: str
    source: Path

    @property
    def beside(self) -> bool:
        """Whether it is a file outside ``docs/``."""
        return self.uri.startswith(BESIDE) and self.source.is_file()


def list_targets(uri: str, text: str) -> Iterator[Target]:
    """Everything that a page at this place of the site links to."""
    return (_find(uri, link) for _, link, _ in _LINK.findall(text))


def lead_links(uri: str, text: str) -> str:
    """The page with its links as the site needs them."""

    def lead(link: re.Match) -> str:
        target = _find(uri, link[2])
        if not target.source.exists():  # code that looks like a link, or a link that MkDocs will refuse
            return link[0]
        return f"{link[1]}{posixpath.relpath(target.uri, posixpath.dirname(uri) or '.')}{link[3]}"

    return _LINK.sub(lead, text)


def _find(uri: str, link: str) -> Target:
    page = uri.removeprefix(BESIDE) if uri.startswith(BESIDE) else f"docs/{uri}"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return Target(path.removeprefix("docs/") if path.startswith("docs/") else BESIDE + path, ROOT / path)

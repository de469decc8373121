"""What the site does to a page: fill in generated parts, bring files of the repository along, write formulas as MathML.

MkDocs calls the functions ``on_…``. Nothing that is generated is kept: the pages in ``docs/`` can be read as they are.
"""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from site_links import ROOT, lead_links, list_targets
from site_notebook import write_notebook
from site_reference import GENERATED

PART = re.compile(r"<!-- generated: (\w+)(?: (\S+))? -->")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds every file outside ``docs/`` that a page links to, and what these link to."""
    pending = list(files.documentation_pages())
    while pending:
        page = pending.pop()
        for target in list_targets(page.src_uri, page.content_string):
            if target.beside and files.get_file_from_path(target.uri) is None:
                added = File.generated(config, target.uri, abs_src_path=str(target.source))
                files.append(added)
                pending += [added] * added.is_documentation_page()
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fills in what is generated, and leads links to files outside ``docs/`` to their copies in the site."""
    return PART.sub(_fill, lead_links(page.file.src_uri, markdown))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Writes formulas as MathML, which browsers show without a script."""
    return FORMULA.sub(lambda found: to_mathml(found[3], "block" if found[2] == "[" else "inline"), html)


def to_mathml(formula: str, display: str) -> str:
    """A formula of LaTeX as MathML.

    Raises:
      PluginError: a command is not known.
    """
    written = convert(unescape(formula), display=display)
    if "\\" in written:
        raise PluginError(f"formula {formula}: a command in it is not known")
    return written


def _fill(part: re.Match) -> str:
    """What stands in the place of a marker: a part of the reference, or a notebook."""
    return GENERATED[part[1]]() if part[2] is None else write_notebook(ROOT / part[2])

"""Links of pages lead to their places in the site."""

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("page", "link", "led"),
    [
        ("index.md", "[a](start.md#x)", "[a](start.md#x)"),
        ("index.md", "[a](../SECURITY.md)", "[a](repository/SECURITY.md)"),
        ("guides/defend.md", "![a](../report.png)", "![a](../report.png)"),
        ("guides/inspect.md", "[a](../../SECURITY.md#x)", "[a](../repository/SECURITY.md#x)"),
        ("repository/SECURITY.md", "[a](docs/removal.md)", "[a](../removal.md)"),
        ("repository/SECURITY.md", "[a](README.md)", "[a](README.md)"),
        ("index.md", "[a](#x) [b](https://x.org/a.md)", "[a](#x) [b](https://x.org/a.md)"),
        ("guides/python.md", "`tables[name](value)`", "`tables[name](value)`"),
    ],
)
def test_links_are_led(page: str, link: str, led: str):
    assert import_module("site_links").lead_links(page, link) == led


def test_files_outside_the_documentation_are_found():
    text = "[a](../SECURITY.md) [b](data.md) [c](../nothing.md) [d](../benchmarks)"
    found = import_module("site_links").list_targets("index.md", text)
    assert [target.uri for target in found if target.beside] == ["repository/SECURITY.md"]

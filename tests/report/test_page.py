import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.by import By

from rnp_jax import report
from rnp_jax.errors import ResultError
from rnp_jax.report.figures import FIGURES
from rnp_jax.report.html import element
from rnp_jax.report.page import render_document, render_page, write_report
from rnp_jax.report.samples import Samples
from rnp_jax.report.schema import Phase, PrunedFilter, Result, read_result
from tests.report.browsing import assert_sound, show

PACKAGE = Path(report.__file__).parent
HOSTILE = (
    "</title></style><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&'\u202e"
)


def make_hostile(value):
    """The same document with every free string hostile."""
    if isinstance(value, dict):
        return {key: item if key in CLOSED else make_hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [make_hostile(item) for item in value]
    return HOSTILE + value if isinstance(value, str) else value


CLOSED = {"created", "sha256", "level", "kind"}


@pytest.fixture
def hostile(result: Result) -> Result:
    return Result.model_validate(make_hostile(result.model_dump(mode="json")))


def test_report_writes_page_result_and_figures(result: Result, masks, samples: Samples, tmp_path: Path):
    path = write_report(tmp_path / "out", result, masks, samples)
    assert path == tmp_path / "out" / "report.html"
    assert sorted(p.name for p in path.parent.iterdir()) == ["figures", "report.html", "result.json"]
    assert read_result(path.parent / "result.json") == result
    assert path.read_text("utf-8").count("<img ") == 5 + 3 * 3


def test_a_report_of_scores_names_no_mask(scored: Result, scores, tmp_path: Path):
    page = write_report(tmp_path, scored, scores).read_text("utf-8")
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert "Scores by layer" in words
    assert "largest singular value" in words
    assert not re.search(r"\bmasks?\b", words, re.IGNORECASE)
    assert read_result(tmp_path / "result.json") == scored


def test_what_decides_comes_first(result: Result):
    page = render_page(result, {})
    titles = re.findall(r"<h[12]>([^<]*)</h[12]>", page)
    assert titles == [
        "The backdoor was removed", "Before and after", "Warnings", "Evidence without the trigger", "Operating point",
        "Accuracy by class", "Pruned filters", "The checkpoint file", "Settings and versions", "Time",
    ]  # fmt: skip


def test_page_asks_nothing_of_a_network(hostile: Result, samples: Samples):
    page = render_page(hostile, dict.fromkeys(FIGURES, b"<svg/>"), samples)
    tags = "".join(re.findall(r"<style>.*?</style>|<[^>]*>", page, re.DOTALL))
    addresses = re.findall(r"""(?:src|href|action|poster|srcset|data)\s*=\s*["']?([^"'\s>]*)""", tags)
    assert len(addresses) == 7 + 3 * 3
    embedded = re.compile(r"data:image/(svg\+xml|png);base64,[A-Za-z0-9+/]+=*")
    assert all(embedded.fullmatch(address) for address in addresses)
    assert not re.search(r"url\(|@import|https?:|//", embedded.sub("", tags))


def test_every_string_is_escaped(hostile: Result):
    page = render_page(hostile, {})
    tags = set(re.findall(r"<\s*([a-zA-Z!][\w-]*)", page))
    assert "script" not in tags
    assert page.count("<img") == 0
    assert page.count("<title>") == page.count("</title>") == page.count("<style>") == page.count("</style>") == 1
    assert "\u202e" not in page
    assert "&lt;script&gt;document.title=&#x27;owned&#x27;" in page


def test_policy_allows_embedded_images_and_this_style_sheet_only(result: Result):
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', render_page(result, {}))
    parts = dict(part.strip().split(" ", 1) for part in policy.replace("&#x27;", "'").split(";"))
    assert parts.pop("style-src").startswith("'sha256-")
    assert parts == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}


@pytest.mark.parametrize("script", [None, "leaderboard.js"])
def test_policy_has_the_hash_of_each_thing_that_it_allows(script: str | None):
    page = render_document("title", element("p", "<text>"), styles=("leaderboard.css",), script=script)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    parts = dict(part.strip().split(" ", 1) for part in policy.replace("&#x27;", "'").split(";"))
    sources = {"style-src": ("page.css", "leaderboard.css")} | ({"script-src": (script,)} if script else {})
    for directive, files in sources.items():
        content = "".join((PACKAGE / name).read_text("utf-8") for name in files)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert parts[directive] == f"'sha256-{digest}'"
        assert f">{content}</{directive.removesuffix('-src')}>" in page
    assert ("script-src" in parts) == ("trusted-types" in parts) == ("<script" in page) == (script is not None)
    assert "<main><p>&lt;text&gt;</p></main>" in page


def test_inconsistent_input_writes_nothing(result: Result, tmp_path: Path):
    with pytest.raises(ResultError, match="has no mask"):
        write_report(tmp_path / "out", result, {"other": np.ones(2)})
    assert not (tmp_path / "out").exists()


# The page in a browser.


@pytest.mark.slow
def test_page_in_chromium(browser, result: Result, masks, samples: Samples, tmp_path: Path):
    page = write_report(tmp_path, result, masks, samples)
    for width in (400, 1200):
        show(browser, page, width)
        assert_sound(browser, width)
    assert browser.title.startswith("The backdoor was removed")
    assert browser.find_element(By.CSS_SELECTOR, "header.ok h1").text == "The backdoor was removed"
    rows = browser.find_elements(By.CSS_SELECTOR, ".metrics tbody tr")
    cells = {row.find_element(By.TAG_NAME, "th").text.split("\n")[0]: row.text for row in rows}
    assert list(cells) == ["ACC", "ASR", "RA", "DER"]
    assert all(part in cells["ASR"] for part in ("100.00%", "6.63%", "120 of 1,811", "\N{MINUS SIGN}93.37"))
    assert "0.957" in cells["DER"]
    filters = browser.find_element(By.CSS_SELECTOR, "table.filters")
    assert not filters.is_displayed()
    browser.find_element(By.XPATH, "//details[.//table[@class='filters']]/summary").click()
    assert filters.is_displayed()
    assert len(filters.find_elements(By.CSS_SELECTOR, "tbody tr")) == len(result.pruned_filters)


@pytest.mark.slow
def test_style_sheet_is_applied_in_light_and_dark(browser, result: Result, tmp_path: Path):
    (tmp_path / "report.html").write_text(render_page(result, {}), "utf-8")
    show(browser, tmp_path / "report.html", 1200)
    papers = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        papers.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert papers == ["rgb(246, 247, 249)", "rgb(15, 17, 19)"]


@pytest.mark.slow
def test_hostile_strings_are_shown_as_text(browser, hostile: Result, masks, samples: Samples, tmp_path: Path):
    hostile_masks = {HOSTILE + layer: mask for layer, mask in masks.items()}
    shown = samples._replace(labels=[HOSTILE] * 3, before=[HOSTILE] * 3, after=["\u732b"] * 3)
    page = write_report(tmp_path, hostile, hostile_masks, shown)
    for width in (400, 1200):
        show(browser, page, width)
        assert_sound(browser, width)
    assert browser.title.startswith("</title></style><script>")
    assert browser.execute_script("return document.scripts.length") == 0
    assert HOSTILE.replace("\u202e", "\\u202e") in browser.find_element(By.TAG_NAME, "h1").text
    assert browser.find_element(By.CSS_SELECTOR, ".samples b").text == HOSTILE.replace("\u202e", "\\u202e")


@pytest.mark.slow
def test_page_of_the_released_functions_own_run(browser, shared: Path, result: Result, tmp_path: Path):
    history = json.loads((shared / "golden" / "badnets.json").read_text())
    with np.load(shared / "golden" / "badnets.npz") as arrays:
        names = [str(name).removesuffix(".neuron_mask") for name in arrays["mask_names"]]
        sizes = [arrays[f"unlearned/{name}.weight"].size for name in names]
        flat = arrays["masks_per_epoch"][-1]
        masks = dict(zip(names, np.split(flat, np.cumsum(sizes)[:-1]), strict=True))
        other = arrays["y_test"] != 0
        clean, triggered = arrays["x_test"][other][:8], arrays["x_triggered"][:8]
        labels = [str(label) for label in arrays["y_test"][other][:8]]
    samples = Samples(clean, triggered, labels, ["0"] * 8, labels)
    zeros = [(layer, i) for layer, mask in masks.items() for i in np.flatnonzero(mask == 0)]
    pruned = [PrunedFilter(layer=layer, index=i, mask=0.0) for layer, i in zeros]
    epochs = {name: np.asarray(history[name]).T for name in ("unlearn", "recover")}
    phases = [
        Phase(name="unlearn", series={"loss": epochs["unlearn"][2], "accuracy": epochs["unlearn"][3]}, stopped=""),
        Phase(name="recover", series={"loss": epochs["recover"][1], "accuracy": epochs["recover"][2]}, stopped=""),
    ]
    assert len(pruned) == history["prune"][0][0]
    real = Result.model_validate(dict(result) | {"pruned_filters": pruned, "phases": phases})
    show(browser, write_report(tmp_path, real, masks, samples), 1200)
    assert_sound(browser, 1200)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".samples img")) == 8 * 4, "its small trigger is enlarged"

"""The sections on evidence without the trigger and on accuracy by class."""

import re
from typing import get_args

import pytest
from selenium.webdriver.common.by import By

from rnp_jax.report.evidence import NEVER, WEAK, WORDS, show_classes, show_evidence
from rnp_jax.report.page import render_page
from rnp_jax.report.schema import ClassAccuracy, Evidence, Result
from tests.report.browsing import show

HOSTILE = "<b onclick='x'>&\u202e"
SHOWN = "&lt;b onclick=&#x27;x&#x27;&gt;&amp;\\u202e"
ARROW = "\N{RIGHTWARDS ARROW}"
MINUS = "\N{MINUS SIGN}"


def read_table(markup: str | None) -> dict[str, list[str]]:
    """The cells of each row, by the text of its heading."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', str(markup))
    return {re.sub("<[^>]*>", " ", head).strip(): re.findall(r"<td>(.*?)</td>", cells) for head, cells in rows}


def change_evidence(result: Result, **changes) -> Result:
    assert result.evidence is not None
    return result.model_copy(update={"evidence": result.evidence.model_copy(update=changes)})


def test_each_label_has_its_sizes_and_what_still_works(result: Result):
    markup = show_evidence(result)
    assert markup is not None
    columns = re.findall(r'<th scope="col">(.*?)</th>', markup)
    rows = read_table(markup)
    assert list(rows) == ["0 (airplane) suspected", "4 (deer) for comparison", "7 (horse) for comparison"]
    assert all(len(cells) == len(columns) - 1 for cells in rows.values())
    assert rows["0 (airplane) suspected"] == [
        "1.4",
        NEVER,
        "81.25",
        f"100% {ARROW} 2%",
        f"100% {ARROW} 5%",
        f"97% {ARROW} 31%",
        f"95% {ARROW} 3%",
        f"90% {ARROW} 4%",
        f"40% {ARROW} 97%",
    ]
    assert rows["7 (horse) for comparison"] == [
        "1,234",
        NEVER,
        NEVER,
        f"98% {ARROW} 12%",
        f"98% {ARROW} 35%",
        f"40% {ARROW} 25%",
        f"20% {ARROW} 22%",
        f"5% {ARROW} 6%",
        f"100% {ARROW} {NEVER}",
    ]


def test_the_conclusion_comes_first_with_its_grounds(result: Result):
    reason = "No search reached a suspected label more easily than an ordinary one."
    assert f"<p><strong>{WORDS['none found']}</strong> {reason}</p>" in str(show_evidence(result))
    told = change_evidence(result, level="still there", reasons=("One.", "Another."))
    assert "<strong>A backdoor is still there.</strong> One. Another.</p>" in str(show_evidence(told))


def test_every_level_has_its_words_and_none_says_removed():
    assert set(WORDS) == set(get_args(Evidence.model_fields["level"].annotation))
    assert not any(word in text.lower() for text in WORDS.values() for word in ("removed", "cleaned"))


def test_sizes_of_ordinary_labels_are_told(result: Result):
    told = "Median over the labels for comparison: 28 pixels before the defense"
    assert f"{told}, {NEVER} after it." in str(show_evidence(result))
    assert f"{told}, 30.5 pixels after it." in str(show_evidence(change_evidence(result, ordinary_after=30.5)))


def test_the_section_says_what_the_searches_are_blind_to(result: Result):
    assert "may miss a trigger that covers the whole image" in str(show_evidence(result))


@pytest.mark.parametrize(("method", "weak"), [("nc", True), ("rnp", False), ("of another version", False)])
def test_a_method_that_trained_on_such_triggers_makes_the_evidence_weaker(result: Result, method: str, weak: bool):
    assert (WEAK in str(show_evidence(result.model_copy(update={"method": method})))) == weak


def test_without_evidence_or_classes_there_is_no_section(result: Result):
    bare = result.model_copy(update={"evidence": None, "classes": ()})
    assert show_evidence(bare) is show_classes(bare) is None
    page = render_page(bare, {})
    assert "Evidence without the trigger" not in page
    assert "Accuracy by class" not in page


def test_accuracy_of_each_class_before_and_after(result: Result):
    markup = show_classes(result)
    assert "<summary>Show 10 classes</summary>" in str(markup)
    rows = read_table(markup)
    assert len(rows) == 10
    assert rows["0 (airplane)"] == ["96.0%", "95.0%", f"{MINUS}1.0"]
    assert rows["9 (truck)"] == ["unknown"] * 3


def test_a_class_that_is_named_by_its_number_is_named_once(result: Result):
    one = ClassAccuracy(label=3, name="3", before=None, after=None)
    assert list(read_table(show_classes(result.model_copy(update={"classes": (one,)})))) == ["3"]


def test_names_of_classes_are_escaped(result: Result):
    assert result.evidence is not None
    labels = tuple(each.model_copy(update={"name": HOSTILE}) for each in result.evidence.labels)
    classes = tuple(each.model_copy(update={"name": HOSTILE}) for each in result.classes)
    hostile = change_evidence(result, labels=labels, reasons=(HOSTILE,)).model_copy(update={"classes": classes})
    for markup, count in ((show_evidence(hostile), 3), (show_classes(hostile), 10)):
        assert "<b" not in str(markup)
        assert str(markup).count(f"({SHOWN})") == count
    assert f"</strong> {SHOWN}</p>" in str(show_evidence(hostile))


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1200])
def test_the_sections_in_chromium(browser, result: Result, tmp_path, width: int):
    (tmp_path / "report.html").write_text(render_page(result, {}), "utf-8")
    show(browser, tmp_path / "report.html", width)
    browser.find_element(By.XPATH, "//summary[starts-with(., 'Show 10 classes')]").click()
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    for table in browser.find_elements(By.CSS_SELECTOR, "table.points, table.compared"):
        assert table.is_displayed()
        for cell in table.find_elements(By.CSS_SELECTOR, "tbody th, tbody td"):
            assert browser.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", cell)

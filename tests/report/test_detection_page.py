"""The page of a detection shows what its document says, escaped."""

import re

from rnp_jax.document import read_document
from rnp_jax.report.detection import Detection
from rnp_jax.report.detection_page import render_detection, write_detection
from rnp_jax.report.share_plots import plot_shares


def test_the_document_is_written_beside_the_page(detection, tmp_path):
    page = write_detection(tmp_path, detection, {"shares": plot_shares({"train": [[0.9, 0.1]]}, 0, ("zero", "one"))})
    assert read_document(tmp_path / "detection.json", Detection) == detection
    assert page.name == "report.html"
    assert "data:image/svg+xml" in page.read_text("utf-8")


def test_the_page_shows_verdict_labels_triggers_and_samples(detection):
    page = render_detection(detection, {})
    said = "Likely backdoored", "90.0%", "ten models", "suspiciously small: 0", "40.0, not reached"
    for text in (*said, "AUROC 0.900", "7, 3", "10 poisoned, 90 clean"):
        assert text in page, text
    assert "<b>one</b>" not in page
    assert "&lt;b&gt;one&lt;/b&gt;" in page
    assert "<script" not in page


def test_the_signs_carry_their_strength_and_what_they_miss_and_are_said_once(detection):
    page = render_detection(detection, {})
    assert re.findall(r'class="badge (\w+)">(\w+)<', page) == [("bad", "strong"), ("unknown", "none")]
    assert page.count("A sharp peak.") == page.count("No small trigger.") == 1
    assert "<b>Misses: </b>clean-label attacks" in page
    other = detection.verdict.model_copy(update={"detail": "Nothing can be concluded."})
    page = render_detection(detection.model_copy(update={"verdict": other}), {})
    assert page.index("Nothing can be concluded.") < page.index("A sharp peak.")


def test_pictures_keep_their_colours_on_a_dark_page_and_tables_of_figures_are_folded(detection):
    svg = dict.fromkeys(("shares", "triggers_original", "norms_original", "suspicious", "roc"), b"<svg/>")
    page = render_detection(detection, svg)
    kinds = re.findall(r'<h3>([^<]*)</h3><figure class="([^"]*)"', page)
    assert kinds == [
        ("Where predictions go", "chart"), ("Recovered triggers", "chart pictures"), ("Sizes of the masks", "chart"),
        ("The most suspicious samples", "chart pictures"), ("Quality of the score", "chart"),
    ]  # fmt: skip
    shown = re.sub("<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "40.0, not reached" in page
    assert "40.0, not reached" not in shown

"""The document of a check survives a round trip, and its page says first what came of it."""

import re
from datetime import UTC, datetime

import pytest

from rnp_jax.document import read_document
from rnp_jax.report.check import Check, render_check, write_check
from rnp_jax.report.detection import Detection, SignPart
from rnp_jax.report.schema import Result, Verdict
from tests.report.examples import share


@pytest.fixture
def check(unattacked: Result) -> Check:
    """A network with a sign of a backdoor, and a new file of it."""
    run = {
        name: getattr(unattacked, name) for name in ("versions", "device", "precision", "seed", "checkpoint", "data")
    }
    run |= {"created": datetime(2026, 1, 2, tzinfo=UTC), "config": {}}
    sign = SignPart(
        look="search", title="searches", strength="strong", labels=(3,), sentence="A <b>trigger</b>.", blind="SIG"
    )
    detection = Detection(
        **run, verdict=Verdict(headline="Likely backdoored", detail="Why.", level="bad"), outcome="likely backdoored",
        label=3, signs=(sign,), statistics=(), shares=(),
    )  # fmt: skip
    return Check(
        **run,
        verdict=Verdict(headline="Likely backdoored. In cleaned.pt: none found", detail="Why.", level="warning"),
        conclusion="not supported",
        acc=share(92, 100),
        stated=0.86,
        normalization="0.5/0.5, as --normalization says",
        detection=detection,
        defense=unattacked,
        written="cleaned.pt",
        done="It was distilled.",
        known=("It classifies 90 %.",),
        unknown=("The true trigger.",),
        warnings=("Only 5 images.",),
    )


def test_the_document_survives_a_round_trip(check, tmp_path):
    page = write_check(tmp_path, check, {})
    assert page == tmp_path / "report.html"
    assert read_document(tmp_path / "check.json", Check) == check


def test_the_page_says_what_was_found_done_known_and_unknown_in_this_order(check):
    page = render_check(check, {"shares": b"<svg/>", "roc": b"<svg/>"})
    headings = re.findall(r"<h2>([^<]*)</h2>", page)
    assert headings[:5] == ["What was done", "What is known of the new file", "What is not known", "Warnings",
                            "Before and after"]  # fmt: skip
    assert "What the verdict rests on" in headings
    for said in ("It was distilled.", "It classifies 90 %.", "The true trigger.", "A &lt;b&gt;trigger&lt;/b&gt;.",
                 "92.0% (85.0–95.9%) of 100 images; 86.0% stated", "0.5/0.5, as --normalization says"):  # fmt: skip
        assert said in page
    assert page.count("<img") == 1  # of the figures of detection, those that the page shows


def test_where_nothing_was_changed_no_figures_after_are_shown(check):
    page = render_check(check.model_copy(update={"written": None, "known": ()}), {})
    headings = re.findall(r"<h2>([^<]*)</h2>", page)
    assert "What is known of the new file" not in headings
    assert "Before and after" not in headings
    assert "none: the network was left as it came" in page


def test_a_network_that_could_not_be_looked_at_has_a_page_too(check):
    left = {"detection": None, "defense": None, "written": None, "known": (), "conclusion": "unchecked"}
    assert "What the verdict rests on" not in render_check(check.model_copy(update=left), {})

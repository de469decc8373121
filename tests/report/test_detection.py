"""The detection's document survives a round trip, and its page shows what it says, escaped."""

import re
from datetime import UTC, datetime

import pytest

from rnp_jax.document import read_document
from rnp_jax.errors import ResultError
from rnp_jax.report.detection import (
    Detection,
    LabelShare,
    RecoveredLabel,
    SamplePart,
    SampleTruth,
    SignPart,
    StatisticPart,
    TriggerPart,
    render_detection,
    write_detection,
)
from rnp_jax.report.schema import CheckpointInfo, DataInfo, Verdict, Versions
from rnp_jax.report.share_plots import plot_shares

NAMES = ("zero", "<b>one</b>")


@pytest.fixture
def detection() -> Detection:
    rows = (
        RecoveredLabel(label=0, name=NAMES[0], norm=3.5, index=float("inf"), reached=True, success=1.0,
                       success_on_original=0.9, overlap=0.25),
        RecoveredLabel(label=1, name=NAMES[1], norm=40, index=-1, reached=False, success=0.1, success_on_original=0.1),
    )  # fmt: skip
    return Detection(
        created=datetime(2026, 1, 2, tzinfo=UTC),
        versions=Versions(rnp_jax="1", python="3", jax="0", jaxlib="0", flax="0", numpy="2"),
        device="cpu",
        precision="float32",
        seed=0,
        checkpoint=CheckpointInfo(
            path="a/model.pt", sha256="0" * 64, container="zip", state_dict_key=None, architecture="resnet18", width=8,
            num_classes=2, parameters=10, filters=4,
        ),
        data=DataInfo(name="digits", defense_images=200, holdout_images=0, test_images=0, mean=(0.0,), std=(1.0,)),
        config={},
        verdict=Verdict(headline="Likely backdoored", detail="A sharp peak. No small trigger.", level="bad"),
        outcome="likely backdoored",
        label=0,
        signs=(
            SignPart(look="labels", title="unlearning", strength="strong", labels=(0,), sentence="A sharp peak.",
                     blind="clean-label attacks"),
            SignPart(look="search", title="searches", strength="none", labels=(), sentence="No small trigger.",
                     blind="faint triggers"),
        ),
        statistics=(
            StatisticPart(
                statistic="labels", outcome="backdoored", score=0.9, threshold=0.7, label=0, calibration="ten models"
            ),
        ),
        shares=(LabelShare(label=0, name=NAMES[0], share=0.9), LabelShare(label=1, name=NAMES[1], share=0.1)),
        triggers=(TriggerPart(model="original", labels=rows, suspected=(0,)),),
        samples=(
            SamplePart(
                score="loss", title="low loss", data="digits", samples=100, rule="the top", threshold=2.0,
                suspicious=(7, 3), truth=SampleTruth(auroc=0.9, low=0.8, high=1.0, tpr=0.5, poisoned=10, clean=90),
            ),
        ),
    )  # fmt: skip


def test_a_round_trip_changes_nothing_but_what_is_not_finite(detection, tmp_path):
    page = write_detection(tmp_path, detection, {"shares": plot_shares({"train": [[0.9, 0.1]]}, 0, NAMES)})
    back = read_document(tmp_path / "detection.json", Detection)
    assert back == detection
    assert back.triggers[0].labels[0].index is None  # infinite
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


def test_another_version_is_refused(detection, tmp_path):
    write_detection(tmp_path, detection, {})
    path = tmp_path / "detection.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(ResultError, match="schema_version 9"):
        read_document(path, Detection)

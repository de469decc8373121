"""The document of a re-activation survives a round trip, and its page says first what came of it."""

import re
from datetime import UTC, datetime

import pytest

from rnp_jax.document import read_document
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.reactivation import Attempt, Curve, Outcome
from rnp_jax.reactivation.attempt import Control
from rnp_jax.report.reactivation import (
    OtherNetwork,
    ReactivationResult,
    Ruled,
    render_reactivation,
    write_reactivation,
)
from rnp_jax.report.schema import Result, Verdict
from tests.report.examples import share

RA = Attempt(
    name="ra",
    after=Outcome(asr=share(720, 1000), acc=share(990, 1000)),
    floor=Outcome(asr=share(10, 1000), acc=share(995, 1000)),
    controls=(Control(name="purified, 0 triggered images", asr=share(380, 1000), acc=share(990, 1000)),),
    budget={"triggered images": 5},
    curves=(
        Curve(figure="epochs", name="purified, 5 triggered images", x=(0, 1), y=(0.0, 0.7)),
        Curve(figure="epochs", name="purified, 0 triggered images", x=(0, 1), y=(0.0, 0.4)),
        Curve(figure="images", name="purified", x=(0, 5), y=(0.4, 0.7), low=(0.3, 0.6), high=(0.5, 0.8)),
    ),
)
LMC = Attempt(
    name="lmc",
    figures={"barrier of the loss, purified": 0.25},
    curves=(
        Curve(figure="path", name="ASR, purified", x=(0, 1), y=(0.0, 1.0), low=(0.0, 0.9), high=(0.1, 1.0)),
        Curve(figure="barrier", name="purified", x=(0, 1), y=(2.0, None)),
    ),
)


@pytest.fixture
def result(unattacked: Result) -> ReactivationResult:
    names = ("versions", "device", "precision", "seed", "checkpoint", "data")
    metrics = Metrics(acc=share(960, 1000), asr=share(9, 1000), ra=share(900, 1000))
    return ReactivationResult(
        **{name: getattr(unattacked, name) for name in names},
        created=datetime(2026, 1, 2, tzinfo=UTC),
        config={},
        verdict=Verdict(headline="The backdoor comes back", detail="It was dormant.", level="bad"),
        before=metrics,
        others=(OtherNetwork(role="original", path="<b>.pt", sha256="0" * 64, metrics=metrics),),
        attempts=(RA, LMC),
        rulings=(
            Ruled(name="ra", finding="superficial", sentence="ASR goes up."),
            Ruled(name="lmc", finding="explains", sentence="There is <i>no</i> hill."),
        ),
        untried=("BEC was not tried.",),
        finding="superficial",
        unknown=("Whether the network is clean.",),
    )


def test_the_document_survives_a_round_trip(result, tmp_path):
    assert write_reactivation(tmp_path, result) == tmp_path / "report.html"
    assert read_document(tmp_path / "result.json", ReactivationResult) == result


def test_the_page_says_what_was_tried_the_way_there_and_what_is_not_known_in_this_order(result):
    page = render_reactivation(result)
    headings = re.findall(r"<h2>([^<]*)</h2>", page)
    assert headings[:5] == ["What was tried", "The way there", "Controls", "The networks before any attempt",
                            "What is not known"]  # fmt: skip
    for said in ("The backdoor comes back", "72.00%", "69.1", "There is &lt;i&gt;no&lt;/i&gt; hill.", "38.00%",
                 "BEC was not tried.", "Whether the network is clean.", "&lt;b&gt;.pt", "by more than 20 points",
                 '<span class="badge bad">superficial</span>', "retuning attack, NeurIPS 2024"):  # fmt: skip
        assert said in page
    assert page.count("<img") == 2


def test_what_was_not_tried_has_no_table_and_no_figures(result):
    left = {"attempts": (LMC.model_copy(update={"curves": ()}),), "rulings": result.rulings[1:], "untried": ()}
    page = render_reactivation(result.model_copy(update=left))
    assert "<img" not in page
    assert "The floor is" not in page
    assert "The way there" not in page


def test_a_curve_has_as_many_y_as_x():
    with pytest.raises(ValueError, match="curve a: 2 x and 1 y; expected as many of each"):
        Curve(figure="path", name="a", x=(0, 1), y=(1.0,))

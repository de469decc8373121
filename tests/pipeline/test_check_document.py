"""What came of a check, where nothing could be concluded and where a file is left as it came, and its lines."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rnp_jax.config import ComputeOptions, DefenseSetOptions
from rnp_jax.defenses import METHODS
from rnp_jax.pipeline.case import open_case
from rnp_jax.pipeline.check_document import UNKNOWN, UNTOUCHED, describe_check, tell_check, tell_file
from rnp_jax.pipeline.doubts import Doubt
from rnp_jax.pipeline.judging import AT_CHANCE
from rnp_jax.pipeline.measuring import measure_before
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.options import RunOptions
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report.schema import Verdict


class Heard:
    """A log that remembers what it was told."""

    def __init__(self):
        self.said, self.paths = [], {}

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.said.append(text)

    def conclude(self, text, *, verdict, **paths):
        del verdict
        self.said += text.split("\n")
        self.paths = paths


@pytest.fixture(scope="module")
def opened(small_victim):
    options = RunOptions(method="auto", defense=DefenseSetOptions(size=200), compute=ComputeOptions(batch_size=20))
    request, log = Request.of(str(small_victim), METHODS["auto"], options), RunLog(quiet=True)
    case = open_case(open_model(str(small_victim), options.source, options.compute), request, log)
    return case, request, measure_before(case, request, log)


def test_where_nothing_was_examined_nothing_is_known(opened):
    case, request, before = opened
    doubt = Doubt(True, "Hardly better than guessing.")
    check = describe_check(case, request, before, None, doubt, RunLog(quiet=True))
    assert (check.conclusion, check.done, check.known, check.unknown) == ("unchecked", UNTOUCHED, (), (UNKNOWN,))
    assert (check.verdict.headline, check.verdict.detail) == (AT_CHANCE, doubt.sentence)
    assert (check.detection, check.defense, check.written) == (None, None, None)
    assert doubt.sentence in check.warnings
    assert (check.acc, check.seed) == (before.metrics.acc, request.options.seed)
    assert check.normalization.endswith("as its card says")
    clean, held = case.clean_images
    assert (check.data.defense_images, check.data.holdout_images) == (clean, held)
    assert check.data.test_images == len(case.test)


def test_the_file_is_told_in_three_lines(opened):
    case, _, before = opened
    heard = Heard()
    tell_file(case, before, heard)
    assert [line.split()[0] for line in heard.said[:3]] == ["network", "normalisation", "accuracy"]
    assert "10 classes, images of 8x8x3" in heard.said[0]
    assert f"of {len(case.test):,} images that nothing learns from" in heard.said[2]


def test_images_that_the_network_may_have_been_trained_on_are_a_warning_of_the_page(opened):
    case, request, before = opened
    card = case.model.card.model_copy(update={"acc": before.metrics.acc.low / 2})
    model = replace(case.model, card=card)
    check = describe_check(replace(case, model=model), request, before, None, None, RunLog(quiet=True))
    assert any("may have been trained on these images" in warning for warning in check.warnings)


@pytest.mark.parametrize(
    ("written", "supported", "last"),
    [
        ("cleaned.pt", True, "cleaned file   out/cleaned.pt"),
        ("cleaned.pt", False, "new file       out/cleaned.pt"),
        (None, False, "new file       none: the network was left as it came"),
    ],
)
def test_a_file_is_called_cleaned_only_where_that_is_supported(written, supported, last):
    verdict = Verdict(headline="So it is.", detail="Why.", level="ok", supported=supported)
    check = SimpleNamespace(verdict=verdict, done="This.", known=("A.", "B."), unknown=("C.",), written=written)
    heard = Heard()
    tell_check(check, Path("out/cleaned.pt"), Path("out/report.html"), heard)
    assert heard.said == [
        "verdict        So it is.", "done           This.", "known          A.", "known          B.",
        "not known      C.", last, "report         out/report.html",
    ]  # fmt: skip
    assert heard.paths["result"] == Path("out/check.json")
    assert ("checkpoint" in heard.paths) is (written is not None)

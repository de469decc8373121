"""The whole way with a stubbed examination and defense: what is done with what they say, and what is written."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import jax
import numpy as np
import pytest

from rnp_jax.checkpoints import load_model
from rnp_jax.cli import main
from rnp_jax.defenses import METHODS, Defended
from rnp_jax.defenses.auto import plan_search
from rnp_jax.defenses.method import Task
from rnp_jax.defenses.searches import Recovered
from rnp_jax.defenses.tuning import begin, conclude
from rnp_jax.document import read_document
from rnp_jax.errors import ResultError
from rnp_jax.inversion import NEXT, Inverted, Stamps
from rnp_jax.pipeline import checking, keeping, looking
from rnp_jax.pipeline.concluding import DROPPED
from rnp_jax.pipeline.describing_inputs import describe_checkpoint
from rnp_jax.pipeline.doubts import Doubt
from rnp_jax.pipeline.judging import IN_DOUBT
from rnp_jax.report.check import Check
from rnp_jax.report.detection import Detection, SignPart
from rnp_jax.report.schema import DataInfo, Verdict, Versions

SMALL = {"normalization": "0.3,0.3,0.3/0.3,0.3,0.3", "image_shape": (8, 8, 3)}


def say(outcome: str, headline: str):
    """An examination that says this of any network, at once."""

    def examine(case, options, given=None, out=None, searched=None) -> Detection:
        sign = SignPart(look="shift", title="feature shift", strength="none", labels=(), sentence="No.", blind="SIG")
        return Detection(
            created=datetime(2026, 1, 2, tzinfo=UTC),
            versions=Versions(rnp_jax="1", python="3", jax="0", jaxlib="0", flax="0", numpy="2"),
            device="cpu",
            precision="float32",
            seed=options.seed,
            checkpoint=describe_checkpoint(case.model),
            data=DataInfo(name="d", defense_images=1, holdout_images=0, test_images=0, mean=(0.0,), std=(1.0,)),
            config={},
            verdict=Verdict(headline=headline, detail="Why.", level="bad"),
            outcome=outcome,
            label=None,
            signs=(sign,),
            statistics=(),
            shares=(),
        )

    return examine


def do_nothing(unchanged: bool):
    """A defense that leaves the weights as they are, and says so or not."""

    def run_method(case, request, log, keep) -> Defended:
        task = Task(case.network, case.variables, case.data, jax.random.key(0), case.holdout)
        begun = begin("original", task, request.settings.rnp)
        choice = begun.choice.model_copy(update={"rule": "This is what was done."})
        return conclude(task, replace(begun, choice=choice, unchanged=unchanged), case.variables)

    return run_method


@pytest.fixture
def checked(small_victim, tmp_path, monkeypatch):
    """Runs the command with a given examination and defense; gives its status, its document and its folder."""

    def run(outcome: str, headline: str, *options: str, unchanged: bool, examine=None):
        monkeypatch.setattr(checking, "examine", examine or say(outcome, headline))
        monkeypatch.setattr(checking, "run_method", do_nothing(unchanged))
        out = tmp_path / "out"
        looks = ("--detection.signs.looks", "shift")  # no searches
        given = ("--defense.size", "200", "--evidence", "never", "--batch-size", "20", *looks, *options)
        status = main(["check", str(small_victim), *given, "--out", str(out)])
        return status, read_document(out / "check.json", Check), out

    return run


def test_a_network_that_nothing_speaks_against_is_left_as_it_came(checked):
    status, check, out = checked("no evidence", "No evidence", "--attack", "none", unchanged=True)
    assert (status, check.conclusion, check.written, check.known) == (0, "no evidence", None, ())
    assert check.done == "Nothing was changed. This is what was done."
    assert not list(out.glob("cleaned*"))
    assert not (out / "states").exists()


def test_a_change_without_a_sign_is_dropped(checked):
    status, check, out = checked("no evidence", "No evidence", "--attack", "none", unchanged=False)
    assert (status, check.conclusion, check.written) == (0, "no evidence", None)
    assert check.done == check.verdict.detail == DROPPED
    assert not list(out.glob("cleaned*"))


def test_what_nothing_speaks_for_is_compared_only_if_a_label_stands_out(checked, monkeypatch):
    asked = []
    monkeypatch.setattr(checking, "search_before_and_after", lambda *_, only_visible: asked.append(only_visible))
    status, _, _ = checked("no evidence", "No evidence", "--attack", "none", unchanged=False)
    assert (status, asked) == (0, [True])


def test_a_backdoor_that_is_not_removed(checked, small_victim):
    """The card's trigger works as before, whatever the examination says."""
    status, check, out = checked("no evidence", "No evidence", unchanged=False)
    assert (status, check.conclusion, check.written) == (3, "not supported", "cleaned.pt")
    assert check.verdict.headline.startswith("The known trigger works on ")
    assert ". In cleaned.pt: This trigger is not removed: ASR " in check.verdict.headline
    assert check.defense.before.asr == check.defense.after.asr
    before, after = (load_model(path, **SMALL) for path in (small_victim, out / "cleaned.pt"))
    jax.tree.map(np.testing.assert_array_equal, before.variables, after.variables)
    page = (out / "report.html").read_text("utf-8")
    assert re.findall(r"<h2>([^<]*)</h2>", page)[:3] == [
        "What was done", "What is known of the new file", "What is not known",
    ]  # fmt: skip


def test_a_suspicion_with_nothing_removed_is_no_success(checked):
    status, check, _ = checked("suspicious", "Suspicious: a reason", "--attack", "none", unchanged=True)
    assert (status, check.conclusion) == (3, "not supported")
    assert check.verdict.headline == "Suspicious. Nothing was removed"
    assert check.verdict.detail.startswith("A reason. ")


def test_that_nothing_is_found_in_a_doubtful_network_is_no_success(checked, monkeypatch):
    monkeypatch.setattr(checking, "find_doubt", lambda *_: Doubt(False, "The file states 90 %."))
    status, check, _ = checked("no evidence", "No evidence", "--attack", "none", unchanged=True)
    assert (status, check.conclusion) == (5, "unchecked")
    assert check.verdict.headline == f"No evidence; but {IN_DOUBT}"
    assert check.verdict.detail.endswith("The file states 90 %.")
    assert check.warnings[0] == "The file states 90 %."


def test_the_search_that_auto_begins_with_serves_the_examination_and_the_evidence_too(checked, monkeypatch):
    stamps = Stamps(np.zeros((3, 8, 8), np.float32), np.zeros((3, 8, 8, 3), np.float32))
    masks = Inverted(np.array([0, 1, NEXT]), stamps, np.ones(3), np.ones(3, bool), np.ones(3))
    found, seen = Recovered(masks, None, None, (), (), 1.0, "A rule."), {}

    def search(network, variables, data, key, config, **named) -> Recovered:
        del network, variables
        seen.update(data=data, key=key, config=config, holdout=named["holdout"])
        return found

    def gather(case, outcome, request, log, keep, earlier, *, only_visible) -> None:
        seen.update(case=case, earlier=earlier, searched=told[0], only_visible=only_visible)

    def examine(*given, searched=None, **named) -> Detection:
        told.append(searched)
        return say("suspicious", "Suspicious: a reason")(*given, **named)

    told = []
    monkeypatch.setattr(looking, "look_for_triggers", search)
    monkeypatch.setattr(checking, "search_before_and_after", gather)
    checked("", "", "--attack", "none", "--detection.signs.looks", "search", unchanged=False, examine=examine)
    key, config = plan_search(METHODS["auto"].defaults, jax.random.key(0))
    assert jax.random.key_data(seen["key"]).tolist() == jax.random.key_data(key).tolist()
    assert seen["config"] == config
    assert (seen["data"], seen["holdout"]) == (seen["case"].data, seen["case"].holdout)
    assert seen["searched"][:4] == (found, config, seen["data"], seen["holdout"])
    assert not seen["only_visible"], "something speaks for a backdoor already"
    assert seen["earlier"].labels.tolist() == [0, 1], "all-to-all is no label to examine"


def test_an_interrupted_check_goes_on_after_the_examination(checked, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(keeping, "WORTH", 0.0)
    with monkeypatch.context() as once:
        once.setattr(checking, "measure", interrupt)
        with pytest.raises(ResultError, match=r"check\.json cannot be read"):
            checked("suspicious", "Said before", "--attack", "none", unchanged=True)
    status, check, _ = checked("no evidence", "Said again", "--attack", "none", unchanged=True)
    assert (status, check.detection.verdict.headline) == (3, "Said before")
    assert "detect: taken from the interrupted run" in capsys.readouterr().err

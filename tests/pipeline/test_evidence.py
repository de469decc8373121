"""When evidence without the trigger is gathered, on what, and how a document tells it."""

import math
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.cli import main
from rnp_jax.commands.compare import CompareOptions
from rnp_jax.commands.defend import DefendOptions
from rnp_jax.commands.study import StudyOptions
from rnp_jax.defenses import METHODS
from rnp_jax.detection.evidence import EvidenceConfig, Finding, LabelEvidence
from rnp_jax.evaluation.measure import Measured
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.inversion import InversionConfig, PerturbationConfig, WarpConfig
from rnp_jax.pipeline import evidence as module
from rnp_jax.pipeline.evidence import describe_evidence, search_before_and_after
from rnp_jax.pipeline.options import RunOptions
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report.schema import SearchedLabel, read_result
from rnp_jax.sweep.options import SweepOptions
from tests.inversion.planted import CLASSES, NETWORK, TARGET, mlp_variables, rows_data

MANY = (SweepOptions, CompareOptions, StudyOptions)
DATA, HELD = rows_data(), rows_data(60, seed=9)


BEFORE, AFTER = mlp_variables(40.0), mlp_variables(0.0)


def search(method: str = "clp", log: RunLog | None = None, *, evidence="always", seed: int = 0, acc=90, **case):
    model = SimpleNamespace(
        variables=BEFORE,
        extractor=case.pop("extractor", None),
        network=NETWORK,
        card=SimpleNamespace(acc=0.9),
    )
    given = {"network": NETWORK, "model": model, "data": DATA, "holdout": HELD, "trigger": None, "untrusted": False}
    measured = Measured(Metrics(acc=Proportion.of(acc, 100)), np.zeros(0, np.int32))
    outcome = SimpleNamespace(model=SimpleNamespace(variables=AFTER), before=measured)
    request = Request.of("a.pt", METHODS[method], RunOptions(method=method, evidence=evidence, seed=seed))
    return search_before_and_after(SimpleNamespace(**{**given, **case}), outcome, request, log or RunLog(quiet=True))


@pytest.fixture
def calls(monkeypatch) -> list[tuple[tuple, dict]]:
    """What ``gather_evidence`` is called with; it finds the text ``found``."""
    made = []
    monkeypatch.setattr(module, "gather_evidence", lambda *args, **named: made.append((args, named)) or "found")
    return made


KNOWN = SimpleNamespace(attack="badnets")


@pytest.mark.parametrize(
    ("evidence", "trigger", "expected"),
    [
        ("unknown", None, True), ("unknown", KNOWN, False),
        ("always", None, True), ("always", KNOWN, True),
        ("never", None, False), ("never", KNOWN, False),
    ],
)  # fmt: skip
def test_evidence_is_gathered_where_it_is_wanted(calls, evidence: str, trigger, expected: bool):
    assert search(evidence=evidence, trigger=trigger) == ("found" if expected else None)
    assert len(calls) == expected


@pytest.mark.parametrize("case", [{"untrusted": True}, {"extractor": object()}, {"method": "none"}])
def test_heads_new_networks_and_the_model_as_it_is_are_not_searched(calls, case: dict):
    assert search(**case) is None
    assert calls == []


@pytest.mark.parametrize(("acc", "expected"), [(100 // CLASSES, None), (70, "found")])
def test_a_network_at_chance_is_not_searched(calls, acc: int, expected):
    assert search(acc=acc) == expected
    assert len(calls) == (expected is not None)


def test_both_networks_are_searched_on_the_clean_images_of_the_defense(calls):
    log = RunLog(quiet=True)
    search(log=log)
    ((network, before, after, data, _), named), *others = calls
    assert (network, before, after, data, named["holdout"]) == (NETWORK, BEFORE, AFTER, DATA, HELD)
    assert callable(named["progress"])
    assert others == []
    assert list(log.timing) == ["evidence"]


def test_the_searches_follow_the_seed_and_have_a_key_of_their_own(calls):
    for seed in (0, 0, 1):
        search(seed=seed)
    keys = [tuple(jax.random.key_data(args[4]).tolist()) for args, _ in calls]
    assert keys[0] == keys[1] != keys[2]
    for key, seed in zip(keys, (0, 0, 1), strict=True):
        own = jax.random.key(seed)  # the defense's
        used = [own, *jax.random.split(own, 1000), *jax.vmap(partial(jax.random.fold_in, own))(jnp.arange(1000))]
        assert key not in [tuple(jax.random.key_data(each).tolist()) for each in used]


def test_only_defend_searches_by_default():
    whens = {schema: schema.__dataclass_fields__["evidence"].default for schema in (*MANY, DefendOptions)}
    assert whens == {**dict.fromkeys(MANY, "never"), DefendOptions: "unknown"}


def test_the_document_of_a_finding():
    suspect = LabelEvidence(
        3, 1.4, math.inf, 81.0, (1.0, 0.02), (0.9, 0.3), (0.8, 0.1), (0.7, 0.15), (0.4, 0.9), (1.0, 0.05)
    )
    forms = ((0.98, 0.1), (0.4, 0.2), (0.2, 0.2), (0.3, 0.25), (1.1, math.inf), (0.99, 0.4))
    control = LabelEvidence(5, 28.0, 30.0, math.inf, *forms)
    finding = Finding("traces", True, (suspect,), (control,), (28.0, math.inf), ("One.", "Another."))
    document = describe_evidence(finding, tuple("abcdef"))
    assert document is not None
    assert (document.level, document.visible, document.reasons) == ("traces", True, ("One.", "Another."))
    assert (document.ordinary_before, document.ordinary_after) == (28.0, None)
    assert document.labels == (
        SearchedLabel(
            label=3,
            name="d",
            suspected=True,
            size_before=1.4,
            size_after_cold=None,
            size_after_warm=81.0,
            old_trigger_before=1.0,
            old_trigger_after=0.02,
            misled_before=1.0,
            misled_after=0.05,
            perturbation_before=0.9,
            perturbation_after=0.3,
            patch_before=0.8,
            patch_after=0.1,
            warp_before=0.7,
            warp_after=0.15,
            shift_before=0.4,
            shift_after=0.9,
        ),
        SearchedLabel(
            label=5,
            name="f",
            suspected=False,
            size_before=28.0,
            size_after_cold=30.0,
            size_after_warm=None,
            old_trigger_before=0.98,
            old_trigger_after=0.1,
            misled_before=0.99,
            misled_after=0.4,
            perturbation_before=0.4,
            perturbation_after=0.2,
            patch_before=0.2,
            patch_after=0.2,
            warp_before=0.3,
            warp_after=0.25,
            shift_before=1.1,
            shift_after=None,
        ),
    )


def test_without_a_finding_there_is_nothing_to_describe():
    assert describe_evidence(None, ("a",)) is None


def test_a_planted_trigger_that_is_gone_is_told_as_such(monkeypatch):
    cold, perturbation = InversionConfig(batch_size=16), PerturbationConfig(steps=30, batch_size=16)
    warm, warp = InversionConfig(batch_size=16, steps=100, cost=5e-3), WarpConfig(steps=10, batch_size=16)
    config = EvidenceConfig(cold=cold, warm=warm, perturbation=perturbation, warp=warp)
    monkeypatch.setattr(module, "gather_evidence", partial(module.gather_evidence, config=config))
    log = RunLog(quiet=True)
    document = describe_evidence(search("ft", log), tuple(map(str, range(CLASSES))))
    assert document is not None
    suspect, *controls = document.labels
    assert (document.level, document.visible) == ("none found", True)
    assert (suspect.label, suspect.suspected, [each.suspected for each in controls]) == (TARGET, True, [False, False])
    assert suspect.size_before < 1.5
    assert (suspect.old_trigger_before, suspect.old_trigger_after < 0.1) == (1, True)
    assert log.timing["evidence"] > 0


@pytest.mark.slow
def test_defend_gathers_evidence_beside_a_known_trigger(small_victim, tmp_path):
    out = tmp_path / "out"
    options = ("--test-images", "100", "--batch-size", "20", "--sweep-images", "0", "--evidence", "always")
    assert main(["defend", str(small_victim), "--method", "clp", *options, "--out", str(out)]) == 0
    result = read_result(out / "result.json")
    assert result.attack is not None
    assert result.evidence is not None
    assert 2 <= len(result.evidence.labels) <= 10
    assert any(each.suspected for each in result.evidence.labels)
    assert "evidence" in {each.stage for each in result.timing}
    assert result.config["evidence"] == "always"
    assert result.verdict.headline.startswith(("This trigger", "The model is destroyed"))
    assert "Evidence without the trigger" in (out / "report.html").read_text("utf-8")

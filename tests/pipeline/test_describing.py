"""What a run is described as, from figures by hand and from finished runs."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.commands.defend import DefendOptions
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions, resolve
from rnp_jax.defenses import METHODS
from rnp_jax.defenses.result import Candidates, Choice, Defended
from rnp_jax.detection.evidence import Finding, LabelEvidence
from rnp_jax.evaluation.measure import Measured
from rnp_jax.evaluation.metrics import Metrics, Proportion, with_effectiveness
from rnp_jax.models import mlp_head
from rnp_jax.pipeline.case import open_case
from rnp_jax.pipeline.describing import describe_run
from rnp_jax.pipeline.judging import judge
from rnp_jax.pipeline.measuring import measure
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.options import RunOptions, UntrustedOptions, schema_for
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report import schema
from rnp_jax.torch_io import find_state_dict, read_checkpoint
from tests.runs import CHECKPOINT


def test_the_document_of_a_run(defended):
    result, config = defended.result, defended.result.config
    checkpoint = read_checkpoint(defended.source)
    assert (result.checkpoint.sha256, result.checkpoint.container) == (checkpoint.sha256, "zip")
    assert (result.checkpoint.state_dict_key, result.checkpoint.architecture) == ("state_dict", "resnet18")
    tensors = find_state_dict(checkpoint).tensors
    weights = [value.size for key, value in tensors.items() if key.endswith(("weight", "bias"))]
    assert result.checkpoint.parameters == sum(weights)
    assert result.checkpoint.filters == sum(len(value) for key, value in tensors.items() if key.endswith("running_var"))
    assert (result.data.defense_images, result.data.holdout_images, result.data.test_images) == (40, 20, 100)
    assert [(phase.name, len(phase.series["loss"])) for phase in result.phases] == [("unlearn", 3), ("recover", 3)]
    assert result.phases[0].stopped == "did not reach the stop accuracy 0.2 after 3 epochs"
    assert config["rnp"]["recover"]["learning_rate"] == 4
    assert (config["rnp"]["unlearn"]["max_epochs"], config["sweep_images"]) == (3, 20)
    assert {stage.stage for stage in result.timing} >= {
        "load checkpoint",
        "load images",
        "unlearn",
        "recover",
        "measure",
    }
    assert all(math.isfinite(stage.seconds) for stage in result.timing)
    assert (result.attack.name, result.attack.triggered_images) == ("badnets", 90)
    assert json.loads((defended.folder / "result.json").read_text())["schema_version"] == 1


def test_the_figures_of_a_run_agree_with_each_other(defended):
    before, after, choice = defended.result.before, defended.result.after, defended.result.choice
    assert after == with_effectiveness(before, after.model_copy(update={"der": None}))
    detail = f"{choice.pruned} filters were pruned, chosen without knowledge of the trigger."
    assert defended.result.verdict == judge(before, after, 10, "", detail=detail)
    for when, figure in (("before", before), ("after", after)):
        shares = [getattr(each, when) for each in defended.result.classes]
        assert sum(share.count for share in shares) == figure.acc.count
        assert sum(share.total for share in shares) == figure.acc.total
    assert choice.holdout_acc_after.count >= choice.holdout_acc_before.count - choice.budget * 20
    damages = [item.damage for item in defended.result.pruned_filters]
    assert None not in damages
    assert all(item.mask <= 0.9 for item in defended.result.pruned_filters)


def test_the_settings_of_a_document_are_a_preset_of_what_was_read(defended):
    config = defended.result.config
    options = resolve(schema_for(DefendOptions, ["rnp"]), config)
    assert Request.of(options.checkpoint, METHODS["rnp"], options).plain() == config
    assert set(config) == {
        *("checkpoint", "method", "source", "images", "defense", "trigger", "augmentation", "compute"),
        *("evidence", "sweep_images", "seed", "rnp"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def anew(small_victim):
    """What HID would have made of the small victim's training set, written by hand: two rounds, three units pruned."""
    images = DataOptions(image_size=8, test_images=100)
    options = RunOptions(method="hid", images=images, compute=ComputeOptions(batch_size=20))
    request = Request.of(str(small_victim), METHODS["hid"], options)
    model, log = open_model(str(small_victim), SourceOptions(), ComputeOptions()), RunLog(quiet=True)
    case = open_case(model, request, log)
    assert case.poisoned is not None
    head = mlp_head(16, (4, 2), 10)
    fresh = head.init(jax.random.key(0))
    dirty, clean = np.flatnonzero(case.poisoned), np.flatnonzero(~case.poisoned)
    defended = Defended(
        fresh,
        masks.unflatten(np.arange(6.0), masks.filters(fresh["masks"])),
        "score",
        Candidates(np.array([1, 5, 2]), np.array([9.0, 8.0, 5.0]), np.full(3, np.nan)),
        Choice(pruned=3, rule="two of them, in each of 2 rounds", ranking="hid"),
        network=head,
        extractor=(case.network, case.network.init(jax.random.key(1))),
        kept=(np.concatenate([dirty[:26], clean[:78]]), clean[:50]),
        history={"simclr": {"loss": np.array([2.0, 1.0]), "matrix": np.ones((2, 2))}},
        warnings=("Round 1: a note",),
    )
    return SimpleNamespace(request=request, case=case, outcome=measure(case, defended, request, log))


def notes_of(result: schema.Result) -> tuple[str, ...]:
    """The warnings, but for those of single classes."""
    return tuple(warning for warning in result.warnings if not warning.startswith("Accuracy on class "))


def test_the_document_of_a_network_that_was_trained_anew(anew):
    result = describe_run(anew.request, anew.case, anew.outcome, (), None, (), {"simclr": 1.5})
    assert (result.method, result.kind, result.seed) == ("hid", "score", 0)
    assert (result.checkpoint.architecture, result.checkpoint.filters) == ("mlp", 6)
    assert (result.data.defense_images, result.data.holdout_images, result.data.test_images) == (0, 0, 100)
    assert result.features is None
    assert [(item.layer, item.index, item.score, item.damage) for item in result.pruned_filters] == [
        ("0", 1, 9.0, None), ("2", 1, 8.0, None), ("0", 2, 5.0, None),
    ]  # fmt: skip
    assert result.choice == anew.outcome.defended.choice
    (phase,) = result.phases
    assert (phase.name, phase.series, phase.stopped) == ("simclr", {"loss": (2.0, 1.0)}, "ran all 2 epochs")
    assert result.timing == (schema.Stage(stage="simclr", seconds=1.5),)
    assert notes_of(result) == ("Round 1: a note",)
    assert result.verdict.detail == (
        "A new network was trained on the 1,297 untrusted images. 3 of its 6 hidden units were pruned. In the end, it "
        "trusted the labels of 50 images. It used no clean images, no knowledge of the trigger and none of the "
        "checkpoint's own weights."
    )
    before, after = anew.outcome.before.metrics, anew.outcome.after.metrics
    assert result.verdict.headline == judge(before, after, 10, "", detail="").headline
    assert (result.before, result.after) == (before, after)


ROWS = ("share of clean images among those kept", "share of the poisoned images kept")


def test_how_well_the_images_were_told_apart(anew):
    result = describe_run(anew.request, anew.case, anew.outcome, (), None, (), {})
    expected = {1: (0.75, 26 / 130), 2: (1.0, 0.0)}
    assert result.covariates == {
        f"Round {number}: {row} (for evaluation only)": value
        for number, values in expected.items()
        for row, value in zip(ROWS, values, strict=True)
    }
    for truth, rows in ((None, 0), (np.zeros(1297, bool), 2)):  # unknown, and nothing to find
        case = replace(anew.case, poisoned=truth)
        found = describe_run(anew.request, case, anew.outcome, (), None, (), {}).covariates
        assert len(found) == rows
        assert set(found.values()) <= {1.0}


def test_weights_that_saw_the_backdoor_are_a_caution(anew, small_victim):
    start = UntrustedOptions(start=str(small_victim))
    request = replace(anew.request, options=replace(anew.request.options, untrusted=start))
    caution, *others = notes_of(describe_run(request, anew.case, anew.outcome, (), None, (), {}))
    assert caution.startswith("small was trained on images poisoned by badnets (rate 0.1)")
    assert others == ["Round 1: a note"]
    clean = UntrustedOptions(start=str(CHECKPOINT.with_name("digits_clean.pt")))
    request = replace(request, options=replace(request.options, untrusted=clean))
    assert notes_of(describe_run(request, anew.case, anew.outcome, (), None, (), {})) == ("Round 1: a note",)


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("none", "Nothing was changed."),
        ("ft", "All weights were tuned, without knowledge of the trigger."),
        ("clp", "3 filters were pruned, chosen without knowledge of the trigger."),
        ("oracle", "3 filters were pruned, chosen with knowledge of the trigger, which no defender has."),
    ],
)
def test_the_verdict_tells_what_the_method_did(anew, name, detail):
    result = describe_as(anew, name)
    assert result.verdict.detail == detail
    assert (result.covariates, result.config["method"], result.evidence) == ({}, name, None)
    assert len(result.pruned_filters) == (3 if name in ("clp", "oracle") else 0)


def describe_as(anew, name: str, after: Measured | None = None, finding: Finding | None = None, **case):
    """The document as if another method had done it: without a new network, and with these figures after it."""
    request = replace(anew.request, method=METHODS[name], settings=METHODS[name].defaults)
    kind = "score" if METHODS[name].changes == "filters" else "weights"
    defended = replace(anew.outcome.defended, kind=kind, kept=())
    outcome = replace(anew.outcome, defended=defended, after=anew.outcome.after if after is None else after)
    return describe_run(request, replace(anew.case, untrusted=False, anew=False, **case), outcome, (), finding, (), {})


def blind(measured: Measured) -> Measured:
    return measured._replace(metrics=Metrics(acc=measured.metrics.acc))


def test_without_trigger_and_evidence_the_headline_says_what_was_done(anew):
    before = blind(anew.outcome.before)
    case = {**vars(anew), "outcome": replace(anew.outcome, before=before)}
    acc = f"{before.metrics.acc.value:.1%}"
    for name, done in (("none", "Nothing was changed"), ("ft", "All weights were tuned"), ("clp", "3 filters pruned")):
        result = describe_as(SimpleNamespace(**case), name, before, trigger=None)
        assert (result.attack, result.verdict.level) == (None, "unknown")
        assert result.verdict.headline == f"{done}; ACC {acc} → {acc}"


def test_a_network_that_a_method_left_alone_is_not_called_tuned(anew):
    defended = replace(anew.outcome.defended, unchanged=True)
    case = SimpleNamespace(**{**vars(anew), "outcome": replace(anew.outcome, defended=defended)})
    result = describe_as(case, "ft", blind(anew.outcome.before), trigger=None)
    assert result.verdict.headline.startswith("Nothing was changed")


def test_evidence_reaches_the_document_and_the_verdict(anew):
    before = blind(anew.outcome.before)
    label = LabelEvidence(3, 2.0, 40.0, 41.0, (1.0, 0.9), (0.9, 0.3), (0.8, 0.1), (0.7, 0.1), (0.4, 0.9), (1.0, 0.05))
    finding = Finding("still there", True, (label,), (replace(label, label=5),), (28.0, 30.0), ("Why.",))
    result = describe_as(anew, "clp", before, finding, trigger=None)
    assert result.evidence is not None
    assert [each.label for each in result.evidence.labels] == [3, 5]
    assert result.verdict.headline.startswith("A backdoor is still there")
    assert result.verdict.detail == "Why."


def test_where_the_method_trained_on_triggers_the_verdict_says_that_the_evidence_is_weak(anew):
    label = LabelEvidence(3, 2.0, 40.0, 41.0, (1.0, 0.0), (0.9, 0.3), (0.8, 0.1), (0.7, 0.1), (0.4, 0.9), (1.0, 0.05))
    finding = Finding("none found", True, (label,), (replace(label, label=5),), (28.0, 30.0), ("Why.",))
    levels = {
        name: describe_as(anew, name, blind(anew.outcome.before), finding, trigger=None).verdict.level
        for name in ("nc", "ft")
    }
    assert levels == {"nc": "warning", "ft": "ok"}


def test_classes_that_lost_more_than_a_tenth_are_warned_of(anew):
    before = (*(Proportion.of(9, 10) for _ in range(2)), Proportion.of(20, 20), None, Proportion.of(5, 10))
    after = (Proportion.of(8, 10), Proportion.of(5, 10), Proportion.of(17, 20), None, Proportion.of(9, 10))
    outcome = replace(anew.outcome, before=anew.outcome.before._replace(by_class=before))
    shown = SimpleNamespace(request=anew.request, case=anew.case, outcome=outcome)
    result = describe_as(shown, "clp", anew.outcome.after._replace(by_class=after))
    assert [(each.label, each.name) for each in result.classes] == [(i, str(i)) for i in range(5)]
    assert result.classes[1].before == Proportion.of(9, 10)
    assert (result.classes[3].before, result.classes[3].after) == (None, None)
    assert result.warnings[-3:] == (
        "Round 1: a note",
        "Accuracy on class 1 (1) fell from 90.0% to 50.0%.",
        "Accuracy on class 2 (2) fell from 100.0% to 85.0%.",
    )

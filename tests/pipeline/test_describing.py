"""What a run is described as, from figures by hand and from finished runs."""

import json
import math
import sys
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
from rnp_jax.evaluation.metrics import Metrics, Proportion, defense_effectiveness
from rnp_jax.models import mlp_head
from rnp_jax.pipeline.case import open_case
from rnp_jax.pipeline.describing import (
    COSTLY,
    REMOVED,
    as_proportion,
    command_line,
    describe_run,
    find_oracle,
    judge,
)
from rnp_jax.pipeline.measuring import measure
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.options import RunOptions, UntrustedOptions, schema_for
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report import schema
from rnp_jax.torch_io import find_state_dict, read_checkpoint
from tests.runs import CHECKPOINT


@pytest.mark.parametrize(
    ("program", "expected"),
    [("/usr/bin/rnp-jax", "rnp-jax defend 'a b.pt' --seed 1"), ("/usr/bin/python", None), ("", None)],
)
def test_the_command_is_told_as_it_can_be_typed_again(program, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "defend", "a b.pt", "--seed", "1"])
    assert command_line() == expected


def test_proportions_keep_their_counts():
    value = Proportion(3, 4)
    low, high = value.interval
    assert as_proportion(value) == schema.Proportion(value=0.75, low=low, high=high, count=3, total=4)
    assert as_proportion(None) is None
    assert as_proportion(Proportion(0, 0)) is None


def point(pruned: int, acc: int, asr: int | None) -> schema.SweepPoint:
    return schema.SweepPoint(
        threshold=None,
        pruned=pruned,
        acc=as_proportion(Proportion(acc, 100)),
        asr=None if asr is None else as_proportion(Proportion(asr, 100)),
    )


def test_the_oracle_takes_the_lowest_asr_within_the_budget_and_then_the_fewest_filters():
    release = schema.Sweep(ranking="release", points=(point(0, 90, 100), point(9, 87, 8), point(20, 80, 0)))
    damage = schema.Sweep(ranking="damage", points=(point(0, 90, 100), point(5, 88, 7), point(4, 87, 7)))
    oracle = find_oracle((release, damage), 0.03)
    assert oracle is not None
    assert (oracle.ranking, oracle.pruned, oracle.metrics.asr) == ("damage", 4, as_proportion(Proportion(7, 100)))
    generous = find_oracle((release, damage), 0.1)
    assert generous is not None
    assert (generous.ranking, generous.pruned) == ("release", 20)


def test_without_asr_there_is_no_oracle():
    assert find_oracle((schema.Sweep(ranking="release", points=(point(0, 90, None),)),), 0.03) is None
    assert find_oracle((), 0.03) is None


def figures(acc: float, asr: float | None) -> Metrics:
    return Metrics(
        Proportion(round(1000 * acc), 1000), asr=None if asr is None else Proportion(round(1000 * asr), 1000)
    )


@pytest.mark.parametrize(
    ("before", "after", "level", "words"),
    [
        ((0.9, 1.0), (0.9, REMOVED), "ok", "Backdoor removed: ASR 100.0% → 10.0%, ACC 90.0% → 90.0%"),
        ((0.9, 1.0), (0.9 - COSTLY - 0.01, 0.0), "warning", "Backdoor removed, at a cost"),
        ((0.9, 1.0), (0.9, 0.3), "warning", "Backdoor weakened"),
        ((0.9, 1.0), (0.9, 0.9), "bad", "Backdoor not removed"),
        ((0.9, REMOVED), (0.9, 0.0), "unknown", "This trigger did not work to begin with"),
        ((0.9, None), (0.85, None), "unknown", "7 filters pruned; ACC 90.0% → 85.0%"),
    ],
)
def test_verdicts(before, after, level, words):
    verdict = judge(figures(*before), figures(*after), 7)
    assert verdict.level == level
    assert verdict.headline.startswith(words)


@pytest.mark.parametrize(
    ("pruned", "how", "detail"),
    [
        (7, {}, "7 filters were pruned, chosen without knowledge of the trigger."),
        (None, {}, "All weights were tuned, without knowledge of the trigger."),
        (None, {"changed": False}, "Nothing was changed."),
        (7, {"sees_trigger": True}, "7 filters were pruned, chosen by the trigger, which no defender knows."),
    ],
)
def test_verdicts_tell_what_was_done(pruned, how, detail):
    assert judge(figures(0.9, 1.0), figures(0.9, 0.9), pruned, **how).detail == detail


def test_the_verdict_of_a_checkpoint_as_it_is():
    verdict = judge(figures(0.9, None), figures(0.9, None), None, changed=False)
    assert verdict.headline == "Nothing was changed; ACC 90.0% → 90.0%"


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
    was, became = (
        Metrics(*(Proportion(share.count, share.total) for share in (m.acc, m.acc_without_target, m.asr, m.ra)))
        for m in (before, after)
    )
    assert after.der == defense_effectiveness(was, became)
    assert defended.result.verdict == judge(was, became, choice.pruned)
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
        *("sweep_images", "seed", "rnp"),
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
        Choice(3, "two of them, in each of 2 rounds", ranking="hid"),
        network=head,
        extractor=(case.network, case.network.init(jax.random.key(1))),
        kept=(np.concatenate([dirty[:26], clean[:78]]), clean[:50]),
        history={"simclr": {"loss": np.array([2.0, 1.0]), "matrix": np.ones((2, 2))}},
        warnings=("Round 1: a note",),
    )
    return SimpleNamespace(request=request, case=case, outcome=measure(case, defended, request, log))


def test_the_document_of_a_network_that_was_trained_anew(anew):
    result = describe_run(anew.request, anew.case, anew.outcome, (), (), {"simclr": 1.5})
    assert (result.method, result.kind, result.seed) == ("hid", "score", 0)
    assert (result.checkpoint.architecture, result.checkpoint.filters) == ("mlp", 6)
    assert (result.data.defense_images, result.data.holdout_images, result.data.test_images) == (0, 0, 100)
    assert result.features is None
    assert [(item.layer, item.index, item.score, item.damage) for item in result.pruned_filters] == [
        ("0", 1, 9.0, None), ("2", 1, 8.0, None), ("0", 2, 5.0, None),
    ]  # fmt: skip
    assert result.choice == schema.Choice(
        rule="two of them, in each of 2 rounds",
        ranking="hid",
        threshold=None,
        pruned=3,
        holdout_acc_before=None,
        holdout_acc_after=None,
        budget=None,
    )
    (phase,) = result.phases
    assert (phase.name, phase.series, phase.stopped) == ("simclr", {"loss": (2.0, 1.0)}, "ran its 2 epochs")
    assert result.timing == (schema.Stage(stage="simclr", seconds=1.5),)
    assert result.warnings == ("Round 1: a note",)
    assert result.verdict.detail == (
        "A new network was trained on the 1,297 untrusted images. 3 of its 6 hidden units were pruned. It trusted the "
        "labels of 50 images in the end. No clean image, no knowledge of the trigger and none of the checkpoint's own "
        "weights were used."
    )
    before, after = anew.outcome.before.metrics, anew.outcome.after.metrics
    assert result.verdict.headline == judge(before, after, 3).headline
    assert result.after.der == defense_effectiveness(before, after)


ROWS = ("share of clean images among those kept", "share of the poisoned images kept")


def test_how_well_the_images_were_told_apart(anew):
    result = describe_run(anew.request, anew.case, anew.outcome, (), (), {})
    expected = {1: (0.75, 26 / 130), 2: (1.0, 0.0)}
    assert result.covariates == {
        f"Round {number}: {row} (for evaluation only)": value
        for number, values in expected.items()
        for row, value in zip(ROWS, values, strict=True)
    }
    for truth, rows in ((None, 0), (np.zeros(1297, bool), 2)):  # unknown, and nothing to find
        case = replace(anew.case, poisoned=truth)
        found = describe_run(anew.request, case, anew.outcome, (), (), {}).covariates
        assert len(found) == rows
        assert set(found.values()) <= {1.0}


def test_weights_that_saw_the_backdoor_are_a_caution(anew, small_victim):
    start = UntrustedOptions(start=str(small_victim))
    request = replace(anew.request, options=replace(anew.request.options, untrusted=start))
    caution, *others = describe_run(request, anew.case, anew.outcome, (), (), {}).warnings
    assert caution.startswith("small was trained on images poisoned by badnets (rate 0.1)")
    assert others == ["Round 1: a note"]
    clean = UntrustedOptions(start=str(CHECKPOINT.with_name("digits_clean.pt")))
    request = replace(request, options=replace(request.options, untrusted=clean))
    assert describe_run(request, anew.case, anew.outcome, (), (), {}).warnings == ("Round 1: a note",)


@pytest.mark.parametrize(("name", "detail"), [("none", "Nothing was changed."), ("ft", "All weights were tuned, ")])
def test_the_verdict_follows_the_method(anew, name, detail):
    request = replace(anew.request, method=METHODS[name], settings=METHODS[name].defaults)
    case = replace(anew.case, anew=False)
    defended = replace(anew.outcome.defended, kind="weights", kept=())
    result = describe_run(request, case, replace(anew.outcome, defended=defended), (), (), {})
    assert result.verdict.detail.startswith(detail)
    assert (result.pruned_filters, result.covariates, result.config["method"]) == ((), {}, name)

import json
import math

import pytest

from rnp_jax.evaluation.metrics import Metrics, Proportion, defense_effectiveness
from rnp_jax.pipeline.describing import COSTLY, REMOVED, as_proportion, find_oracle, judge
from rnp_jax.report import schema
from rnp_jax.torch_io import find_state_dict, read_checkpoint


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

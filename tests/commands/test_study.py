"""Heads for every attack, rate and seed, trained once whatever happens in between."""

import json
import os
import shutil

import pytest

from rnp_jax.cli import main
from rnp_jax.pipeline.run_log import EpochBars
from rnp_jax.report.comparison import read_comparison
from tests.commands.conftest import CHECKPOINT, SMALL

STUDY = (
    *("--extractor", str(CHECKPOINT), "--data", "digits", "--head", "16", "--seeds", "0", "--rates", "0.05", "0.1"),
    *("--train.epochs", "2", "--train.batch-size", "64", "--methods", "none", "clp"),
    *("--defense.size", "40", "--defense.holdout", "0.5", *SMALL),
)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    assert main(["study", "badnets", "none", *STUDY, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_heads_are_whole_and_a_clean_one_is_trained_once_a_seed(studied):
    stems = ("badnets_0.05_0", "badnets_0.1_0", "none_0_0")
    expected = [f"{stem}{suffix}" for stem in stems for suffix in (".card.json", ".pt", ".trigger.npz")]
    assert sorted(os.listdir(studied / "heads")) == sorted(set(expected) - {"none_0_0.trigger.npz"})
    cards = [json.loads((studied / "heads" / f"{stem}.card.json").read_text()) for stem in stems]
    assert [card["attack"] and card["attack"]["poisoned"] for card in cards] == [65, 130, None]
    assert {card["extractor"]["dim"] for card in cards} == {64}


@pytest.mark.slow
def test_figures_are_the_cards(studied):
    rows = read_comparison(studied / "comparison.json").rows
    assert [(row.attack, row.poison_rate, row.method) for row in rows] == [
        (attack, rate, method)
        for attack, rate in (("badnets", 0.05), ("badnets", 0.1), ("none", None))
        for method in ("none", "clp")
    ]
    for row in rows[::2]:
        card = json.loads((studied / "heads" / row.checkpoint).with_suffix(".card.json").read_text())
        assert row.acc.value == card["acc"]
        assert (row.asr and row.asr.value) == card["asr"]
    assert rows[0].asr.value > 0.9  # the extractor has the backdoor already


@pytest.mark.slow
def test_curves_over_rates_and_seconds_of_every_stage(studied):
    assert (studied / "figures" / "rates_1_badnets.svg").is_file()
    assert "badnets, 5 % poisoned" in (studied / "rates.md").read_text()
    rows = read_comparison(studied / "comparison.json").rows
    assert [stage.stage for stage in rows[0].timing] == ["head: cache", "head: train", "cache"]
    assert {stage.stage for stage in rows[1].timing} >= {"head: train", "score", "choose"}


@pytest.mark.slow
def test_an_interrupted_study_goes_on_and_may_grow(studied, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    shutil.copytree(studied, out)
    (out / "comparison.html").unlink()
    kept = {path: path.stat().st_mtime_ns for path in (out / "heads").iterdir() if not path.match("badnets_0.1_0*")}
    (out / "heads" / "badnets_0.1_0.card.json").unlink()  # half-written: the card comes last
    trained = []
    monkeypatch.setattr(EpochBars, "__call__", lambda _, phase, epoch, *__: trained.append((phase, epoch)))
    (out / "heads" / "badnets_0.1_0.pt").write_bytes(b"half")
    arguments = [*STUDY[: STUDY.index("--rates")], "--rates", "0.05", "0.1", "0.2", *STUDY[STUDY.index("0.1") + 1 :]]
    assert main(["study", "badnets", *arguments, "--out", str(out)]) == 0
    assert trained == [("train", 1), ("train", 2)] * 2
    assert capsys.readouterr().err.count("compared already") == 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    before, after = (
        {(row.poison_rate, row.method): row for row in read_comparison(each / "comparison.json").rows}
        for each in (studied, out)
    )
    for rate in (0.05, 0.1):
        assert before[rate, "none"].acc == after[rate, "none"].acc
    assert (0.2, "clp") in after
    weights = (each / "heads" / "badnets_0.1_0.pt" for each in (studied, out))
    assert len({path.read_bytes() for path in weights}) == 1


@pytest.mark.slow
def test_a_folder_of_other_options_is_refused(studied, fails, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(studied, out)
    (out / "comparison.html").unlink()
    error = fails("study", "badnets", *STUDY, "--train.momentum", "0.5", "--target", "1", "--out", out)
    assert "config.yaml is of a study with other target, train; choose another folder with --out" in error
    assert "holds a finished result already" in fails("study", "badnets", *STUDY, "--out", studied)


@pytest.mark.parametrize(
    ("attacks", "options", "message"),
    [
        ((), (), "no attacks: give one or more attacks, rates and seeds"),
        (("badnets",), ("--rates",), "no rates: give one or more"),
        (("badnets",), ("--seeds",), "no seeds: give one or more"),
        (("badnets",), ("--extractor", ""), "no extractor: "),
        (("badnets", "badnet"), (), "attack 'badnet' is unknown; did you mean badnets?"),
        (("badnets",), ("--rates", "0.1", "1.5"), "rates is 1.5, expected a number between 0 and 1"),
        (("badnets",), ("--seeds", "0", "-1"), "seed is -1"),
        (("badnets",), ("--target", "10"), "target is 10, expected an integer between 0 and 9"),
        (("badnets",), ("--head", "16", "0"), "head of [16, 0] hidden units on 64 features"),
        (("badnets",), ("--methods", "clip"), "--methods: clip; choose among"),
        (("badnets",), ("--extractor", "nowhere.pt"), "nowhere.pt: nothing is there"),
    ],
)
def test_errors_come_before_the_work_and_leave_nothing_behind(attacks, options, message, fails, tmp_path):
    assert message in fails("study", *attacks, *STUDY, *options, "--out", tmp_path / "out")
    assert os.listdir(tmp_path) == []

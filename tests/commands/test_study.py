"""Heads for every attack, rate and seed, trained once whatever happens in between."""

import json
import os
import shutil

import pytest

from rnp_jax.cli import main
from rnp_jax.pipeline.run_log import EpochBars
from rnp_jax.report.sweep_row import RUN_FIELDS
from rnp_jax.report.sweep_table import read_rows
from tests.runs import CHECKPOINT, SMALL

STUDY = (
    *("--extractor", str(CHECKPOINT), "--data", "digits", "--head", "16", "--seeds", "0", "--rates", "0.05", "0.1"),
    *("--train.epochs", "2", "--train.batch-size", "64", "--method", "none", "clp"),
    *("--defense.size", "40", "--defense.holdout", "0.5", *SMALL),
)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    assert main(["study", "badnets", "none", *STUDY, "--out", str(out)]) == 0
    return out


def rows_of(out):
    return {(os.path.basename(row.checkpoint), row.method): row for row in read_rows(out / "rows.jsonl")}


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
    rows = rows_of(studied)
    assert {key: (row.attack, row.poison_rate, row.status) for key, row in rows.items()} == {
        (name, method): (attack, rate, "ok")
        for name, attack, rate in (
            ("badnets_0.05_0.pt", "badnets", 0.05),
            ("badnets_0.1_0.pt", "badnets", 0.1),
            ("none_0_0.pt", "none", None),
        )
        for method in ("none", "clp")
    }
    for (name, method), row in rows.items():
        card = json.loads((studied / "heads" / name).with_suffix(".card.json").read_text())
        acc, asr = (row.acc, row.asr) if method == "none" else (row.acc_before, row.asr_before)
        assert acc.value == card["acc"]
        assert (asr and asr.value) == card["asr"]
    assert rows["badnets_0.05_0.pt", "none"].asr.value > 0.9  # the extractor has the backdoor already


@pytest.mark.slow
def test_curves_over_rates_and_seconds_of_every_stage(studied):
    assert (studied / "figures" / "rates_1_badnets.svg").is_file()
    assert "badnets, 5 % poisoned" in (studied / "leaderboard.md").read_text()
    assert "<h3>Poison rates</h3>" in (studied / "leaderboard.html").read_text()
    rows = rows_of(studied)
    stages = [[stage.stage for stage in rows["badnets_0.05_0.pt", method].timing] for method in ("none", "clp")]
    trained = ["head: cache", "head: train"]
    assert stages == [[*trained, "cache features", "measure"], [*trained, "score", "choose", "measure"]]


@pytest.mark.slow
def test_an_interrupted_study_goes_on_and_may_grow(studied, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    shutil.copytree(studied, out)
    kept = {path: path.stat().st_mtime_ns for path in (out / "heads").iterdir() if not path.match("badnets_0.1_0*")}
    (out / "heads" / "badnets_0.1_0.pt").unlink()  # the checkpoint comes last
    trained = []
    monkeypatch.setattr(EpochBars, "__call__", lambda _, phase, epoch, *__: trained.append((phase, epoch)))
    arguments = [*STUDY[: STUDY.index("--rates")], "--rates", "0.05", "0.1", "0.2", *STUDY[STUDY.index("0.1") + 1 :]]
    assert main(["study", "badnets", *arguments, "--out", str(out)]) == 0
    assert trained == [("train", 1), ("train", 2)] * 2
    assert "6 items, 0 of them already done" in capsys.readouterr().err, "its heads are others, in another folder"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    before, after = rows_of(studied), rows_of(out)
    same = {"badnets_0.05_0.pt", "badnets_0.1_0.pt"}
    assert {name for name, _ in after} == same | {"badnets_0.2_0.pt"}
    apart = {*RUN_FIELDS, "checkpoint", "key"}
    for key in {key for key in before if key[0] in same}:
        assert after[key].model_dump(exclude=apart) == before[key].model_dump(exclude=apart)
    assert all(row.timing[1].stage == "head: train" for row in after.values()), "of heads of before, too"
    assert main(["study", "badnets", *arguments, "--out", str(out)]) == 0
    assert "6 items, 6 of them already done" in capsys.readouterr().err
    assert rows_of(out) == after
    weights = (each / "heads" / "badnets_0.1_0.pt" for each in (studied, out))
    assert len({path.read_bytes() for path in weights}) == 1


@pytest.mark.slow
def test_a_folder_of_other_options_is_refused(studied, fails, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(studied, out)
    error = fails("study", "badnets", *STUDY, "--train.momentum", "0.5", "--target", "1", "--out", out)
    assert "config.yaml belongs to a study with different target, train; choose another folder with --out" in error


@pytest.mark.slow
def test_a_method_may_be_added(studied, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(studied, out)
    more = ["fp" if word == "clp" else word for word in STUDY]
    assert main(["study", "none", *more, "--fp.no-fine-tune", "--out", str(out)]) == 0
    assert set(rows_of(out)) == {("none_0_0.pt", "none"), ("none_0_0.pt", "fp")}


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
        (("badnets",), ("--method", "clip"), "--method clip: there is no such method; choose among"),
        (("badnets",), ("--defense.holdout", "0", "--method", "fp"), "--defense.holdout 0 leaves no held-out images"),
        (("badnets",), ("--extractor", "nowhere.pt"), "nowhere.pt: nothing is there"),
    ],
)
def test_errors_come_before_the_work_and_leave_nothing_behind(attacks, options, message, fails, tmp_path):
    assert message in fails("study", *attacks, *STUDY, *options, "--out", tmp_path / "out")
    assert os.listdir(tmp_path) == []

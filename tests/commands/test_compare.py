"""Tables and pages of several checkpoints, made by the command, interrupted and made again."""

import os
import shutil

import numpy as np
import pytest
from rnp_jax.commands.comparing import COVARIATE

from rnp_jax.card import read_card
from rnp_jax.cli import main
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions, TriggerOptions
from rnp_jax.pipeline.opening import open_data, open_model, open_trigger
from rnp_jax.report.comparison import read_comparison
from rnp_jax.torch_io import read_checkpoint
from tests.commands.conftest import CHECKPOINT, SMALL

DEFENSE = ("--defense.size", "40", "--defense.holdout", "0.5", *SMALL)
METHODS = ("--methods", "none", "clp", "--clp.threshold.rule", "number", "--clp.threshold.number", "1")


@pytest.fixture(scope="module")
def compared(head, small_victim, tmp_path_factory):
    """A head and a whole network."""
    out = tmp_path_factory.mktemp("compare") / "out"
    assert main(["compare", str(head), str(small_victim), str(head), "--out", str(out), *DEFENSE, *METHODS]) == 0
    return out


@pytest.fixture(scope="module")
def comparison(compared):
    return read_comparison(compared / "comparison.json")


def test_everything_is_written(compared):
    files = ["comparison.csv", "comparison.html", "comparison.json", "comparison.md", "config.yaml", "figures", "rows"]
    assert sorted(os.listdir(compared)) == files
    assert "CLP, head" in (compared / "comparison.md").read_text()
    assert len(os.listdir(compared / "rows")) == 2


def test_a_row_a_checkpoint_and_method(comparison, head, small_victim):
    assert [(row.checkpoint, row.mode, row.method) for row in comparison.rows] == [
        (path.name, mode, method)
        for path, mode in ((head, "head"), (small_victim, "network"))
        for method in ("none", "clp")
    ]
    assert [row.pruned for row in comparison.rows] == [None, 2, None, 2]
    assert [row.seed for row in comparison.rows] == [0, 0, 5, 5]


def test_undefended_figures_are_the_card_s(comparison, head):
    card = read_card(head, read_checkpoint(head).sha256)
    assert card is not None
    row = comparison.rows[0]
    assert (row.acc.value, row.asr.value, row.ra.value) == (card.acc, card.asr, card.ra)


def test_features_are_timed_apart_and_only_where_there_are_any(comparison):
    stages = [[stage.stage for stage in row.timing] for row in comparison.rows]
    assert stages[0] == ["cache"]
    assert stages[1] == ["cache", "score", "choose"]
    assert stages[2:] == [[], ["score", "choose"]]


def test_the_covariate_is_the_model_s_own(comparison, head):
    model = open_model(str(head), SourceOptions(), ComputeOptions())
    test = open_data(model, DataOptions(test_images=100), "test")
    trigger = open_trigger(model, TriggerOptions(), test)
    clean, triggered = model.extractor(test.images), model.extractor(trigger.test.images)
    means = [clean[test.labels == label].mean(0) for label in range(10)]
    apart = np.mean([np.linalg.norm(a - b) for a in means for b in means if a is not b])
    shift = np.linalg.norm(triggered - clean[trigger.test.indices], axis=1).mean() / apart
    assert [row.covariates[COVARIATE] for row in comparison.rows[:2]] == pytest.approx([shift] * 2, rel=1e-5)
    assert comparison.rows[2].covariates[COVARIATE] > 0


def test_rows_that_are_there_are_not_made_again(compared, comparison, head, small_victim, tmp_path, capsys):
    out = tmp_path / "again"
    shutil.copytree(compared / "rows", out / "rows")
    lost = out / "rows" / f"{read_checkpoint(small_victim).sha256[:16]}.json"
    lost.unlink()
    assert main(["compare", str(head), str(small_victim), "--out", str(out), *DEFENSE, *METHODS]) == 0
    assert capsys.readouterr().err.count("compared already") == 1
    again = read_comparison(out / "comparison.json")
    assert again.rows[:2] == comparison.rows[:2]
    assert [row.model_dump(exclude={"timing"}) for row in again.rows] == [
        row.model_dump(exclude={"timing"}) for row in comparison.rows
    ]
    assert lost.exists()


def test_rows_of_other_options_are_refused(compared, head, fails, tmp_path):
    shutil.copytree(compared / "rows", tmp_path / "out" / "rows")
    other = (*DEFENSE, *METHODS, "--defense.seed", "1")
    error = fails("compare", head, "--out", tmp_path / "out", *other)
    assert "is of a run with other options; choose another folder with --out, or remove it" in error


def test_a_finished_folder_is_left_alone(compared, head, fails):
    assert "holds a finished result already" in fails("compare", head, "--out", compared, *DEFENSE, *METHODS)


def test_a_clean_model_has_an_oracle_row_that_says_why_it_has_no_figures(tmp_path):
    clean = CHECKPOINT.with_name("digits_clean.pt")
    out = tmp_path / "out"
    arguments = ("--out", str(out), *DEFENSE, "--methods", "none", "oracle")
    assert main(["compare", str(clean), *arguments]) == 0
    none, oracle = read_comparison(out / "comparison.json").rows
    assert (none.attack, none.poison_rate, none.asr, none.covariates) == ("none", None, None, {COVARIATE: None})
    assert none.acc.value > 0.9
    assert (oracle.acc, oracle.note) == (None, "the trigger is not known")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no checkpoints: give one or more files"),
        (("a.pt", "--methods", "clp", "clip"), "--methods: clip; choose among none, rnp, holder, clp, anp, fp, ft, "),
        (("a.pt", "--methods"), "--methods: none given; choose among none, "),
        (("nowhere.pt",), "nowhere.pt"),
        ((str(CHECKPOINT), "--defense.size", "0"), "defense.size is 0"),
        ((str(CHECKPOINT), "--seed", "-1"), "seed is -1"),
        ((str(CHECKPOINT), "--data", "digit"), "no data set, file or folder 'digit'"),
    ],
)
def test_errors_leave_nothing_behind(arguments, message, fails, tmp_path):
    assert message in fails("compare", *arguments, "--out", tmp_path / "out")
    assert os.listdir(tmp_path) == []

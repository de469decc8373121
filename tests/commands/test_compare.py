"""Tables and pages of several checkpoints, made by the command, interrupted and made again."""

import os
import shutil
from dataclasses import replace

import pytest

from rnp_jax.card import read_card
from rnp_jax.cli import main
from rnp_jax.commands.compare import COMPARED, CompareOptions
from rnp_jax.defenses import METHODS
from rnp_jax.detection.evidence import Finding, LabelEvidence
from rnp_jax.pipeline.options import read_options
from rnp_jax.report.sweep_row import RUN_FIELDS
from rnp_jax.report.sweep_table import read_rows
from rnp_jax.sweep.shift import COVARIATE
from rnp_jax.torch_io import read_checkpoint
from tests.runs import CHECKPOINT, SMALL

DEFENSE = ("--defense.size", "40", "--defense.holdout", "0.5", *SMALL)
TWO = ("--method", "none", "clp", "--clp.threshold.rule", "number", "--clp.threshold.number", "1")


@pytest.fixture(scope="module")
def compared(head, small_victim, tmp_path_factory):
    """A head and a whole network."""
    out = tmp_path_factory.mktemp("compare") / "out"
    assert main(["compare", str(head), str(small_victim), str(head), "--out", str(out), *DEFENSE, *TWO]) == 0
    return out


def rows_of(out):
    return {(os.path.basename(row.checkpoint), row.method): row for row in read_rows(out / "rows.jsonl")}


def comparable(out):
    return {key: row.model_dump(exclude={*RUN_FIELDS}) for key, row in rows_of(out).items()}


def test_what_sweep_writes_is_written(compared):
    files = {"config.yaml", "figures", "leaderboard.html", "leaderboard.md", "plan.json", "run.log"}
    tables = {"rows.csv", "rows.jsonl", "rows.parquet"}
    assert set(os.listdir(compared)) == files | tables | {"rows", "claims", "crashes", "members"}
    assert "CLP, head" in (compared / "leaderboard.md").read_text()
    figures = {f"{name}.{kind}" for name in ("outcomes", "items", "seconds") for kind in ("png", "svg")}
    assert set(os.listdir(compared / "figures")) == figures
    page = (compared / "leaderboard.html").read_text()
    assert page.count("<img ") == 3
    assert "<h2>Covariates</h2>" in page


def test_a_row_a_checkpoint_and_method(compared, head, small_victim):
    found = [(row.checkpoint, row.mode, row.method, row.status) for row in rows_of(compared).values()]
    assert sorted(found) == sorted(
        (str(path), mode, method, "ok")
        for path, mode in ((head, "head"), (small_victim, "network"))
        for method in ("none", "clp")
    )
    rows = rows_of(compared)
    assert [rows[path.name, "clp"].pruned for path in (head, small_victim)] == [2, 2]
    assert [rows[path.name, "none"].pruned for path in (head, small_victim)] == [None, None]
    assert [rows[path.name, "none"].seed for path in (head, small_victim)] == [0, 5]


def test_undefended_figures_are_the_card_s(compared, head):
    card = read_card(head, read_checkpoint(head).sha256)
    assert card is not None
    row = rows_of(compared)[head.name, "none"]
    assert (row.acc.value, row.asr.value, row.ra.value) == (card.acc, card.asr, card.ra)
    assert row.acc == rows_of(compared)[head.name, "clp"].acc_before


def test_features_are_timed_apart_and_only_where_there_are_any(compared, head, small_victim):
    rows = rows_of(compared)
    stages = {key: [stage.stage for stage in row.timing] for key, row in rows.items()}
    assert stages == {
        (head.name, "none"): ["cache features", "measure"],
        (head.name, "clp"): ["score", "choose", "measure"],
        (small_victim.name, "none"): ["measure"],
        (small_victim.name, "clp"): ["score", "choose", "measure"],
    }


def test_what_explains_the_outcomes_is_measured(compared, head, small_victim):
    rows = rows_of(compared)
    assert all(rows[path.name, "none"].covariates[COVARIATE] > 0 for path in (head, small_victim))


def test_rows_that_are_there_are_not_made_again(compared, head, small_victim, tmp_path, capsys):
    out = tmp_path / "again"
    shutil.copytree(compared, out)
    lost = out / "rows" / f"{rows_of(compared)[small_victim.name, 'clp'].key}.json"
    lost.unlink()
    assert main(["compare", str(head), str(small_victim), "--out", str(out), *DEFENSE, *TWO]) == 0
    assert "4 items, 3 of them already done" in capsys.readouterr().err
    assert rows_of(out)[head.name, "clp"] == rows_of(compared)[head.name, "clp"]
    assert comparable(out) == comparable(compared)
    assert lost.exists()


def test_rows_of_other_options_are_not_taken_for_these(compared, head, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(compared, out)
    assert main(["compare", str(head), "--out", str(out), *DEFENSE, *TWO, "--defense.seed", "1"]) == 0
    assert "2 items, 1 of them already done" in capsys.readouterr().err, "what is only measured reads no defense set"
    assert set(rows_of(out)) == {(head.name, "none"), (head.name, "clp")}


def test_a_folder_of_another_command_is_left_alone(compared, head, fails, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "do not belong to a sweep" in fails("compare", head, "--out", tmp_path, *DEFENSE, *TWO)
    assert os.listdir(tmp_path) == ["thesis.txt"]
    assert "unknown option checkpoints" in fails("sweep", head, "--out", compared, *DEFENSE, *TWO)


def test_on_a_clean_model_the_oracle_is_skipped_and_says_why(tmp_path):
    clean, out = CHECKPOINT.with_name("digits_clean.pt"), tmp_path / "out"
    assert main(["compare", str(clean), "--out", str(out), *DEFENSE, "--method", "none", "oracle"]) == 0
    rows = rows_of(out)
    none, oracle = rows[clean.name, "none"], rows[clean.name, "oracle"]
    assert (none.attack, none.poison_rate, none.asr, none.covariates) == ("none", None, None, {COVARIATE: None})
    assert none.acc.value > 0.9
    assert (oracle.acc, oracle.status) == (None, "skipped")
    assert oracle.reason == "Oracle needs the trigger, which is not known"


def test_by_default_what_prunes_is_compared_with_the_controls():
    assert COMPARED == ("none", "holder", "clp", "anp", "fp", "rnp", "auto", "random", "oracle")
    assert set(COMPARED) < set(METHODS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no checkpoints: give one or more files"),
        (("a.pt", "--method", "clp", "clip"), "--method clip: there is no such method; choose among none, holder, "),
        (("a.pt", "--method", "clp", "clp"), "--method clp clp: a method is named twice"),
        ((str(CHECKPOINT), "--defense.size", "0"), "defense.size is 0"),
        ((str(CHECKPOINT), "--seed", "-1"), "seed is -1"),
        ((str(CHECKPOINT), "--defense.holdout", "0"), "--defense.holdout 0 leaves no held-out images"),
        (("nowhere.pt",), "nowhere.pt: there is no such file"),
        ((str(CHECKPOINT), "--data", "digit"), "no data set, file or folder 'digit'"),
    ],
)
def test_errors_leave_nothing_behind(arguments, message, fails, tmp_path):
    assert message in fails("compare", *arguments, "--out", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_used_is_an_error_and_leaves_the_others_their_rows(small_victim, tmp_path, fails):
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    out = tmp_path / "out"
    error = fails("compare", tmp_path / "page.pt", small_victim, "--out", out, *DEFENSE[4:], "--method", "none")
    assert error.startswith(f"SweepError: 1 of 2 items cannot be used, for example {tmp_path / 'page.pt'}: ")
    assert {key: row.status for key, row in rows_of(out).items()} == {
        ("page.pt", "none"): "rejected",
        (small_victim.name, "none"): "ok",
    }


def test_compare_gathers_evidence_where_it_is_asked_to(small_victim, tmp_path, monkeypatch):
    suspect = LabelEvidence(
        3, 2.0, 40.0, 41.0, (1.0, 0.02), (0.9, 0.3), (0.8, 0.1), (0.7, 0.1), (0.4, 0.9), (1.0, 0.05)
    )
    found = Finding("none found", True, (suspect,), (replace(suspect, label=5),), (28.0, 30.0), ("One reason.",))
    monkeypatch.setattr("rnp_jax.pipeline.evidence.gather_evidence", lambda *_, **__: found)
    out = tmp_path / "out"
    given = ("--evidence", "always", *DEFENSE, *TWO)
    assert main(["compare", str(small_victim), "--out", str(out), *given]) == 0
    rows = rows_of(out)
    assert [rows[small_victim.name, name].evidence for name in ("none", "clp")] == [None, "none found"]
    assert "<h2>Evidence without the trigger</h2>" in (out / "leaderboard.html").read_text("utf-8")
    assert "## Evidence without the trigger" in (out / "leaderboard.md").read_text("utf-8")
    assert read_options(CompareOptions, out / "config.yaml").evidence == "always"


def test_an_attempt_to_bring_the_backdoor_back_is_a_column_and_makes_only_its_rows_anew(small_victim, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", str(small_victim), "--out", str(out), *DEFENSE, *TWO]) == 0
    before = comparable(out)
    assert "after RA" not in (out / "leaderboard.html").read_text("utf-8")
    given = ["compare", str(small_victim), "--out", str(out), *DEFENSE, *TWO, "--reactivate", "ra"]
    for done in (1, 2):
        capsys.readouterr()
        assert main(given) == 0
        assert f"2 items, {done} of them already done" in capsys.readouterr().err
    after, key = comparable(out), (small_victim.name, "clp")
    assert after[small_victim.name, "none"] == before[small_victim.name, "none"]
    changed = {name for name, value in after[key].items() if value != before[key][name]}
    assert changed == {"key", "reactivation", "asr_reactivated", "asr_reactivated_control"}
    assert '<th scope="col">ASR after RA</th>' in (out / "leaderboard.html").read_text("utf-8")
    assert "## ASR after RA" in (out / "leaderboard.md").read_text("utf-8")
    assert read_options(CompareOptions, out / "config.yaml").reactivate == "ra"

"""Whole sweeps, with real workers in processes of their own."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from rnp_jax.cli import main
from rnp_jax.report.schema import read_result
from rnp_jax.report.sweep_row import RUN_FIELDS
from rnp_jax.report.sweep_table import read_rows

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
SMALL = ("--test-images", "60", "--batch-size", "20", "--defense.size", "100", "--sweep-images", "0")
CLP = ("--clp.threshold.rule", "number", "--clp.threshold.number", "3")


def rows_of(out):
    return {(os.path.basename(row.checkpoint), row.method): row for row in read_rows(out / "rows.jsonl")}


def comparable(row):
    return row.model_dump(exclude={*RUN_FIELDS, "report", "key", "checkpoint"})


@pytest.fixture(scope="module")
def models(small_victim, tmp_path_factory):
    """Three copies of a checkpoint, one of them damaged, one without a card, and a file that is none."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("a", "b", "bare"):
        shutil.copy(small_victim, folder / f"{name}.pt")
    card = json.loads(small_victim.with_suffix(".card.json").read_text())
    for name in ("a", "b"):
        (folder / f"{name}.card.json").write_text(json.dumps({**card, "file": f"{name}.pt"}))
    (folder / "cut.pt").write_bytes(small_victim.read_bytes()[:2000])
    (folder / "page.pt").write_text("<html>not found</html>")
    return folder


@pytest.fixture(scope="module")
def swept(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "out"
    arguments = ["sweep", str(models), "--method", "none", "clp", *CLP, *SMALL, "--write", "report", "--out", str(out)]
    assert main(arguments) == 0, "files that are rejected are no failure"
    return out, arguments


def test_every_file_and_method_has_a_row_and_the_counts_add_up(swept):
    out, _ = swept
    status = {key: row.status for key, row in rows_of(out).items()}
    assert status == {
        (f"{name}.pt", method): "ok" if name in "ab" else "rejected"
        for name in ("a", "b", "bare", "cut", "page")
        for method in ("none", "clp")
    }
    assert "image shape 8,8,3" in rows_of(out)["bare.pt", "clp"].reason
    assert "HTML" in rows_of(out)["page.pt", "none"].reason
    with (out / "rows.csv").open() as file:
        assert len([*csv.DictReader(file)]) == 10
    assert pyarrow.parquet.read_table(out / "rows.parquet").num_rows == 10
    assert "10" in (out / "leaderboard.html").read_text()
    assert {"outcomes.svg", "items.svg", "seconds.svg"} < set(os.listdir(out / "figures"))


def test_rows_are_those_of_single_runs(swept, models, tmp_path):
    out, _ = swept
    row = rows_of(out)["a.pt", "clp"]
    single = tmp_path / "single"
    assert main(["defend", str(models / "a.pt"), "--method", "clp", *CLP, *SMALL, "--out", str(single)]) == 0
    result = read_result(single / "result.json")
    for name in ("acc", "acc_without_target", "asr", "ra"):
        assert getattr(row, name) == getattr(result.after, name)
    assert (row.acc_before, row.asr_before, row.ra_before) == (result.before.acc, result.before.asr, result.before.ra)
    assert (row.der, row.pruned) == (result.after.der, result.choice.pruned)
    assert read_result(out / row.report.replace("report.html", "result.json")).after == result.after
    cleaned = (out / row.report).parent / "cleaned.pt"
    assert cleaned.read_bytes() == (single / "cleaned.pt").read_bytes()
    assert row.acc_before == rows_of(out)["a.pt", "none"].acc


def test_run_again_it_does_nothing_again(swept, capsys):
    out, arguments = swept
    before = {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()} == before
    assert "10 of them already done" in capsys.readouterr().err


@pytest.mark.slow
def test_a_method_more_keeps_the_rows_that_are_there(swept):
    out, arguments = swept
    before = set((out / "rows").iterdir())
    assert main([*arguments[:3], "fp", *arguments[3:], "--fp.no-fine-tune"]) == 0
    assert before < set((out / "rows").iterdir())
    assert rows_of(out)["a.pt", "fp"].status == "ok"


def test_a_manifest_says_what_a_card_would(models, tmp_path):
    manifest = tmp_path / "models.csv"
    manifest.write_text(
        "path,data,normalization,image_shape,attack,target,constants.variant\n"
        f'{models / "bare.pt"},digits,"0.3,0.3,0.3/0.3,0.3,0.3","8,8,3",badnets,3,square\n'
    )
    out = tmp_path / "out"
    assert main(["sweep", str(manifest), "--method", "none", "--image-size", "8", *SMALL[:4], "--out", str(out)]) == 0
    row = rows_of(out)["bare.pt", "none"]
    assert (row.status, row.attack) == ("ok", "badnets")
    assert row.asr is not None


def test_what_fails_is_the_exit_status(models, tmp_path, fails):
    out = tmp_path / "out"
    more_than_there_are = ("--clp.threshold.rule", "number", "--clp.threshold.number", "5000")
    error = fails("sweep", models / "a.pt", "--method", "clp", *more_than_there_are, *SMALL, "--out", out)
    assert error.startswith("SweepError: 1 of 1 items failed")
    row = rows_of(out)["a.pt", "clp"]
    assert (row.status, "5000" in row.reason) == ("failed", True)


def test_a_file_that_changed_is_another_item(models, tmp_path):
    path, out = tmp_path / "a.pt", tmp_path / "out"
    shutil.copy(models / "page.pt", path)
    arguments = ["sweep", str(path), "--method", "none", *SMALL[:4], "--out", str(out)]
    assert main(arguments) == 0
    assert rows_of(out)["a.pt", "none"].status == "rejected"
    shutil.copy(models / "a.pt", path)
    (tmp_path / "a.card.json").write_text((models / "a.card.json").read_text())
    assert main(arguments) == 0
    assert rows_of(out)["a.pt", "none"].status == "ok"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no checkpoints"),
        (("*.nothing",), "matches no file"),
        (("a.pt", "--workers", "0"), "workers is 0"),
        (("a.pt", "--address", "auto"), "--address is for --engine ray"),
        (("a.pt", "--partition", "gpu"), "--partition is for --engine slurm"),
        (("a.pt", "--data", "digit"), "no data set, file or folder 'digit'"),
        (("a.pt", "--defense.holdout", "0"), "--defense.holdout 0 leaves no held-out images"),
    ],
)
def test_errors_come_before_the_work_and_leave_nothing_behind(arguments, message, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails("sweep", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(models, tmp_path, fails):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "do not belong to a sweep" in fails("sweep", models / "a.pt", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_on_two_devices_the_rows_are_those_of_one(tmp_path, monkeypatch):
    """Checkpoints with different triggers and without: two hands of two, and one of one."""
    names = ("digits_badnets", "digits_clean", "digits_sig", "digits_blend", "digits_badnets_seed3")
    files = [str(CHECKPOINTS / f"{name}.pt") for name in names]
    rows = {}
    for devices in (1, 2):
        monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count={devices}")
        out = tmp_path / str(devices)
        assert main(["sweep", *files, "--method", "none", "--test-images", "60", "--out", str(out)]) == 0
        rows[devices] = {key: comparable(row) for key, row in rows_of(out).items()}
    assert rows[1] == rows[2]
    assert {row["status"] for row in rows[2].values()} == {"ok"}
    assert len({str(row["asr"]) for row in rows[2].values()}) > 2


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_it(models, swept, tmp_path):
    """Supervisor and workers are killed together, six times, then let go; rows are those of the undisturbed sweep."""
    out = tmp_path / "out"
    arguments = ["sweep", str(models), "--method", "none", "clp", *CLP, *SMALL, "--write", "report", "--out", str(out)]
    command = [
        sys.executable,
        "-c",
        "import sys; from rnp_jax.cli import main; sys.exit(main(sys.argv[1:]))",
        *arguments,
    ]
    for kill in range(6):
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(3 + 2.5 * kill)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert main(arguments) == 0
    want, got = rows_of(swept[0]), rows_of(out)
    assert {key: comparable(row) for key, row in got.items()} == {key: comparable(want[key]) for key in got}
    assert len(got) == 10

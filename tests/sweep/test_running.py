"""Planning, running in this process, and the tables that are written whatever became of the items."""

import os
import shutil
import socket
from dataclasses import replace

import numpy as np
import pytest

from rnp_jax.atomic import _name_draft
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, write_yaml
from rnp_jax.data import load
from rnp_jax.defenses import HolderPruneConfig, ThresholdConfig
from rnp_jax.errors import ConfigError, DataError, SweepError
from rnp_jax.pipeline.options import schema_for
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report.sweep_row import RUN_FIELDS, SweepRow
from rnp_jax.report.sweep_table import read_rows
from rnp_jax.sweep import running
from rnp_jax.sweep.items import read_plan
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.manifest import Entry
from rnp_jax.sweep.options import OPTIONS, SweepOptions
from rnp_jax.sweep.plan import plan_items
from rnp_jax.sweep.running import compact, open_folder, run_here
from rnp_jax.sweep.worker import failed_row
from tests.runs import CHECKPOINT, copy_checkpoint

METHODS = ("none", "holder", "clp")
ASKED = schema_for(SweepOptions, METHODS)(
    method=METHODS,
    images=DataOptions(test_images=60),
    defense=DefenseSetOptions(size=40, holdout=0.5),
    compute=ComputeOptions(batch_size=20),
    holder=HolderPruneConfig(threshold=ThresholdConfig("number", number=2)),
)


@pytest.fixture(scope="module")
def victim(small_victim, tmp_path_factory):
    """A checkpoint with its card, and beside it a page that is none."""
    folder = tmp_path_factory.mktemp("victim")
    for file in small_victim.parent.glob(f"{small_victim.stem}.*"):
        shutil.copy(file, folder)
    (folder / "page.pt").write_text("<html>not found</html>")
    return folder / small_victim.name


@pytest.fixture(scope="module")
def finished(victim, tmp_path_factory):
    """A sweep of the two files in this process, and what it returned."""
    out = tmp_path_factory.mktemp("running") / "out"
    paths = [str(victim), str(victim), str(victim.with_name("page.pt"))]
    with pytest.raises(SweepError, match=r"3 of 6 items cannot be used, for example .*page\.pt: .*HTML"):
        run_here(paths, ASKED, out, RunLog(quiet=True))
    return out, ordered(out), paths


def ordered(out):
    """The sweep's rows in the order of its plan."""
    rows = {row.key: row for row in read_rows(out / "rows.jsonl")}
    return [rows[item.key] for item in read_plan(out)]


def test_every_file_and_method_has_a_row_and_one_that_is_given_twice_has_one(finished):
    out, rows, (victim, _, page) = finished
    assert [(row.checkpoint, row.method, row.status) for row in rows] == [
        (path, method, status) for path, status in ((victim, "ok"), (page, "rejected")) for method in METHODS
    ]
    assert len(read_rows(out / "rows.jsonl")) == 6
    assert "<h2>Rejected</h2>" in (out / "leaderboard.html").read_text()
    assert (out / "leaderboard.md").is_file()


def test_rows_that_are_there_are_not_made_again_and_a_lost_one_is(finished, tmp_path, capsys):
    out, rows, paths = finished
    shutil.copytree(out, tmp_path / "out")
    lost = tmp_path / "out" / "rows" / f"{rows[2].key}.json"
    lost.unlink()
    times = {path: path.stat().st_mtime_ns for path in lost.parent.iterdir()}
    with pytest.raises(SweepError, match="3 of 6 items cannot be used"):
        run_here(paths, ASKED, tmp_path / "out", RunLog())
    again = ordered(tmp_path / "out")
    assert "6 items, 5 of them already done" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert lost.exists()
    for new, old in zip(again, rows, strict=True):
        assert new.model_dump(exclude={*RUN_FIELDS}) == old.model_dump(exclude={*RUN_FIELDS})


def test_what_only_the_caller_knows_is_in_the_tables_and_not_in_the_ledger(finished, tmp_path):
    out, rows, paths = finished
    shutil.copytree(out, tmp_path / "out")

    def finish(row: SweepRow) -> SweepRow:
        return row.model_copy(update={"note": f"told of {row.method}"})

    told = run_here(paths[:2], ASKED, tmp_path / "out", RunLog(quiet=True), finish)
    assert {row.note for row in told} == {f"told of {method}" for method in METHODS}
    assert {row.key: row for row in read_rows(tmp_path / "out" / "rows.jsonl")} == {row.key: row for row in told}
    assert Ledger(tmp_path / "out").row(rows[0].key) == rows[0]


def test_a_method_that_fails_leaves_the_others_their_rows(victim, tmp_path):
    many = HolderPruneConfig(threshold=ThresholdConfig("number", number=19))  # of 20 and 16 units
    with pytest.raises(SweepError, match=r"1 of 3 items failed; see .*leaderboard\.html for the reasons"):
        run_here([str(victim)], replace(ASKED, holder=many), tmp_path, RunLog(quiet=True))
    rows = {row.method: row for row in read_rows(tmp_path / "rows.jsonl")}
    assert {method: row.status for method, row in rows.items()} == {"none": "ok", "holder": "failed", "clp": "ok"}
    assert (rows["holder"].acc, rows["holder"].pruned, rows["holder"].der) == (None, None, None)
    assert "19" in rows["holder"].reason
    assert rows["clp"].asr is not None


def test_progress_is_told_while_items_run(victim, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rnp_jax.sweep.progress._LINE_EVERY", 0.0)
    run_here([str(victim)], replace(ASKED, method=("none", "clp")), tmp_path, RunLog())
    told = [line for line in capsys.readouterr().err.splitlines() if " done, " in line]
    assert [line.split(" done")[0] for line in told if not line.startswith("0 of")] == ["1 of 2", "2 of 2"]


def test_a_plan_without_images_to_choose_by_is_refused_before_any_file_is_read():
    options = schema_for(SweepOptions, ("rnp",))(defense=DefenseSetOptions(size=40, holdout=0))
    with pytest.raises(ConfigError, match=r"--defense\.holdout 0"):
        plan_items([Entry(path="nowhere.pt")], options, "row", RunLog(quiet=True))


def test_items_without_a_row_are_skipped_in_the_tables(victim, tmp_path):
    ledger = Ledger(tmp_path)
    items = plan_items([Entry(path=str(victim))], ASKED, "row", RunLog(quiet=True)).items
    ledger.set_aside(items[1].key, "no data")
    rows = compact(ledger, items, ASKED)
    assert [row.status for row in rows] == ["skipped"] * 3
    assert [row.reason for row in rows] == ["not reached yet", "no data", "not reached yet"]


def test_without_its_data_no_item_has_a_row_and_the_same_command_goes_on(victim, tmp_path):
    """Other labels under the same path are other data, and other rows."""
    digits, data, out = load("digits", split="test", image_size=8), tmp_path / "data.npz", tmp_path / "out"
    options = replace(ASKED, method=("none",), images=replace(ASKED.images, data=str(data)))
    told = rf"1 of 1 items could not be run, for example .*small\.pt: there is no data set, file or folder '{data}'"
    with pytest.raises(SweepError, match=told):
        run_here([str(victim)], options, out, RunLog(quiet=True))
    assert not [*(out / "rows").glob("*.json")]
    assert read_rows(out / "rows.jsonl")[0].status == "skipped"
    found = []
    for shift in (0, 1, 0):
        np.savez(data, images=digits.images, labels=(digits.labels + shift) % 10)
        (row,) = run_here([str(victim)], options, out, RunLog(quiet=True))
        found.append((row.key, row.acc.value))
    assert found[0] == found[2] != found[1]
    assert found[0][1] != found[1][1]
    assert len([*(out / "rows").iterdir()]) == 2


def test_an_extractor_that_a_card_names_and_nobody_has_is_no_fault_of_the_head(head, tmp_path):
    for suffix in (".pt", ".card.json", ".trigger.npz"):
        shutil.copy(head.with_suffix(suffix), tmp_path / f"head{suffix}")
    options = replace(ASKED, method=("none",))

    def bare():
        shutil.copy(CHECKPOINT, tmp_path)

    for put, told in ((list, "does not exist; .*was trained on"), (bare, "digits_badnets.pt has no card")):
        put()
        with pytest.raises(SweepError, match=rf"1 of 1 items could not be run, .*{told}"):
            run_here([str(tmp_path / "head.pt")], options, tmp_path / "out", RunLog(quiet=True))
    copy_checkpoint(tmp_path)
    (row,) = run_here([str(tmp_path / "head.pt")], options, tmp_path / "out", RunLog(quiet=True))
    assert row.status == "ok"


def test_a_card_that_is_mended_makes_its_checkpoint_usable(victim, tmp_path):
    path = tmp_path / victim.name
    shutil.copy(victim, path)
    card = path.with_suffix(".card.json")
    card.write_text("{}")
    options = replace(ASKED, method=("none",))
    with pytest.raises(SweepError, match="1 of 1 items cannot be used"):
        run_here([str(path)], options, tmp_path / "out", RunLog(quiet=True))
    shutil.copy(victim.with_suffix(".card.json"), card)
    (row,) = run_here([str(path)], options, tmp_path / "out", RunLog(quiet=True))
    assert row.status == "ok"


def test_a_folder_that_another_run_writes_to_is_shared_with_the_same_run_alone(victim, tmp_path, monkeypatch):
    options, seen = replace(ASKED, method=("none", "clp")), []
    wait = running.write_plan

    def meanwhile(out, items):
        wait(out, items)
        if not seen:  # in the first run's hands
            seen.append("same")
            seen.append(run_here([str(victim)], replace(options, out="named otherwise"), out, RunLog(quiet=True)))
            for other in (replace(options, method=("none",)), replace(options, compute=ComputeOptions(batch_size=7))):
                with pytest.raises(DataError, match=rf"is being written by process {os.getpid()} on .*\(sweep, since"):
                    run_here([str(victim)], other, out, RunLog(quiet=True))
            for draft in ("rows", "members"):
                _name_draft(out / draft / "file").write_text("dead")
            (out / "members" / f"{socket.gethostname()}:1:dead").touch()

    monkeypatch.setattr(running, "write_plan", meanwhile)
    rows = run_here([str(victim)], options, tmp_path / "out", RunLog(quiet=True))
    assert rows == seen[1]
    assert not (tmp_path / "out" / ".lock").exists()
    assert not [*(tmp_path / "out").rglob("*.part")], "killed workers left them"
    run_here([str(victim)], options, tmp_path / "out", RunLog(quiet=True))
    assert not [*(tmp_path / "out" / "members").iterdir()], "killed runs left it"


def test_a_folder_is_new_or_of_the_same_command(tmp_path):
    out = tmp_path / "out"
    assert open_folder(out, SweepOptions) == out
    write_yaml(out / OPTIONS, ASKED)
    assert open_folder(out, SweepOptions) == out
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a folder"):
        open_folder(tmp_path / "file", SweepOptions)
    with pytest.raises(DataError, match="contains files that do not belong to a sweep"):
        open_folder(tmp_path, SweepOptions)
    (out / OPTIONS).write_text("checkpoint: a.pt\nmethod: clp\n")
    with pytest.raises(ConfigError, match="unknown option checkpoint"):
        open_folder(out, SweepOptions)


def test_rows_that_failed_are_made_anew_where_that_is_asked_for(victim, tmp_path):
    """By default they stay, whatever became of the machine that was at fault."""
    paths = [Entry(path=str(victim)), Entry(path=str(victim.with_name("page.pt")))]
    options, made, log = replace(ASKED, method=("none",)), [], RunLog(quiet=True)

    def engine(ledger, items, watch):
        for item in items:
            if not ledger.is_done(item.key):
                made.append(item.path)
                ledger.commit(failed_row(item, "failed", "the machine broke down"))

    for retry, again in [((), 1), ((), 0), (("rejected",), 0), (("failed",), 1), (("failed", "rejected"), 1)]:
        made.clear()
        with pytest.raises(SweepError, match="1 of 2 items failed"):
            running.run_items(paths, options, tmp_path, "row", log, engine, retry=retry)
        assert made == [str(victim)] * again
        assert sorted(row.status for row in read_rows(tmp_path / "rows.jsonl")) == ["failed", "rejected"]


def test_a_child_that_does_not_start_rejects_no_file(victim, tmp_path, monkeypatch):
    def refuse(*_):
        raise SweepError("the process that reads checkpoints does not start")

    monkeypatch.setattr("rnp_jax.sweep.parsing._start_child", refuse)
    with pytest.raises(SweepError, match="does not start"):
        run_here([str(victim)], ASKED, tmp_path / "out", RunLog(quiet=True))
    assert not (tmp_path / "out").exists()

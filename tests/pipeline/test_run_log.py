import io
import json
import re
import time
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from rnp_jax.errors import ResultError
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.log_style import LogStyle, log_in
from rnp_jax.pipeline import pace
from rnp_jax.pipeline.log_lines import EVENTS
from rnp_jax.pipeline.run_log import RunLog


def test_lines_wait_until_there_is_a_file(tmp_path, capsys):
    log = RunLog()
    log.say("first [bold]")
    assert list(tmp_path.iterdir()) == []
    log.write_to(tmp_path / "run.log")
    log.say("second")
    assert capsys.readouterr().err == "first [bold]\nsecond\n"
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ ", "", line) for line in lines] == ["first [bold]", "second"]


def test_a_second_run_adds_to_the_file(tmp_path):
    for text in ("one", "two"):
        log = RunLog()
        log.say(text)
        log.write_to(tmp_path / "run.log")
    assert [line.split("Z ")[1] for line in (tmp_path / "run.log").read_text().splitlines()] == ["one", "two"]


def test_a_link_that_somebody_put_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run.log").symlink_to("mine")
    with pytest.raises(ResultError, match=r"run\.log is a link or no regular file, and would be written to; remove it"):
        RunLog(quiet=True).write_to(tmp_path / "run.log")
    assert (tmp_path / "mine").read_text() == "precious"


def test_stages_add_up():
    log = RunLog()
    for _ in range(2):
        with log.stage("sleep"):
            time.sleep(0.01)
    assert list(log.timing) == ["sleep"]
    assert 0.02 <= log.timing["sleep"] < 10


def test_epochs_of_several_phases(tmp_path, capsys):
    log = RunLog()
    log.write_to(tmp_path / "run.log")
    with log.epochs() as bars:
        for phase in ("unlearn", "recover"):
            for epoch in (1, 2):
                bars(phase, epoch, 2, {"loss": 0.5 / epoch, "accuracy": 0.25})
    expected = [
        f"{phase} epoch {epoch}/2  loss {loss}  accuracy 0.250"
        for phase in ("unlearn", "recover")
        for epoch, loss in ((1, "0.5"), (2, "0.25"))
    ]
    assert capsys.readouterr().err.splitlines() == expected
    assert [line.split("Z ")[1] for line in (tmp_path / "run.log").read_text().splitlines()] == expected


def test_a_quiet_log_is_silent_on_the_screen_and_whole_in_the_file(tmp_path, capsys):
    log = RunLog(quiet=True)
    log.say("before the file")
    log.write_to(tmp_path / "run.log")
    log.say("after it")
    with log.epochs() as bars:
        bars("unlearn", 1, 1, {"loss": 1.0, "accuracy": 0.5})
    with log.bar("items", 1) as advance:
        advance()
    assert capsys.readouterr() == ("", "")
    said = [line.split("Z ")[1] for line in (tmp_path / "run.log").read_text().splitlines()]
    assert said == ["before the file", "after it", "unlearn epoch 1/1  loss 1  accuracy 0.500"]


def test_a_bar_counts_its_steps_on_a_terminal():
    log = RunLog()
    screen = io.StringIO()
    log.console = Console(file=screen, force_terminal=True, width=80)
    with log.bar("items", 3) as advance:
        for _ in range(2):
            advance()
    assert re.search(r"items .*2/3", screen.getvalue())
    assert "3/3" not in screen.getvalue()


def test_a_bar_is_nothing_where_there_is_no_terminal(capsys):
    with RunLog().bar("items", 2) as advance:
        advance()
    assert capsys.readouterr() == ("", "")


def test_what_is_said_steers_no_terminal_and_obeys_no_markup(tmp_path, capsys):
    log = RunLog()
    log.write_to(tmp_path / "run.log")
    log.say("\x1b[2J[/bold]\udcff\u202e")
    with log.epochs() as bars:
        bars("[/x]\x1b", 1, 1, {"loss\x1b": 1.0})
    shown = capsys.readouterr().err
    assert shown.splitlines() == ["\\x1b[2J[/bold]\\udcff\\u202e", "[/x]\\x1b epoch 1/1  loss\\x1b 1"]
    assert [line.split("Z ")[1] for line in (tmp_path / "run.log").read_text().splitlines()] == shown.splitlines()


def lines_of(text: str) -> list[dict]:
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
        assert set(line) == {"event", *EVENTS[line["event"]]}
    return found


METRICS = Metrics(acc=Proportion.of(3, 4), der=float("nan"))


def tell_all(log: RunLog) -> None:
    """Whatever a log can tell."""
    log.say("begun")
    log.warn("mind this")
    with log.stage("load"):
        pass
    with log.epochs() as bars:
        bars("unlearn", 1, 2, {"loss": float("inf"), "accuracy": 0.25})
    with log.bar("read", 1) as advance:
        advance()
    log.show({"before": METRICS})
    log.conclude("done\nreport  page.html", verdict={"level": "ok"}, report=Path("page.html"))


def test_json_lines_have_the_fields_of_their_events(tmp_path, capsys):
    with log_in(LogStyle(json=True)):
        log = RunLog()
    log.write_to(tmp_path / "run.log")
    tell_all(log)
    shown, error = capsys.readouterr()
    assert error == ""
    note, warning, stage, epoch, progress, figures, result = lines_of(shown)
    assert note == {"event": "note", "text": "begun"}
    assert warning == {"event": "warning", "text": "mind this"}
    assert (stage["stage"], stage["seconds"] >= 0) == ("load", True)
    assert epoch.pop("seconds_left") >= 0
    told = {"loss": None, "accuracy": 0.25}
    assert epoch == {"event": "epoch", "phase": "unlearn", "epoch": 1, "epochs": 2, "figures": told}
    assert progress == {"event": "progress", "name": "read", "done": 1, "total": 1, "seconds_left": 0.0}
    assert figures["figures"] == {
        "before": {"acc": 0.75, "acc_without_target": None, "asr": None, "ra": None, "der": None}
    }
    told = {"text": "done\nreport  page.html", "verdict": {"level": "ok"}, "paths": {"report": "page.html"}}
    assert result == {"event": "result", **told}
    assert "begun" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize("json_lines", [False, True])
def test_quiet_tells_warnings_and_what_came_of_it(json_lines, tmp_path, capsys):
    with log_in(LogStyle(quiet=True, json=json_lines)):
        log = RunLog()
    log.write_to(tmp_path / "run.log")
    tell_all(log)
    shown, error = capsys.readouterr()
    if json_lines:
        assert [line["event"] for line in lines_of(shown)] == ["warning", "result"]
        assert error == ""
    else:
        assert (shown, error) == ("", "WARNING: mind this\ndone\nreport  page.html\n")
    assert "unlearn epoch 1/2" in (tmp_path / "run.log").read_text()


def test_a_log_that_is_silent_tells_no_json_either(capsys):
    with log_in(LogStyle(json=True)):
        tell_all(RunLog(quiet=True))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_figures_that_were_asked_for_are_on_standard_output(quiet, capsys):
    with log_in(LogStyle(quiet=quiet)):
        RunLog().show({"model": METRICS}, wanted=True)
    shown, error = capsys.readouterr()
    assert "75.00%" in shown
    assert error == ""


def test_the_time_left_is_judged_by_the_epochs_of_this_run(capsys, monkeypatch):
    """Of a run that goes on after epoch 90, and of a phase that begins again."""
    now = 1000.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    with RunLog().epochs(90) as bars:
        for phase, epoch in (("train", 91), ("train", 92), ("head", 1), ("head", 2), ("head", 1), ("head", 2)):
            now += 10.0 if epoch == 91 else 4.0
            bars(phase, epoch, 100, {})
    told = [line.partition("  ")[2].strip() for line in capsys.readouterr().err.splitlines()]
    seven = ["at most 7 min left", "7 min left"]
    assert told == ["at most 90 s left", "32 s left", *seven, *seven]

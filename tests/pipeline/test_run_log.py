import io
import re
import time

import pytest
from rich.console import Console

from rnp_jax.errors import ResultError
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

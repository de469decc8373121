import json
import re

from rich.console import Console

from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.sweep import progress as sweep_progress
from rnp_jax.sweep.items import Item
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.progress import SweepProgress
from rnp_jax.sweep.worker import failed_row
from tests.sweep.light import expected

GROUP = json.dumps({"name": "resnet18", "width": 8, "num_classes": 10, "data": "digits"})


def shown(progress):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(progress.table())
    return captured.get()


def test_done_and_failed_by_group(tmp_path):
    ledger = Ledger(tmp_path)
    items = [Item(f"{i}" * 64, f"{i}.pt", "0" * 64, "rnp", GROUP if i < 3 else "unreadable") for i in range(4)]
    ledger.commit(expected(items[0]))
    with SweepProgress(ledger, items, RunLog(quiet=True)) as progress:
        assert "1 of 3" in shown(progress)
        ledger.commit(failed_row(items[1], "failed", "x"))
        ledger.commit(failed_row(items[3], "rejected", "x"))
    text = shown(progress)
    assert "resnet18 width 8, 10 classes, digits" in text
    assert "2 of 3" in text
    assert "1 of 1" in text
    line = next(line for line in text.splitlines() if "resnet18" in line)
    assert line.split("│")[3].strip() == "1"


def test_without_a_terminal_a_line_now_and_then(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep_progress, "_LINE_EVERY", 0.0)
    items = [Item("0" * 64, "a.pt", "0" * 64, "rnp", GROUP)]
    with SweepProgress(Ledger(tmp_path), items, RunLog()) as progress:
        progress.watch()
        Ledger(tmp_path).commit(expected(items[0]))
        progress.watch()
    assert "0 of 1 done" in (error := capsys.readouterr().err)
    assert "1 of 1 done" in error


def test_markup_and_controls_in_a_card_s_text_are_text(tmp_path, capsys):
    log = RunLog()
    log.console.width = 120
    group = json.dumps({"name": "resnet18", "width": 8, "num_classes": 10, "data": "[/bold]\x1b[2J"})
    with SweepProgress(Ledger(tmp_path), [Item("0" * 64, "a.pt", "0" * 64, "rnp", group)], log) as progress:
        log.console.print(progress.table())
    assert r"10 classes, [/bold]\x1b[2J" in capsys.readouterr().err


def test_the_rate_and_the_time_left_are_of_what_this_run_does(tmp_path, monkeypatch, capsys):
    now, ledger = 1000.0, Ledger(tmp_path)
    monkeypatch.setattr(sweep_progress.time, "monotonic", lambda: now)
    items = [Item(f"{i}" * 64, f"{i}.pt", "0" * 64, "rnp", GROUP) for i in range(4)]
    for item in items[:2]:
        ledger.commit(expected(item))
    with SweepProgress(ledger, items, RunLog()) as progress:
        ledger.commit(expected(items[2]))
        now += 10.0
        progress.watch()
        assert re.search(r"│ 3 of 4 +│ 0 +│ 6 +│ 10 s +│", shown(progress))
    assert "3 of 4 done (2 of them by an earlier run), 6 per minute, 10 s left\n" in capsys.readouterr().err

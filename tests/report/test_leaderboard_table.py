import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.report.leaderboard_table import COLUMNS, EVIDENCE, NUMBERS, PAGE, link, safe_href, show_items
from rnp_jax.report.schema import Stage
from rnp_jax.report.sweep_row import SweepRow
from tests.report.examples import share


def make_row(**fields) -> SweepRow:
    known = {
        "checkpoint": "a.pt",
        "attack": "sig",
        "poison_rate": 0.1,
        "seed": 0,
        "method": "rnp",
        "key": "0" * 64,
        "status": "ok",
    }
    return SweepRow.model_validate(known | fields)


def data_of(rows: list[SweepRow]) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', show_items(rows), re.DOTALL)
    return json.loads(text)


def test_a_cell_has_what_is_shown_sorted_and_linked():
    row = make_row(
        acc=share(1880, 2000),
        acc_before=share(1920, 2000),
        asr=share(0, 50),
        der=0.957,
        pruned=12,
        units=192,
        timing=[Stage(stage="a", seconds=90), Stage(stage="b", seconds=155)],
        architecture="resnet18",
        report="items/k/report.html",
    )
    (cells,) = data_of([row])["rows"]
    assert dict(zip(COLUMNS, cells, strict=True)) == {
        "Checkpoint": ["a.pt", None, "resnet18", "items/k/report.html"],
        "Attack": ["sig", None, "", None],
        "Poisoned": ["10 %", 0.1, "", None],
        "Method": ["RNP", None, "seed 0", None],
        "Status": ["ok", None, "", None],
        "ACC": ["94.00%", 0.94, "was 96.00%", None],
        "ASR": ["0.0%", 0.0, "", None],
        "RA": ["unknown", None, "", None],
        "DER": ["0.957", 0.957, "", None],
        "Pruned": ["12", 12, "of 192", None],
        "Time": ["4 min 05 s", 245.0, "", None],
    }


def test_the_status_tells_of_a_doubt():
    (cells,) = data_of([make_row(doubt="at chance")])["rows"]
    assert cells[COLUMNS.index("Status")] == ["ok", None, "in doubt: at chance", None]


def test_evidence_adds_its_columns_to_every_row():
    found = {"evidence": "traces", "visible_before": True, "smallest_after": 12.5, "ordinary_after": None}
    rows = [make_row(**found), make_row(key="1" * 64)]
    data = data_of(rows)
    names = (*COLUMNS, *EVIDENCE)
    assert data["numbers"] == [names.index(name) for name in NUMBERS]
    first, second = data["rows"]
    last = [["traces", None, "", None], ["12.5", 12.5, "ordinary not reached", None]]
    assert first[len(COLUMNS) :] == last
    assert second[len(COLUMNS) :] == [["", None, "", None]] * 2
    markup = show_items(rows)
    assert all(f'<th scope="col">{name}</th>' in markup for name in names)
    assert f'<select data-column="{names.index("Evidence")}">' in markup
    assert "Evidence" not in show_items(rows[1:])


def test_items_without_a_result_show_their_reason_and_no_figures():
    (cells,) = data_of([make_row(status="failed", reason="out of memory", poison_rate=None)])["rows"]
    assert cells[COLUMNS.index("Status")] == ["failed", None, "out of memory", None]
    assert all(cell == ["", None, "", None] for cell in cells[COLUMNS.index("ACC") :])


def test_the_first_page_is_markup_and_every_row_is_data():
    rows = [make_row(checkpoint=f"{i}.pt") for i in range(PAGE + 1)]
    page = show_items(rows)
    assert page.count("<tr>") == PAGE + 1  # with the head
    assert f"The first {PAGE} of {PAGE + 1} items" in page
    assert len(data_of(rows)["rows"]) == PAGE + 1
    assert "The first" not in show_items(rows[:PAGE])


@pytest.mark.parametrize(
    ("report", "href"),
    [
        ("items/k/report.html", "items/k/report.html"),
        ("./items/k/report.html", "items/k/report.html"),
        ("items/a b?c#d.html", "items/a%20b%3Fc%23d.html"),
        ("javascript:alert(1)", "javascript%3Aalert%281%29"),
        ("a%2e%2e/b", "a%252e%252e/b"),
        ('a"onclick="b', "a%22onclick%3D%22b"),
        ("/etc/passwd", None),
        ("//host/x", None),
        ("../x", None),
        ("a/../../x", None),
        ("a\\..\\x", None),
        ("a\nb", None),
        ("a\u202eb", None),
        ("", None),
        (None, None),
    ],
)
def test_only_relative_paths_inside_the_folder_are_linked(report, href):
    assert safe_href(report) == href
    assert ("<a " in link(make_row(report=report))) == (href is not None)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(text=st.text(max_size=30))
def test_any_text_is_data_and_ends_no_element(text: str):
    row = make_row(checkpoint=text + "</script><!--", reason=text, status="rejected", attack=text, report=text)
    page = show_items([row])
    assert page.count("</script>") == 1
    assert "<!--" not in page
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00]", page)
    (cells,) = data_of([row])["rows"]
    if text.isascii() and text.isprintable():
        assert cells[0][0] == row.checkpoint

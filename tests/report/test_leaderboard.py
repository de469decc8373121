import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from rnp_jax.errors import ResultError
from rnp_jax.report.leaderboard import render_leaderboard, write_leaderboard
from rnp_jax.report.schema import Stage, Versions
from rnp_jax.report.sweep_row import STATUSES, SweepRow
from rnp_jax.report.wording import seconds
from tests.report.browsing import assert_sound, show
from tests.report.examples import share

HOSTILE = "</title></style></script><script>document.title='owned'</script><img src=x onerror=1>&'\"\u202e"
TEXTS = ("checkpoint", "attack", "method", "reason", "architecture", "device")
ABOUT = {
    "config": {"data": {"name": "cifar10"}},
    "versions": Versions(rnp_jax="0.1.0", python="3.11", jax="0.10", jaxlib="0.10", flax="0.12", numpy="2.4"),
    "created": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    "title": "runs/a",
}


def make_row(i: int, **fields) -> SweepRow:
    """Every tenth is rejected, another tenth failed; the i-th took i seconds."""
    known = {
        "checkpoint": f"models/cifar10/{('badnets', 'sig')[i % 2]}/resnet18_width64_seed{i}.pt",
        "attack": ("badnets", "sig")[i % 2],
        "poison_rate": 0.1,
        "seed": 0,
        "method": ("rnp", "clp", "holder")[i % 3],
        "key": f"{i:064x}",
        "status": "ok",
        "report": f"items/{i}/report.html",
        "acc": share(8000 + 7 * i % 1900, 10000),
        "asr": share(31 * i % 9000, 9000),
        "ra": share(4000 + i % 3000, 9000),
        "acc_before": share(9400, 10000),
        "asr_before": share(9000, 9000),
        "der": 0.5 + (i % 400) / 1000,
        "pruned": i % 60,
        "units": 4800,
        "timing": [Stage(stage="unlearn", seconds=i)],
        "device": "cpu: cpu",
    }
    if i % 10 in (3, 7):
        lost = {"status": "rejected" if i % 10 == 3 else "failed", "reason": f"reason {i}", "timing": ()}
        known |= lost | dict.fromkeys(("acc", "asr", "ra", "acc_before", "asr_before", "der", "pruned", "report"))
    return SweepRow.model_validate(known | fields)


def make_rows(n: int) -> list[SweepRow]:
    return [make_row(i) for i in range(n)]


def words_of(page: str, heading: str) -> str:
    return re.sub("<[^>]*>", " ", page.split(f"<h2>{heading}</h2>")[1].split("</section>")[0])


# The page as text.


def test_results_come_first_and_counts_add_up():
    page = render_leaderboard(make_rows(60), {"outcomes": b""}, **ABOUT)
    headings = re.findall(r"<h[12]>([^<]*)</h[12]>", page)
    assert headings == [
        "No method removes a backdoor and keeps ACC: RNP 0 of 16, CLP 0 of 16, H\xf6lder 0 of 16",
        "Attacks and methods", "Figures", "Items",
        "Status of the items", "Failed", "Rejected", "Slowest items", "How each method works", "Settings and versions",
    ]  # fmt: skip
    failed = "6 of 60 items failed, so the sweep&#x27;s exit code is not zero."
    head, rest = page.split("</header>")
    assert failed in head
    assert failed in rest
    assert '<header class="bad">' in head
    assert "<span>runs/a</span>" in head
    counts = dict(re.findall(r"(ok|rejected|failed|skipped|all) +(\d+)", words_of(page, "Status of the items")))
    assert counts == {"ok": "48", "rejected": "6", "failed": "6", "skipped": "0", "all": "60"}


@pytest.mark.parametrize(
    ("statuses", "level"),
    [(["ok"], "unknown"), (["ok", "skipped"], "warning"), (["rejected", "failed"], "bad"), ([], "unknown")],
)
def test_the_heads_colour_follows_the_statuses_and_is_never_green(statuses, level):
    rows = [make_row(i, status=status) for i, status in enumerate(statuses)]
    head = render_leaderboard(rows, {}, **ABOUT).split("</header>")[0]
    assert f'<header class="{level}">' in head
    lost = len({"rejected", "skipped"} & set(statuses))
    assert ("could not be run" in head) == bool(lost)
    assert ('class="badge"' in head) == (level != "unknown")


def test_an_item_in_doubt_is_told_of_in_the_head():
    page = render_leaderboard([make_row(0), make_row(1, doubt="at chance")], {}, **ABOUT)
    head = page.split("</header>")[0]
    assert '<header class="warning">' in head
    assert "1 item in doubt: the accuracy is hardly better than guessing" in head


def test_the_slowest_and_the_lost_are_listed_with_links_and_reasons():
    page = render_leaderboard(make_rows(60), {}, **ABOUT)
    slowest = page.split("<h2>Slowest items</h2>")[1].split("</section>")[0]
    order = [59, 58, 56, 55, 54, 52, 51, 50, 49, 48]
    assert re.findall(r'href="items/(\d+)/report.html"', slowest) == [f"{i}" for i in order]
    assert "unlearn 59 s" in slowest
    assert re.findall(r"reason \d+", words_of(page, "Failed")) == [f"reason {i}" for i in (17, 27, 37, 47, 57, 7)]
    many = [make_row(i, status="skipped", reason="the disk was full") for i in range(503)]
    assert words_of(render_leaderboard(many, {}, **ABOUT), "Skipped").count("the disk was full") == 500
    assert "Show 500 of 503" in words_of(render_leaderboard(many, {}, **ABOUT), "Skipped")


def test_page_asks_nothing_of_a_network_and_every_string_is_escaped():
    hostile = dict.fromkeys(TEXTS, HOSTILE)
    hostile |= {"note": HOSTILE, "covariates": {HOSTILE: 1.0}, "timing": [Stage(stage=HOSTILE, seconds=1)]}
    rows = [make_row(i, **hostile, status=status) for i, status in enumerate(STATUSES)]
    svg = {"outcomes": b"<svg/>", "rates_1_x": b"<svg/>"}
    page = render_leaderboard(rows, svg, **ABOUT | {"title": HOSTILE, "config": {HOSTILE: HOSTILE}})
    assert page.count("&lt;script&gt;document.title=&#x27;owned&#x27;") > 20
    assert page.count("<script") == page.count("</script>") == 2
    assert page.count("<title>") == page.count("</title>") == page.count("</style>") == 1
    assert "\u202e" not in page
    tags = re.sub(r"<script.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)
    addresses = re.findall(r"""(?:src|href|action|srcset)\s*=\s*["']([^"']*)""", tags)
    assert {re.sub(";base64,.*", "", each) for each in addresses} == {
        "data:image/svg+xml", *(f"items/{i}/report.html" for i in range(4) if i != 3),
    }  # fmt: skip
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    parts = dict(part.strip().split(" ", 1) for part in policy.replace("&#x27;", "'").split(";"))
    assert parts.pop("style-src").startswith("'sha256-")
    assert parts.pop("script-src").startswith("'sha256-")
    assert parts == {
        "default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'",
        "require-trusted-types-for": "'script'", "trusted-types": "'none'",
    }  # fmt: skip


def test_the_page_does_not_depend_on_the_order_of_rows():
    rows = make_rows(30)
    assert render_leaderboard(rows, {}, **ABOUT) == render_leaderboard(rows[::-1], {}, **ABOUT)


def test_figures_are_beside_the_page_and_those_of_before_are_gone(tmp_path: Path):
    rows = make_rows(60)
    rates = [make_row(i, attack="sig", poison_rate=(0.1, 0.2)[i % 2]) for i in range(60)]
    page = write_leaderboard(tmp_path, rates, **ABOUT).read_text("utf-8")
    names = {"outcomes", "items", "rates_1_sig", "seconds"}
    files = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == files
    assert page.count("<img ") == 4
    assert write_leaderboard(tmp_path, rows, **ABOUT).read_text("utf-8").count("<img ") == 3
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == names - {"rates_1_sig"}
    write_leaderboard(tmp_path, [], **ABOUT)
    assert not list((tmp_path / "figures").iterdir())


def test_notes_are_listed_with_their_items():
    rows = [make_row(0), make_row(1, note="Nothing was pruned."), make_row(2)]
    page = render_leaderboard(rows, {}, **ABOUT)
    assert re.findall(r"seed\d+|Nothing was pruned\.", words_of(page, "Notes")) == ["seed1", "Nothing was pruned."]
    assert "<h2>Notes</h2>" not in render_leaderboard(rows[:1], {}, **ABOUT)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        write_leaderboard(tmp_path / "file", [], **ABOUT)


# The page in a browser.


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """5,000 items."""
    return write_leaderboard(tmp_path_factory.mktemp("large"), make_rows(5000), **ABOUT)


def column(browser, i: int) -> list[str]:
    script = "return [...document.querySelectorAll('#items tbody tr')].map(row => row.cells[%d].firstChild.textContent)"
    return browser.execute_script(script % i)


def press(browser, heading: str) -> None:
    path = f"//table[@id='items']/thead//button[.='{heading}']"
    browser.find_element(By.XPATH, path).send_keys(Keys.ENTER)


def sorts(browser) -> dict[str, str]:
    heads = browser.find_elements(By.CSS_SELECTOR, "#items thead [aria-sort]")
    return {head.text: head.get_attribute("aria-sort") for head in heads}


def count(browser) -> str:
    return browser.find_element(By.ID, "count").text


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 5000])
def test_page_is_sound_at_both_widths(browser, large: Path, tmp_path: Path, n: int):
    page = large if n == 5000 else write_leaderboard(tmp_path, make_rows(n), **ABOUT)
    for width in (400, 1200):
        show(browser, page, width)
        assert_sound(browser, width)
    assert browser.title == "runs/a \N{MIDDLE DOT} rnp_jax report"
    assert count(browser) == ("Items 1\N{EN DASH}60 of 60" if n == 60 else "Items 1\N{EN DASH}200 of 5,000")
    assert not browser.find_elements(By.ID, "rest")


@pytest.mark.slow
def test_columns_are_sorted_with_the_keyboard_and_the_unknown_comes_last(browser, large: Path):
    show(browser, large, 1200)
    rows = make_rows(5000)
    known = sorted(row.seconds for row in rows if row.seconds is not None)
    press(browser, "Time")
    assert sorts(browser) == {"Time": "ascending"}
    assert column(browser, 10)[:4] == ["0 s", "1 s", "2 s", "4 s"]
    press(browser, "Time")
    assert sorts(browser) == {"Time": "descending"}
    assert column(browser, 10)[0] == seconds(known[-1])
    browser.execute_script("for (let i = 0; i < 24; i++) document.getElementById('next').click()")
    assert not browser.find_element(By.ID, "next").is_enabled()
    assert set(column(browser, 10)) == {""}
    press(browser, "ASR")
    assert sorts(browser) == {"ASR": "ascending"}
    shown = [float(text.rstrip("%")) for text in column(browser, 6)]
    lowest = sorted(row.asr.value for row in rows if row.asr)[:200]
    assert shown == [float(f"{100 * value:.2f}") for value in lowest]
    press(browser, "Checkpoint")
    assert [re.findall(r"seed(\d+)", path)[0] for path in column(browser, 0)[:3]] == ["0", "2", "4"]


@pytest.mark.slow
def test_items_are_filtered_and_paged(browser, large: Path):
    show(browser, large, 1200)
    rows = make_rows(5000)
    Select(browser.find_element(By.CSS_SELECTOR, "select[data-column='4']")).select_by_visible_text("failed")
    assert count(browser) == "Items 1\N{EN DASH}200 of 500 (5,000 in all)"
    assert set(column(browser, 4)) == {"failed"}
    browser.find_element(By.ID, "next").click()
    browser.find_element(By.ID, "next").click()
    assert count(browser) == "Items 401\N{EN DASH}500 of 500 (5,000 in all)"
    browser.find_element(By.ID, "previous").click()
    assert count(browser).startswith("Items 201\N{EN DASH}400 ")
    Select(browser.find_element(By.CSS_SELECTOR, "select[data-column='1']")).select_by_visible_text("sig")
    Select(browser.find_element(By.CSS_SELECTOR, "select[data-column='3']")).select_by_visible_text("CLP")
    both = [row for row in rows if (row.status, row.attack, row.method) == ("failed", "sig", "clp")]
    assert count(browser) == f"Items 1\N{EN DASH}{len(both)} of {len(both)} (5,000 in all)"
    search = browser.find_element(By.ID, "search")
    search.send_keys("REASON 37")
    some = [row.reason for row in both if "37" in row.reason]
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#items td:nth-child(5) small')].map(e => e.textContent)"
    )
    assert sorted(shown) == sorted(some)
    search.send_keys(" no such item")
    assert count(browser) == "None of 5,000 items"
    assert column(browser, 0) == []


@pytest.mark.slow
def test_links_lead_to_reports_beside_the_page(browser, tmp_path: Path):
    page = write_leaderboard(tmp_path, make_rows(5), **ABOUT)
    (tmp_path / "items" / "0").mkdir(parents=True)
    (tmp_path / "items" / "0" / "report.html").write_text("<!doctype html><title>the report</title>")
    show(browser, page, 1200)
    links = browser.find_elements(By.CSS_SELECTOR, "#items a")
    assert [each.get_attribute("href") for each in links] == [
        (tmp_path / "items" / str(i) / "report.html").as_uri() for i in (0, 2, 4, 1)
    ]
    links[0].click()
    assert browser.title == "the report"


@pytest.mark.slow
def test_hostile_strings_are_shown_as_text_and_can_be_chosen(browser, tmp_path: Path):
    hostile = dict.fromkeys(TEXTS, HOSTILE)
    rows = [make_row(0), *(make_row(i, **hostile, status=status) for i, status in enumerate(STATUSES, 1))]
    page = write_leaderboard(tmp_path, rows, **ABOUT | {"title": HOSTILE})
    for width in (400, 1200):
        show(browser, page, width)
        assert_sound(browser, width)
    visible = HOSTILE.replace("\u202e", "\\u202e")
    assert browser.title.startswith("</title></style>")
    attacks = Select(browser.find_element(By.CSS_SELECTOR, "select[data-column='1']"))
    assert [each.text for each in attacks.options] == ["all", visible, "badnets"]
    attacks.select_by_index(1)
    assert column(browser, 0) == [visible] * 4
    assert count(browser) == "Items 1\N{EN DASH}4 of 4 (5 in all)"


@pytest.mark.slow
def test_page_is_whole_without_javascript(browser, large: Path):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, large, 1200)
        lines = browser.find_elements(By.CSS_SELECTOR, "#items tbody tr")
        assert len(lines) == 200
        assert not browser.find_element(By.ID, "search").is_displayed()
        rest = browser.find_element(By.ID, "rest")
        assert rest.text == "The first 200 of 5,000 items. Enable JavaScript to see the others, or open rows.csv."
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.slow
def test_markup_and_script_show_the_same_first_page(browser, large: Path):
    texts = []
    for disabled in (True, False):
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": disabled})
        show(browser, large, 1200)
        texts.append(browser.find_element(By.CSS_SELECTOR, "#items tbody").text)
    assert texts[0] == texts[1]

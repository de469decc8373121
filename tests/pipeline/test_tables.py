import io

from rich.console import Console

from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.pipeline.tables import metrics_table


def show(table) -> list[list[str]]:
    """The cells of each row, on a terminal of 80 columns."""
    page = io.StringIO()
    Console(file=page, width=80).print(table)
    rows = [line.strip("│┃ ").replace("┃", "│") for line in page.getvalue().splitlines()]
    return [[cell.strip() for cell in row.split("│")] for row in rows if "│" in row]


def test_two_models_fit_eighty_columns():
    whole = Proportion.of(1000, 1000)
    all_of_them = Proportion.of(900, 900)
    before = Metrics(acc=whole, acc_without_target=all_of_them, asr=all_of_them, ra=Proportion.of(0, 900))
    header, *rows = show(metrics_table({"before": before, "after": before}))
    assert header == ["before", "after", "images"]
    assert [row[0] for row in rows] == ["ACC", "ACC without target", "ASR", "RA"]
    low, _ = whole.interval
    assert rows[0] == ["ACC", *[f"100.00% ({100 * low:.1f}–100.0)"] * 2, "1000"]


def test_what_is_not_known_is_left_out():
    acc = Proportion.of(1, 2)
    rows = show(metrics_table({"[bold]a": Metrics(acc=acc), "b": Metrics(acc=acc, asr=Proportion.of(1, 4))}))
    assert rows[0][0] == "[bold]a"
    assert [row[0] for row in rows[1:]] == ["ACC", "ASR"]
    assert rows[2][1] == ""
    assert rows[2][2].startswith("25.00% (")
    assert rows[2][3] == "4"

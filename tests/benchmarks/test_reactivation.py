"""The table and the figure of beds under methods, from cells that are made up."""

from benchmarks.outcomes import append_line, read_lines
from benchmarks.reactivation import HEAD, Cell, make_table, plot_beds, rule, say_finding
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.reactivation import Attempt, Outcome
from rnp_jax.reactivation.attempt import Control


def attempt(asr: int, control: int = 0) -> Attempt:
    controls = (Control(name="purified, 0 triggered images", asr=Proportion.of(control, 100)),)
    return Attempt(name="ra", after=Outcome(asr=Proportion.of(asr, 100), acc=Proportion.of(98, 100)), controls=controls)


def tried(asr: int, after: int, floor: int = 1, control: int = 38, seed: int = 0, **names: str) -> Cell:
    names = {"bed": "digits_badnets", "method": "rnp", **names}
    measured = [Metrics(acc=Proportion.of(95, 100), asr=Proportion.of(each, 100)) for each in (100, asr)]
    return Cell(
        **names,
        seed=seed,
        before=measured[0],
        after=measured[1],
        attempt=attempt(after, control),
        floor=attempt(floor),
        seconds=1,
    )


def test_a_line_has_the_path_the_floor_and_the_worst_finding():
    cells = [tried(2, 72), tried(4, 18, seed=1)]
    assert [rule(each) for each in cells] == ["superficial", "undecided"]
    assert say_finding(cells) == "superficial (1 of 2)"
    assert say_finding([tried(90, 95)]) == "still works"
    head, _, line = make_table({("digits_badnets", "rnp"): cells}).splitlines()
    assert head == f"| {' | '.join(HEAD)} |"
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("digits\\_badnets", "RNP", "2", "95.0", "3.0 (2.0–4.0)", "38.0", "45.0 (18.0–72.0)", "1.0", "98.0"),
        "superficial (1 of 2)",
    ]


def test_the_figure_names_what_comes_back():
    found = {
        ("a", "rnp"): [tried(2, 70), tried(2, 74, seed=1)],
        ("b", "rnp"): [tried(2, 10)],
        ("b", "fst"): [tried(0, 60, floor=55)],
    }
    (ax,) = plot_beds(found).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["FST", "RNP"]
    assert [text.get_text() for text in ax.texts] == ["a"]
    drawn = {tuple(line.get_xdata()) for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2}
    assert {(0.02, 0.72), (0.02, 0.1), (0.0, 0.6)} <= drawn


def test_a_line_that_is_kept_is_the_cell(tmp_path):
    cell = tried(2, 72)
    append_line(tmp_path / "kept.jsonl", cell)
    assert read_lines(tmp_path / "kept.jsonl", Cell) == {("digits_badnets", "rnp", 0): cell}

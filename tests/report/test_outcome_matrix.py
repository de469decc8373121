import re

from rnp_jax.report.html import join
from rnp_jax.report.leaderboard_matrix import make_matrix
from rnp_jax.report.outcome import RULES
from rnp_jax.report.outcome_matrix import say_removed, show_outcomes
from rnp_jax.report.sweep_row import SweepRow
from tests.report.test_outcome import make_row


def cells_of(rows: list[SweepRow]) -> dict[str, list[tuple[str, str]]]:
    """By the first line of a row's heading, its small type: the class of each cell, and its text."""
    shown = re.sub('<span class="method">.*?</span>', "", join(*show_outcomes(rows, make_matrix(rows))))
    lines = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', shown)
    return {
        re.sub("<[^>]*>", "|", head): [
            (level, re.sub("(<[^>]*>)+", "|", text))
            for level, text in re.findall(r'<td>(?:<div class="outcome ?(\w*)">)?(.*?)(?:</div>)?</td>', cells)
        ]
        for head, cells in lines
    }


def test_a_cell_has_its_outcome_its_colour_and_its_figures():
    rows = [
        make_row(checkpoint="m/sig.pt", poison_rate=0.1, der=0.99),
        make_row(checkpoint="m/sig.pt", poison_rate=0.1, method="clp", asr=900, der=0.55),
        make_row(checkpoint="m/blend.pt", attack="blend", poison_rate=0.1, asr=200, der=0.9),
    ]
    assert cells_of(rows) == {
        "sig, 10 % poisoned|sig.pt|": [
            ("", "|ASR\xa0100.0%|ACC\xa099.5%|"),
            ("bad", "|still works|ASR\xa090.0%|ACC\xa099.0%|"),
            ("ok", "|removed|best|ASR\xa00.0%|ACC\xa099.0%|"),
        ],
        "blend, 10 % poisoned|blend.pt|": [
            ("", "|ASR\xa0100.0%|ACC\xa099.5%|"),
            ("", "\N{EN DASH}"),
            ("warning", "|weakened|best|ASR\xa020.0%|ACC\xa099.0%|"),
        ],
    }


def test_the_best_is_neither_the_one_that_sees_the_trigger_nor_one_that_leaves_it_working():
    rows = [
        make_row(der=0.995, method="oracle"),
        make_row(der=0.9901),
        make_row(der=0.9899, method="clp"),
        make_row(der=0.6, method="anp", asr=700),
    ]
    ((_, cells),) = cells_of(rows).items()
    assert [text.startswith("|removed|best") for _, text in cells] == [False, True, False, True, False]
    rows = [make_row(der=0.6, method="anp", asr=700)]
    ((_, cells),) = cells_of(rows).items()
    assert "best" not in cells[-1][1]


def test_a_removed_backdoor_is_better_than_any_rating_of_one_that_is_not():
    rows = [make_row(der=0.98), make_row(der=0.99, method="clp", ra=100)]
    ((_, cells),) = cells_of(rows).items()
    assert [text.split("|")[1:3] for _, text in cells[1:]] == [["leads elsewhere", "ASR\xa00.0%"], ["removed", "best"]]


def test_a_cell_names_its_method_for_a_narrow_page():
    rows = [make_row(), make_row(attack="blend", method="clp")]
    shown = join(*show_outcomes(rows, make_matrix(rows)))
    assert re.findall('<span class="method">(.*?)</span>', shown) == ["No defense", "CLP", "RNP"] * 2


def test_the_rule_is_on_the_page_and_checkpoints_are_named():
    rows = [make_row(checkpoint=path) for path in ("a/model.pt", "b/model.pt")]
    shown = join(*show_outcomes(rows, make_matrix(rows)))
    for level, (words, meaning) in RULES.items():
        assert f'<span class="badge {level}">{words}</span> {meaning}</li>' in shown
    assert "<small>a/model.pt, b/model.pt</small>" in shown
    rows = [make_row(checkpoint=f"{i}.pt") for i in range(5)]
    assert "<small>5 checkpoints</small>" in join(*show_outcomes(rows, make_matrix(rows)))


def test_the_headline_counts_the_backdoors_that_each_method_removed():
    rows = [
        make_row(checkpoint="a"),
        make_row(checkpoint="b", asr=300),
        make_row(checkpoint="c", asr=None, before=(990, None)),
        make_row(checkpoint="a", method="clp", asr=900),
        make_row(checkpoint="a", method="oracle"),
        make_row(checkpoint="a", method="none", acc=995, asr=1000),
    ]
    assert say_removed(rows) == "RNP removes 1 of 2 backdoors and keeps ACC, CLP 0 of 1"
    assert say_removed(rows[3:]) == "No method removes a backdoor and keeps ACC: CLP 0 of 1"
    assert say_removed(rows[2:3]) == ""
    more = [make_row(method=f"m{i}") for i in range(6)]
    assert say_removed(more) == (
        "m0 removes 1 of 1 backdoor and keeps ACC, m1 1 of 1, m2 1 of 1, m3 1 of 1; 2 further methods"
    )
    assert say_removed(more[:5]).endswith("; 1 further method")

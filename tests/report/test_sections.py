import re

import pytest

from rnp_jax.report.schema import Result, Verdict
from rnp_jax.report.sections import (
    LEVELS,
    show_covariates,
    show_metrics,
    show_operating_point,
    show_verdict,
    show_warnings,
)


def read_rows(markup: str) -> dict[str, list[str]]:
    """The table's cells without tags, by the first line of each row's heading."""
    rows = re.findall(r'<tr><th scope="row">([^<]*).*?</th>(.*?)</tr>', markup)
    return {head: [re.sub(r"<[^>]+>", "|", c) for c in re.findall(r"<td>(.*?)</td>", cells)] for head, cells in rows}


@pytest.mark.parametrize("level", ["ok", "warning", "bad", "unknown"])
def test_the_level_is_said_in_words_too(result: Result, level):
    verdict = Verdict(headline="Headline", detail="Detail", level=level)
    markup = show_verdict(result.model_copy(update={"verdict": verdict}))
    assert markup.startswith(f'<header class="{level}">')
    assert f'<span class="badge">{LEVELS[level]}</span>' in markup


@pytest.mark.parametrize(
    ("path", "name"), [("/a/b/c.pt", "c.pt"), ("C:\\models\\c.pt", "c.pt"), ("c.pt", "c.pt"), ("<b>", "&lt;b&gt;")]
)
def test_the_verdict_names_the_file(result: Result, path: str, name: str):
    moved = result.checkpoint.model_copy(update={"path": path})
    assert f"<dd>{name}</dd>" in show_verdict(result.model_copy(update={"checkpoint": moved}))


def test_a_headline_keeps_each_figure_on_one_line(result: Result):
    verdict = Verdict(headline="This trigger is removed: ASR 100.0% → 0.2%, ACC 99.6% → 98.6%", detail="", level="ok")
    (shown,) = re.findall("<h1>(.*?)</h1>", show_verdict(result.model_copy(update={"verdict": verdict})))
    assert shown.split(" ") == [
        "This", "trigger", "is", "removed:", "ASR\xa0100.0%\xa0→\xa00.2%,", "ACC\xa099.6%\xa0→\xa098.6%"
    ]  # fmt: skip


def test_a_rule_is_a_sentence(result: Result):
    assert result.choice
    choice = result.choice.model_copy(update={"rule": "as many filters as possible"})
    assert "<p>As many filters as possible.</p>" in str(
        show_operating_point(result.model_copy(update={"choice": choice}))
    )


def test_metrics_carry_interval_and_count(result: Result):
    rows = read_rows(show_metrics(result))
    assert list(rows) == ["ACC", "ASR", "RA", "DER"]
    assert rows["ACC"][0] == "96.00%|95.05\N{EN DASH}96.77%||1,920 of 2,000|"
    assert rows["ACC"][2] == "\N{MINUS SIGN}2.00"
    assert rows["DER"] == ["", "0.957", ""]


def test_accuracy_without_the_target_has_its_row_where_it_was_measured(result: Result):
    after = result.after.model_copy(update={"acc_without_target": result.after.acc})
    rows = read_rows(show_metrics(result.model_copy(update={"after": after})))
    assert rows["ACC without target"][0] == "unknown"
    assert rows["ACC without target"][1].startswith("94.00%")
    assert rows["ACC without target"][2] == "unknown"


def test_without_an_attack_asr_and_ra_are_unknown(unattacked: Result):
    markup = show_metrics(unattacked)
    rows = read_rows(markup)
    assert rows["ASR"] == rows["RA"] == ["unknown"] * 3
    assert "DER" not in rows
    assert "No trigger is known for this checkpoint, so ASR and RA cannot be measured." in markup


def test_operating_point_beside_the_oracle_named_so(result: Result):
    markup = show_operating_point(result)
    assert markup
    assert "100 of the 500 clean defense images were held out" in markup
    assert "Accuracy budget: 3 points." in markup
    assert '<th scope="col">Oracle: best by ASR, which a defender cannot see</th>' in markup
    rows = read_rows(markup)
    assert rows["Threshold"] == ["0.1", "0.2"]
    assert rows["Held-out accuracy after"][0].startswith("94.0%")
    assert rows["Held-out accuracy after"][1] == "not used"
    assert rows["ASR"][1] == "unknown"
    assert "DER" not in rows, "the oracle has none"


def test_operating_point_without_oracle_holdout_or_choice(unattacked: Result):
    data = unattacked.data.model_copy(update={"holdout_images": 0})
    markup = show_operating_point(unattacked.model_copy(update={"data": data}))
    assert markup
    assert "Oracle" not in markup
    assert "No images were held out" in markup
    assert "Held-out accuracy" not in markup
    assert all(len(cells) == 1 for cells in read_rows(markup).values())
    assert show_operating_point(unattacked.model_copy(update={"choice": None})) is None


def test_a_choice_by_number_has_no_threshold(unattacked: Result):
    assert unattacked.choice
    choice = unattacked.choice.model_copy(update={"threshold": None})
    rows = read_rows(str(show_operating_point(unattacked.model_copy(update={"choice": choice}))))
    assert "Threshold" not in rows
    assert "ACC" not in rows, "it is in the table before"


def test_thresholds_by_layer_are_counted(scored: Result):
    markup = show_operating_point(scored)
    assert markup
    assert read_rows(markup)["Threshold"][0] == "one per layer, in 3 of 4 layers"


def test_covariates_are_shown_as_explanation(scored: Result, result: Result):
    markup = show_covariates(scored)
    assert markup
    assert read_rows(markup) == {"trigger shift / class spread": ["0.83"], "clean shift": ["unknown"]}
    assert "not used for any choice" in markup
    assert show_covariates(result) is None


def test_warnings_are_listed(result: Result):
    assert "<li>Only 100 held-out images.</li>" in str(show_warnings(result))
    assert show_warnings(result.model_copy(update={"warnings": ()})) is None


def test_a_defense_that_chooses_no_filters_shows_none(result: Result):
    tuned = result.model_copy(update={"kind": "weights", "pruned_filters": (), "sweeps": (), "oracle": None})
    assert "<dd>none: weights were tuned</dd>" in show_verdict(tuned)
    rows = read_rows(show_operating_point(tuned))
    assert list(rows) == ["Held-out accuracy before", "Held-out accuracy after"]
    unmeasured = tuned.model_copy(update={"data": tuned.data.model_copy(update={"holdout_images": 0})})
    assert "held out" not in show_operating_point(unmeasured).lower()
    assert tuned.choice.rule.split("%")[0] in show_operating_point(unmeasured)

import re

import pytest

from rnp_jax.report.curves import MAX_PHASES
from rnp_jax.report.samples import MAX_SAMPLES, Samples
from rnp_jax.report.schema import Result, Verdict
from rnp_jax.report.sections import (
    LEVELS,
    show_covariates,
    show_figures,
    show_metrics,
    show_operating_point,
    show_samples,
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


def test_operating_point_without_oracle_holdout_or_choice(unattacked: Result):
    data = unattacked.data.model_copy(update={"holdout_images": 0})
    markup = show_operating_point(unattacked.model_copy(update={"data": data}))
    assert markup
    assert "Oracle" not in markup
    assert "No images were held out" in markup
    assert all(len(cells) == 1 for cells in read_rows(markup).values())
    assert show_operating_point(unattacked.model_copy(update={"choice": None})) is None


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


def test_the_method_says_what_its_scores_are_and_where_thresholds_lie(scored: Result, result: Result):
    markup = str(show_figures(scored, {"score_histogram": b"", "scores_by_layer": b""}))
    assert "(Channel Lipschitzness based Pruning, ECCV 2022)" in markup
    assert "threshold of its layer" in markup
    assert "threshold of its layer" not in str(
        show_figures(scored.model_copy(update={"choice": None}), {"scores_by_layer": b""})
    )
    assert "(Reconstructive Neuron Pruning, ICML 2023)" in str(show_figures(result, {"mask_histogram": b""}))


def test_warnings_are_listed(result: Result):
    assert "<li>Only 100 held-out images.</li>" in str(show_warnings(result))
    assert show_warnings(result.model_copy(update={"warnings": ()})) is None


def test_figures_have_titles_captions_and_the_reason_a_phase_stopped(result: Result):
    markup = show_figures(result, {"phases": b"<svg/>", "samples": b"<svg/>"})
    assert markup
    assert markup.count("<figure") == markup.count("<figcaption>") == markup.count("<img ") == 1
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+"' in markup
    assert "Unlearn: At 0.20. Recover: Ran both epochs." in markup
    assert show_figures(result, {}) is None


def test_captions_explain_only_the_marks_that_are_drawn(result: Result, unattacked: Result):
    caption = str(show_figures(result, {"sweep": b""})).replace("&#x27;", "'")
    assert (
        "The open triangle marks the oracle's point, which a defender cannot see: of the points whose ACC is at most 3 "
        "points lower than unpruned, the one with the lowest ASR and then the fewest filters."
    ) in caption
    markup = str(show_figures(unattacked, {"sweep": b""}))
    assert "filled triangle" in markup
    assert "open triangle" not in markup


def test_phases_that_are_not_drawn_are_counted(result: Result):
    markup = str(show_figures(result.model_copy(update={"phases": result.phases * 10}), {"phases": b""}))
    assert "8 further phases are in result.json." in markup
    assert markup.count("At 0.20.") == MAX_PHASES // 2


def test_samples_show_three_views_with_classes(samples: Samples):
    markup = show_samples(samples)
    assert markup
    assert markup.count("<img ") == 9
    assert "<b>ship</b><br>before: airplane<br>after: truck" in markup
    assert "(brightened 5 times)" in markup
    many = Samples(*(list(part) * 5 if isinstance(part, list) else part.repeat(5, axis=0) for part in samples))
    assert str(show_samples(many)).count("<img ") == 3 * MAX_SAMPLES
    assert show_samples(None) is None


def test_a_defense_that_chooses_no_filters_shows_none(result: Result):
    tuned = result.model_copy(update={"kind": "weights", "pruned_filters": (), "sweeps": (), "oracle": None})
    assert "<dd>none: weights were tuned</dd>" in show_verdict(tuned)
    rows = read_rows(show_operating_point(tuned))
    assert list(rows) == ["Held-out accuracy before", "Held-out accuracy after"]
    unmeasured = tuned.model_copy(update={"data": tuned.data.model_copy(update={"holdout_images": 0})})
    assert "held out" not in show_operating_point(unmeasured).lower()
    assert tuned.choice.rule.split("%")[0] in show_operating_point(unmeasured)

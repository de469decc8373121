import re

from rnp_jax.report.curves import MAX_PHASES
from rnp_jax.report.figure_sections import show_figures, show_samples
from rnp_jax.report.samples import MAX_SAMPLES, Samples
from rnp_jax.report.schema import Result


def test_the_method_says_what_its_scores_are_and_where_thresholds_lie(scored: Result, result: Result):
    markup = str(show_figures(scored, {"score_histogram": b"", "scores_by_layer": b""}))
    assert "(Channel Lipschitzness based Pruning, ECCV 2022)" in markup
    assert "threshold of its layer" in markup
    assert "threshold of its layer" not in str(
        show_figures(scored.model_copy(update={"choice": None}), {"scores_by_layer": b""})
    )
    assert "(Reconstructive Neuron Pruning, ICML 2023)" in str(show_figures(result, {"mask_histogram": b""}))


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
    assert "<h3>Accuracy and attack success as more filters are pruned</h3>" in caption
    markup = str(show_figures(unattacked, {"sweep": b""}))
    assert "<h3>Accuracy as more filters are pruned</h3>" in markup
    assert "low ASR" not in markup
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
    assert "<b>ship</b><br>before: airplane<br>after: truck <span" in markup
    assert re.findall("right|wrong", markup) == ["right", "right", "wrong"]
    assert markup.count("<small>difference \N{MULTIPLICATION SIGN} 5</small>") == 3
    many = Samples(*(list(part) * 5 if isinstance(part, list) else part.repeat(5, axis=0) for part in samples))
    assert str(show_samples(many)).count("<img ") == 3 * MAX_SAMPLES
    assert show_samples(None) is None


def test_rankings_that_were_not_used_are_folded_away(result: Result):
    markup = str(show_figures(result, {"sweep": b"", "rankings": b""}))
    shown, folded = markup.split("<details>")
    assert (shown.count("<img"), folded.count("<img")) == (1, 1)
    assert "<summary>Every ranking" in folded

from rnp_jax.report.appendix import show_file, show_pruned_filters, show_settings, show_timing
from rnp_jax.report.schema import CopyInfo, PrunedFilter, Result


def row(name: str, value: str) -> str:
    return f'<tr><th scope="row">{name}</th><td>{value}</td></tr>'


def test_every_pruned_filter_is_listed_and_folded_away(result: Result):
    filters = tuple(PrunedFilter(layer=f"<{i}>", index=i, mask=None, damage=0.5) for i in range(1000))
    markup = show_pruned_filters(result.model_copy(update={"pruned_filters": filters}))
    assert markup
    assert "<details><summary>Show all 1,000</summary>" in markup
    assert '<th scope="row">&lt;999&gt;</th><td>999</td><td>unknown</td><td>0.5</td>' in markup
    assert markup.count('scope="row"') == 1000
    assert show_pruned_filters(result.model_copy(update={"pruned_filters": ()})) is None


def test_file_shows_provenance_and_anomalies(result: Result):
    markup = show_file(result)
    assert row("SHA-256", f"<code>{result.checkpoint.sha256}</code>") in markup
    assert row("Parameters", "701,466") in markup
    assert "<li>optimizer: left unread</li>" in markup
    plain = result.checkpoint.model_copy(update={"anomalies": (), "state_dict_key": None, "width": None})
    markup = show_file(result.model_copy(update={"checkpoint": plain}))
    assert "Nothing out of the ordinary was found in the file." in markup
    assert "Prefix of its names" not in markup
    wrapped = result.checkpoint.model_copy(update={"prefix": "module."})
    markup_of_wrapped = show_file(result.model_copy(update={"checkpoint": wrapped}))
    assert row("Prefix of its names", "<code>module.</code>") in markup_of_wrapped
    assert row("State dict", "the file itself") in markup
    assert row("Base width", "not applicable") in markup


def test_copies_of_the_network_are_shown_with_what_became_of_them(result: Result):
    assert "elsewhere in the file" not in show_file(result)
    copies = (
        CopyInfo(key="ema<1>", prefix="module.", weights="different", written="replaced"),
        CopyInfo(key="teacher", prefix="", weights="unlike", written="kept"),
    )
    markup = show_file(
        result.model_copy(update={"checkpoint": result.checkpoint.model_copy(update={"copies": copies})})
    )
    assert (
        '<th scope="row"><code>ema&lt;1&gt; module.*</code></th><td>other weights</td><td>the new network</td>'
        in markup
    )
    assert "<code>teacher</code></th><td>most of the names, but it does not fit</td><td>what was there</td>" in markup


def test_scores_have_their_column_and_their_source(scored: Result):
    markup = show_pruned_filters(scored)
    assert markup
    assert '<th scope="col">Score</th>' in markup
    first = scored.pruned_filters[0]
    assert f'<th scope="row">{first.layer}</th><td>{first.index}</td><td>{first.score:.4g}</td>' in markup
    assert "(Channel Lipschitzness based Pruning, ECCV 2022)" in markup


def test_the_extractor_is_shown_with_its_caution(scored: Result):
    markup = show_file(scored)
    assert row("Extractor", "simclr resnet18") in markup
    assert row("SHA-256 of its weights", f"<code>{'fedcba9876543210' * 4}</code>") in markup
    assert "<li>The extractor may carry the backdoor.</li>" in markup
    assert scored.features
    clean = scored.features.model_copy(update={"caution": ""})
    assert "notes warning" not in show_file(scored.model_copy(update={"features": clean}))
    unknown = scored.features.model_copy(update={"sha256": None})
    assert row("SHA-256 of its weights", "not recorded") in show_file(scored.model_copy(update={"features": unknown}))
    assert "Extractor" not in show_file(scored.model_copy(update={"features": None}))


def test_timing_adds_up(result: Result):
    markup = show_timing(result)
    assert markup
    assert row("unlearn", "1.25 s") in markup
    assert row("recover", "3 min 20 s") in markup
    assert row("All stages", "<strong>3 min 21 s</strong>") in markup
    assert show_timing(result.model_copy(update={"timing": ()})) is None


def test_settings_hold_all_that_a_second_run_needs(result: Result):
    markup = show_settings(result)
    for name, value in {
        "Command": "<code>rnp-jax defend model.pt</code>",
        "Seed": "7",
        "jaxlib": "0.10.0",
        "Mean": "0.5",
        "unlearn.learning_rate": "<code>0.01</code>",
        "unlearn.milestones": "<code>10, 20</code>",
        "recover.alpha": "<code>0.2</code>",
        "size": "<code>3</code>",
    }.items():
        assert row(name, value) in markup
    bare = show_settings(result.model_copy(update={"config": {}, "attack": None, "command": None}))
    assert "<details>" not in bare
    assert row("Command", "not recorded") in bare

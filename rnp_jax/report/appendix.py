"""What a reader looks up: pruned filters, what the file held, provenance, timing, versions, settings."""

from rnp_jax.defenses import registry
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.schema import CopyInfo, FeatureInfo, Result, Run
from rnp_jax.report.sections import section
from rnp_jax.report.wording import flatten, number, seconds


def show_pruned_filters(result: Result) -> Markup | None:
    """Every pruned filter, folded away."""
    if not result.pruned_filters:
        return None
    items, kind = result.pruned_filters, result.kind
    rows = [[item.layer, item.index, number(getattr(item, kind)), number(item.damage)] for item in items]
    words = "Damage is the increase of the clean loss when only this filter is pruned."
    return section(
        "Pruned filters",
        element("p", f"{registry.basis(result.method)} {words}".strip(), class_="quiet"),
        element(
            "details",
            element("summary", f"Show all {len(rows):,}"),
            table(["Layer", "Filter", kind.capitalize(), "Damage"], rows, class_="filters"),
        ),
    )


def show_file(result: Run) -> Markup:
    """Where the checkpoint came from, what it is, and what in it is out of the ordinary."""
    checkpoint = result.checkpoint
    rows = [
        ("Path", _code(checkpoint.path)),
        ("SHA-256", _code(checkpoint.sha256)),
        ("Container", checkpoint.container),
        ("State dict", "the file itself" if checkpoint.state_dict_key is None else _code(checkpoint.state_dict_key)),
        *([("Prefix of its names", _code(checkpoint.prefix))] if checkpoint.prefix else []),
        ("Architecture", checkpoint.architecture),
        ("Base width", "not applicable" if checkpoint.width is None else f"{checkpoint.width:,}"),
        ("Classes", f"{checkpoint.num_classes:,}"),
        ("Parameters", f"{checkpoint.parameters:,}"),
        ("Filters that can be pruned", f"{checkpoint.filters:,}"),
    ]
    anomalies = (
        element("ul", *(element("li", text) for text in checkpoint.anomalies), class_="notes unknown")
        if checkpoint.anomalies
        else element("p", "Nothing out of the ordinary was found in the file.")
    )
    return section(
        "The checkpoint file", show_pairs(rows), element("h3", "Anomalies"), anomalies,
        element("p", "Reading the file executed nothing in it.", class_="quiet"), *_show_copies(checkpoint.copies),
        *_extractor(result.features),
    )  # fmt: skip


_WEIGHTS = {
    "equal": "the same weights",
    "different": "other weights",
    "scattered": "its weights, not as a state dict",
    "unlike": "most of the names, but it does not fit",
}
_WRITTEN = {"replaced": "the new network", "kept": "what was there", "dropped": "nothing"}


def _show_copies(copies: tuple[CopyInfo, ...]) -> list[Markup]:
    """Where else in the file the network is, and what became of that."""
    if not copies:
        return []
    rows = [
        [_code(each.key + (f" {each.prefix}*" if each.prefix else "")), _WEIGHTS[each.weights], _WRITTEN[each.written]]
        for each in copies
    ]
    return [
        element("h3", "The network elsewhere in the file"),
        table(["Place", "What it held", "What a written file holds there"], rows),
    ]


def _extractor(features: FeatureInfo | None) -> list[Markup]:
    """What a head's features come from, and why that matters."""
    if features is None:
        return []
    rows = [
        ("Extractor", features.extractor),
        ("Features", f"{features.dim:,}"),
        ("SHA-256 of its weights", "not recorded" if features.sha256 is None else _code(features.sha256)),
        ("Source", features.provenance),
    ]
    words = "This checkpoint is a head on the features of a frozen extractor; the defense changes only the head."
    caution = element("ul", element("li", features.caution), class_="notes warning") if features.caution else None
    return [element("h3", "Feature extractor"), element("p", words), show_pairs(rows), join(caution)]


def show_timing(result: Run) -> Markup | None:
    """Wall-clock time of every stage."""
    if not result.timing:
        return None
    total = sum(stage.seconds for stage in result.timing)
    rows = [(stage.stage, seconds(stage.seconds)) for stage in result.timing]
    return section("Time", show_pairs([*rows, ("All stages", element("strong", seconds(total)))]))


def show_settings(result: Run) -> Markup:
    """Everything needed to run it again: data, device, seed, versions, resolved configuration."""
    data, versions = result.data, result.versions
    run = [
        ("Command", "not recorded" if result.command is None else _code(result.command)),
        ("Seed", f"{result.seed}"),
        ("Device", result.device),
        ("Precision", result.precision),
        ("Data", data.name),
        (
            "Images",
            f"{data.defense_images:,} defense, {data.holdout_images:,} of them held out; {data.test_images:,} test",
        ),
        ("Mean", ", ".join(f"{value:g}" for value in data.mean)),
        ("Standard deviation", ", ".join(f"{value:g}" for value in data.std)),
        *((name, version) for name, version in versions),
    ]
    folds = [show_tree("Resolved configuration", result.config)]
    if result.attack is not None:
        folds.append(show_tree("Trigger constants", result.attack.constants))
    return section("Settings and versions", show_pairs(run), *folds)


def show_tree(title: str, settings: dict) -> Markup | None:
    """Nested settings, folded away; None where there are none."""
    if not settings:
        return None
    return element("details", element("summary", title), show_pairs([(k, _code(v)) for k, v in flatten(settings)]))


def show_pairs(rows: list[tuple[str, str]]) -> Markup:
    """Names and values, two columns."""
    return table([], [[name, value] for name, value in rows], class_="pairs")


def _code(text: str) -> Markup:
    return element("code", text)

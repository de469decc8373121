"""What a reader looks up: pruned filters, what the file held, provenance, timing, versions, settings."""

from rnp_jax.report.html import Markup, element, table
from rnp_jax.report.schema import Result
from rnp_jax.report.sections import section
from rnp_jax.report.wording import flatten, number, seconds


def show_pruned_filters(result: Result) -> Markup | None:
    """Every pruned filter, folded away."""
    if not result.pruned_filters:
        return None
    rows = [[item.layer, item.index, number(item.mask), number(item.damage)] for item in result.pruned_filters]
    words = "Damage is the rise of the clean loss when a filter is pruned alone."
    return section(
        "Pruned filters",
        element("p", words, class_="quiet"),
        element(
            "details",
            element("summary", f"Show all {len(rows):,}"),
            table(["Layer", "Filter", "Mask", "Damage"], rows, class_="filters"),
        ),
    )


def show_file(result: Result) -> Markup:
    """Where the checkpoint came from, what it is, and what in it is out of the ordinary."""
    checkpoint = result.checkpoint
    rows = [
        ("Path", _code(checkpoint.path)),
        ("SHA-256", _code(checkpoint.sha256)),
        ("Container", checkpoint.container),
        ("State dict", "the file itself" if checkpoint.state_dict_key is None else _code(checkpoint.state_dict_key)),
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
        "The checkpoint file", _pairs(rows), element("h3", "Anomalies"), anomalies,
        element("p", "Nothing in the file was executed to read it.", class_="quiet"),
    )  # fmt: skip


def show_timing(result: Result) -> Markup | None:
    """Wall-clock time of every stage."""
    if not result.timing:
        return None
    total = sum(stage.seconds for stage in result.timing)
    rows = [(stage.stage, seconds(stage.seconds)) for stage in result.timing]
    return section("Time", _pairs([*rows, ("All stages", element("strong", seconds(total)))]))


def show_settings(result: Result) -> Markup:
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
    folds = [_fold("Resolved configuration", result.config)]
    if result.attack is not None:
        folds.append(_fold("Constants of the trigger", result.attack.constants))
    return section("Settings and versions", _pairs(run), *folds)


def _fold(title: str, settings: dict) -> Markup | None:
    if not settings:
        return None
    return element("details", element("summary", title), _pairs([(k, _code(v)) for k, v in flatten(settings)]))


def _pairs(rows: list[tuple[str, str]]) -> Markup:
    return table([], [[name, value] for name, value in rows], class_="pairs")


def _code(text: str) -> Markup:
    return element("code", text)

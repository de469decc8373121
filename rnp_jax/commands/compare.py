"""``rnp-jax compare``: several defenses on several checkpoints, in one table and one page."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from rnp_jax.commands.comparing import COVARIATE, MethodOptions, as_stages, compare_methods, measure_shift
from rnp_jax.commands.inputs import choose_out, open_images, open_model, open_trigger
from rnp_jax.commands.judging import read_sets
from rnp_jax.commands.run_log import RunLog
from rnp_jax.commands.versions import device_name, package_versions
from rnp_jax.config import (
    FLAT,
    ComputeOptions,
    DataOptions,
    DefenseSetOptions,
    SourceOptions,
    TriggerOptions,
    to_plain,
    write_yaml,
)
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.report.comparison import Comparison, ComparisonRow, read_comparison
from rnp_jax.report.comparison_page import write_comparison
from rnp_jax.report.document import to_json, write_text
from rnp_jax.report.rates import plot_all_rates, write_rates
from rnp_jax.report.schema import Versions

LAST = "comparison.html"
"""The file written last, whose presence says that a run is finished."""


@dataclass(frozen=True)
class CompareOptions:
    """Compare defenses on checkpoints: one table, one page, intervals over seeds.

    Writes into --out: comparison.html, .md, .csv and .json, figures/, and where an attack was run at several poison
    rates rates.md with its figure. A run that was interrupted goes on where it was: finished checkpoints are in rows/.

    Attributes:
      checkpoints: the PyTorch files, whole networks or heads on features.
      out: output folder.
      source: how the files are read, and their normalisation.
      images: clean images: the defense set comes from the training part, ACC from the test part.
      defense: how many clean images the defender has.
      trigger: the attack to measure, where no card names it.
      method: what is compared, and the settings of each.
      compute: precision and batches.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    out: str = "runs/compare"
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    defense: DefenseSetOptions = field(default_factory=DefenseSetOptions)
    trigger: Annotated[TriggerOptions, FLAT] = field(default_factory=TriggerOptions)
    method: Annotated[MethodOptions, FLAT] = field(default_factory=MethodOptions)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)


def run(options: CompareOptions) -> Comparison:
    """Runs every method on every checkpoint and writes everything.

    Raises:
      RnpError: an unusable checkpoint, data set or option.
    """
    if not options.checkpoints:
        raise ConfigError("no checkpoints: give one or more files")
    out = choose_out(options.out, options.out, "compare", LAST)
    log = RunLog()
    rows: list[ComparisonRow] = []
    paths = list(dict.fromkeys(options.checkpoints))  # one that is given twice is no second run
    for number, path in enumerate(paths, 1):
        log.say(f"{path} ({number} of {len(paths)})")
        rows += compare_checkpoint(path, out, options, log)
    return write_all(out, rows, options, log)


def compare_checkpoint(
    path: str, out: Path, options: CompareOptions, log: RunLog, stages: dict[str, float] | None = None
) -> Sequence[ComparisonRow]:
    """One checkpoint's rows, kept in ``out/rows``; what an earlier run with these options left there is read instead.

    ``stages`` are seconds that every row shares, such as the training of a head.

    Raises:
      DataError: the rows there are of other options.
    """
    model = open_model(path, options.source, options.compute)
    kept = out / "rows" / f"{model.checkpoint.sha256[:16]}.json"
    plain = to_plain(replace(options, checkpoints=(), out=""))
    if kept.exists():
        found = read_comparison(kept)
        if found.config != plain:
            raise DataError(f"{kept} is of a run with other options; choose another folder with --out, or remove it")
        log.say("  compared already")
        return found.rows
    data, holdout, test = open_images(model, options.images, options.defense)
    trigger = open_trigger(model, options.trigger, test)
    started = time.perf_counter()
    data, holdout, sets = read_sets(model, data, holdout, test, trigger)
    shared = {"cache": time.perf_counter() - started} if model.extractor is not None else {}
    shift = measure_shift(model, sets)
    spent = as_stages({**(stages or {}), **shared})
    rows = [
        row.model_copy(update={"timing": (*spent, *row.timing), "covariates": {COVARIATE: shift}})
        for row in compare_methods(model, data, holdout, trigger, sets, options.method, log, options.compute.batch_size)
    ]
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, to_json(_document(rows, plain)))
    return rows


def write_all(out: Path, rows: Sequence[ComparisonRow], options: Any, log: RunLog) -> Comparison:
    """Tables, page and figures; curves where an attack was run at several poison rates."""
    comparison = _document(rows, to_plain(options))
    write_yaml(out / "config.yaml", options)
    if plot_all_rates(rows):
        write_rates(out, comparison)
    page = write_comparison(out, comparison)
    log.say((out / "comparison.md").read_text("utf-8"))
    log.say(f"{page}")
    return comparison


def _document(rows: Sequence[ComparisonRow], config: dict[str, Any]) -> Comparison:
    return Comparison(
        created=datetime.now(UTC),
        versions=Versions(**package_versions()),
        device=device_name(),
        config=config,
        rows=tuple(rows),
    )

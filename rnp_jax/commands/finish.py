"""What every defense ends with: masks, report, table, the paths of what was written."""

import shlex
import sys
from pathlib import Path

import numpy as np

from rnp_jax import masks
from rnp_jax.commands.inputs import Trigger, draw_evenly
from rnp_jax.commands.run_log import RunLog
from rnp_jax.commands.tables import metrics_table
from rnp_jax.data import Dataset
from rnp_jax.defenses import Pruned
from rnp_jax.evaluation.measure import Measured
from rnp_jax.report.page import write_report
from rnp_jax.report.samples import MAX_SAMPLES, Samples
from rnp_jax.report.schema import Result
from rnp_jax.store import save_tree


def command_line() -> str | None:
    """The command that runs; None for a call from Python."""
    return shlex.join(["rnp-jax", *sys.argv[1:]]) if sys.argv[0].endswith("rnp-jax") else None


def write_masks(out: Path, defended: Pruned, placement: str, method: str) -> None:
    """``masks`` (orbax): what the choice of filters rests on, and the filters that are left; RNP's text for masks.

    A defense that only tunes weights writes neither.
    """
    if defended.kind == "weights":
        return
    name = "recovered" if defended.kind == "mask" else "scores"
    tree = {name: dict(defended.values), "pruned": masks.filters(defended.variables["masks"])}
    save_tree(out / "masks", tree, {"placement": placement, "method": method}, overwrite=True)
    if defended.kind == "mask":
        masks.write_mask_values(out / "mask_values.txt", defended.values)


def report(
    out: Path,
    result: Result,
    values: masks.Filters,
    test: Dataset,
    trigger: Trigger | None,
    before: Measured,
    after: Measured,
    cleaned: Path,
    log: RunLog,
) -> None:
    """Writes the report and says what came of it."""
    plain = {name: np.asarray(value) for name, value in values.items()}
    page = write_report(out, result, plain, _samples(test, trigger, before, after))
    log.console.print(metrics_table({"before": before.metrics, "after": after.metrics}))
    log.say(result.verdict.headline)
    log.say(f"cleaned checkpoint  {cleaned}\nreport              {page}")


def _samples(test: Dataset, trigger: Trigger | None, before: Measured, after: Measured) -> Samples | None:
    if trigger is None:
        return None
    shown = draw_evenly(trigger.test.labels, MAX_SAMPLES)
    names = np.asarray(test.class_names)
    return Samples(
        test.images[trigger.test.indices[shown]],
        trigger.test.images[shown],
        [str(name) for name in names[trigger.test.labels[shown]]],
        [str(name) for name in names[before.triggered[shown]]],
        [str(name) for name in names[after.triggered[shown]]],
    )

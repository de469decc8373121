"""``rnp-jax compare``: several methods on several checkpoints, in one table and one page."""

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rnp_jax.config import CHECKPOINTS, FOLDER, UNREAD
from rnp_jax.defenses import METHODS
from rnp_jax.errors import CheckpointError, ConfigError
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.options import Methods, SweptOptions
from rnp_jax.sweep.plan import check_options
from rnp_jax.sweep.running import open_folder, run_here

COMPARED = tuple(
    name
    for name, each in METHODS.items()
    if each.needs != "untrusted" and (each.control or each.chooses(each.defaults).filters)
)
"""By default: the methods that prune filters and need no untrusted set, and the controls."""


@dataclass(frozen=True)
class CompareOptions(SweptOptions):
    """Compare methods on checkpoints: one table, one page, intervals over seeds.

    This is a sweep in a single process, for a few checkpoints. Random and oracle are controls: they prune as many
    filters of each layer as Hölder pruning does with the settings of --holder. Writes leaderboard.html and .md,
    rows.csv, .jsonl and .parquet to --out. The same command continues an interrupted run.

    Attributes:
      checkpoints: PyTorch files, each a whole network or a head on features.
      method: methods to compare, one row each.
      out: output folder.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional, CHECKPOINTS] = ()
    _: KW_ONLY
    method: Methods = COMPARED
    out: Annotated[str, FOLDER] = "runs/compare"
    sweep_images: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = field(default=0, metadata={UNREAD: True})


def run(options: CompareOptions) -> tuple[SweepRow, ...]:
    """Runs every method on every checkpoint and writes everything.

    Raises:
      RnpError: an unusable checkpoint, data set or option, or a method that failed; the tables are written then, too.
    """
    if not options.checkpoints:
        raise ConfigError("no checkpoints: give one or more files")
    for path in options.checkpoints:
        if not Path(path).is_file():
            raise CheckpointError(path, "there is no such file")
    check_options(options)
    out = open_folder(Path(options.out), CompareOptions)
    return run_here(options.checkpoints, options, out, RunLog())

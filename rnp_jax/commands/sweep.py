"""``rnp-jax sweep``: methods on thousands of checkpoints, resumable, one table and one page."""

from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.options import SweepOptions
from rnp_jax.sweep.running import run_sweep


def run(options: SweepOptions) -> tuple[SweepRow, ...]:
    """Plans, runs what has no row yet, and writes the tables and the page.

    Raises:
      ConfigError: unusable inputs or options.
      SweepError: some items failed, or the sweep had to stop; the tables are written then, too.
    """
    return run_sweep(options)

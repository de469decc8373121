"""A worker of a sweep, as a process of its own: ``python -m rnp_jax.sweep.serving FOLDER [SUPERVISOR]``."""

import signal
import sys
from pathlib import Path

from rnp_jax.compilation import enable_cache
from rnp_jax.errors import RnpError
from rnp_jax.pipeline.options import read_options
from rnp_jax.sweep.faults import TERMINATED
from rnp_jax.sweep.items import read_plan
from rnp_jax.sweep.job import SweepJob
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.local import STOPPED, end_with_supervisor
from rnp_jax.sweep.options import OPTIONS, SweepOptions
from rnp_jax.sweep.worker import work
from rnp_jax.untrusted_text import spell_hidden


def serve(out: Path, supervisor: str = "") -> int:
    """Works on the sweep in this folder until nothing is left to claim, or its supervisor is gone.

    Returns:
      How many rows were committed.

    Raises:
      SweepError: no sweep there.
      OutsideError: no item is to blame, such as for a full disk.
    """
    enable_cache()
    options = read_options(SweepOptions, out / OPTIONS)
    ledger, job = Ledger(out), SweepJob(options, out, options.write)
    with ledger.join(supervisor) as member:
        return work(
            ledger, read_plan(out), job, member, may_go_on=lambda: not supervisor or ledger.is_alive(supervisor)
        )


def main(out: str, supervisor: str = "") -> int:
    """Returns the exit status: 0 well, ``local.STOPPED`` where no item is at fault."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    if supervisor:
        end_with_supervisor()
    try:
        serve(Path(out), supervisor)
    except RnpError as error:
        sys.stderr.write(f"{spell_hidden(str(error))}\n")
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Begin: what every run on one checkpoint does first, before it reads images."""

from pathlib import Path
from typing import NamedTuple

from rnp_jax.pipeline.copies import tell_copies
from rnp_jax.pipeline.opening import choose_out, open_model
from rnp_jax.pipeline.request import Request, check_filters, check_request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.writing import LAST, name_cleaned


class Started(NamedTuple):
    """A run that may begin: the path of the new checkpoint, in a folder that is not made yet, the model and the log."""

    cleaned: Path
    model: Suspect
    log: RunLog


def start_run(request: Request, command: str, out: str | None = None, log: RunLog | None = None) -> Started:
    """Chooses the folder, opens the checkpoint, and says what is odd about its file.

    Args:
      request: the checkpoint, the method and what it is given.
      command: what the folder is named after by default, ``runs/COMMAND-NAME``.
      out: the folder, where it is given.
      log: told what is done; by default a new one.

    Raises:
      RnpError: an unusable checkpoint or option.
      DataError: a run has finished in the folder.
    """
    check_request(request)
    cleaned = name_cleaned(choose_out(out, request.checkpoint, command, LAST), request)
    log, options = log or RunLog(), request.options
    log.say(f"reading {request.checkpoint}")
    with log.stage("load checkpoint"):
        model = open_model(request.checkpoint, options.source, options.compute, options.images)
        check_filters(model, request)
    copies = () if request.method.anew else tell_copies(model.copies, model.state_dict, replaced=True)
    for note in (*model.checkpoint.anomalies, *copies):
        log.say(f"  note: {note}")
    return Started(cleaned, model, log)

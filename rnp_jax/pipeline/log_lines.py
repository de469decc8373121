"""The JSON lines of ``--log-format json``: one object a line on standard output.

Every object has ``time`` (UTC, ISO 8601) and ``event``, and the fields that ``EVENTS`` lists for its event, always all
of them. What is not known, or is no finite number, is null. Later versions may add events and fields.
"""

import json
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

EVENTS: Final = {
    "note": {"text": "a line for people"},
    "warning": {"text": "what must not be overlooked"},
    "stage": {"stage": "name of a stage that is finished", "seconds": "that it took, compilation included"},
    "epoch": {
        "phase": "what is trained or searched",
        "epoch": "the epoch that is finished, counted from 1",
        "epochs": "the most there can be",
        "figures": "object of the epoch's figures by name, such as loss and accuracy",
        "seconds_left": "estimate for this phase, from the epochs of this run alone",
    },
    "progress": {
        "name": "what is counted",
        "done": "how many are finished, those of earlier runs included",
        "total": "of how many",
        "seconds_left": "estimate, from those that this run finished alone",
    },
    "figures": {
        "figures": "object by column, such as before and after, of objects of acc, acc_without_target, asr and ra "
        "(shares of images) and der"
    },
    "result": {
        "text": "what came of the command; its last line but for errors",
        "verdict": "object of headline, detail, level (ok, warning, bad, unknown) and supported, where there is one",
        "paths": "object of the files that were written, by what they are",
    },
    "error": {"kind": "name of the error", "text": "what is wrong, and how to mend it", "status": "exit status"},
}
"""The fields of each event, and what they hold."""

_LOUD: Final = ("warning", "result", "error")


def write_line(event: str, *, quiet: bool = False, **fields: Any) -> None:
    """Writes one line, at once; if ``quiet``, only a warning, a result or an error."""
    if not quiet or event in _LOUD:
        line = {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z", "event": event, **fields}
        sys.stdout.write(json.dumps(_plain(line), allow_nan=False) + "\n")
        sys.stdout.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

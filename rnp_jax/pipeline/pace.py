"""How long is left of work in equal steps."""

import time


class Pace:
    """Judges the time left by the steps done since this run began; those that an earlier run did say nothing of it.

    ``done`` is how many were done before.
    """

    def __init__(self, done: int = 0):
        self._since, self._done, self._settled = time.monotonic(), done, False

    def left(self, done: int, total: int) -> float | None:
        """Seconds left when so many of all steps are done; None as long as nothing tells.

        The first step compiles what the others run: from the second one on, it does not count.
        """
        now = time.monotonic()
        if done <= self._done:
            return None
        left = (now - self._since) / (done - self._done) * (total - done)
        if not self._settled:
            self._since, self._done, self._settled = now, done, True
        return left


def tell_left(seconds: float | None) -> str:
    """A time as people say it; nothing if it is not known, or not worth a word."""
    if seconds is None or seconds < 1:
        return ""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} left"
    return f"{seconds:.0f} s left"

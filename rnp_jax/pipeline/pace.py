"""How long is left of work in equal steps."""

import time


class Pace:
    """Judges the time left by the steps done since this run began; those that an earlier run did say nothing of it.

    ``done`` is how many were done before. ``rough`` says whether the last judgement counts the first step as one like
    the others, and so may be far too long: the first step compiles what the others run.
    """

    def __init__(self, done: int = 0):
        self._since, self._done, self.rough = time.monotonic(), done, False
        self._settled = False

    def left(self, done: int, total: int) -> float | None:
        """Seconds left when so many of all steps are done; None as long as nothing tells.

        From the second step on, the first one does not count.
        """
        now = time.monotonic()
        if done <= self._done:
            return None
        left = (now - self._since) / (done - self._done) * (total - done)
        self.rough = not self._settled
        if not self._settled:
            self._since, self._done, self._settled = now, done, True
        return left


def tell_left(seconds: float | None, *, rough: bool = False) -> str:
    """A time as people say it, ``rough`` if it may be far too long; nothing if it is unknown, or not worth a word."""
    if seconds is None or seconds < 1:
        return ""
    most = "at most " * rough
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{most}{seconds / size:.0f} {unit} left"
    return f"{most}{seconds:.0f} s left"

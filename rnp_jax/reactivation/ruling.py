"""What ASR after an attempt means: a stated rule on the ends of its 95 % intervals.

A few poisoned images can plant a patch in any network, and a large perturbation turns any network. So what counts is
not how often the trigger works after the attempt, but how much more often than after the same attempt on a network
that never had the backdoor.
"""

from typing import Literal

from rnp_jax.evaluation.metrics import Proportion

RECOVERED = 0.2
"""By how much ASR must exceed that of the clean reference, both after the attempt, to call the backdoor back."""

WORKS = 0.5
"""ASR above which a trigger works, whatever it does to a clean network that nobody has."""

Finding = Literal["still works", "superficial", "undecided", "no reference", "not recovered", "explains"]
"""Of a trigger or an attempt, the worst first.

``undecided``: the intervals allow both. ``no reference``: ASR may exceed ``RECOVERED``, and nothing says what
it would be on a clean network. ``explains``: the attempt measures something else than ASR.
"""

ORDER: tuple[Finding, ...] = ("still works", "superficial", "undecided", "no reference", "not recovered", "explains")


def rule_attempt(after: Proportion | None, floor: Proportion | None) -> Finding:
    """What an attempt shows.

    Args:
      after: ASR after it on the purified network; None of an attempt that measures something else.
      floor: ASR after it on the clean reference; None without one.
    """
    if after is None:
        return "explains"
    if floor is None:
        return "not recovered" if after.high <= RECOVERED else "no reference"
    if after.low - floor.high > RECOVERED:
        return "superficial"
    return "not recovered" if after.high - floor.low <= RECOVERED else "undecided"


def rule_trigger(before: Proportion, floor: Proportion | None) -> bool:
    """Whether the trigger works on the purified network as it is, before any attempt."""
    return before.low > WORKS if floor is None else before.low - floor.high > RECOVERED

"""What an attempt to bring a backdoor back is: one record. Whoever asks "which attempt is this" asks the record."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rnp_jax.reactivation.attempt import Attempt
from rnp_jax.reactivation.problem import Problem

Needs: TypeAlias = Literal["original", "reference", "surrogates"]
"""A network beside the purified one."""


@dataclass(frozen=True)
class Reactivation:
    """One way of bringing a backdoor back.

    Attributes:
      name: what options and documents call it; its group of settings has the same name.
      title: its name in tables and figures.
      summary: what it does, in a line of ``--help``.
      basis: what it does and what it needs, in a sentence or two with the source, for reports.
      run: the attempt itself.
      defaults: its settings, a frozen dataclass.
      needs: networks without which it cannot be tried.
      compares: whether it compares networks weight by weight or layer by layer, so that the original, the purified and
        the clean one must be of one architecture.
      usual: whether it is tried where nothing is said; others take long, or help only in special cases.
      brief: settings for the outcome and its controls alone, without the way there; None where these are ``defaults``.
      explain: of an attempt that measures something else than ASR, what it found, in a sentence or two.
    """

    name: str
    title: str
    summary: str
    basis: str
    run: Callable[[Problem, Any], Attempt]
    defaults: Any
    needs: tuple[Needs, ...] = ()
    compares: bool = False
    usual: bool = True
    brief: Any = None
    explain: Callable[[Attempt], str] = lambda _: ""

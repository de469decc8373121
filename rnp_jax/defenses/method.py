"""What a defense is: one record. Whoever asks "which method is this" asks the record, never its name.

A defense is a file with its settings, its ``run`` and its record, and a line in ``registry``. The record is called like
a function, ``rnp(network, variables, data, key, config, holdout=…)``; the call does what every method needs: it bakes
the masks that a file came with into the weights, times the stages, checks that losses stayed finite and collects
histories and warnings.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

import jax
import numpy as np
from jaxtyping import Array

from rnp_jax import masks
from rnp_jax.defenses.phase import Progress, check_finite
from rnp_jax.defenses.result import Defended
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment
from rnp_jax.types import Batch, Variables

Needs: TypeAlias = Literal["clean", "untrusted", "none", "trigger"]
"""What a method learns from: clean images, the training set that nobody trusts, nothing, or the attacker's trigger."""

Changes: TypeAlias = Literal["nothing", "filters", "weights", "both", "bounds"]
"""``both`` is filters and weights; ``bounds`` are upper bounds on activations."""

Given = ParamSpec("Given")
Found = TypeVar("Found")

Marker: TypeAlias = str | tuple[int, Literal[0, 1, 2], int]
"""A marker of matplotlib's: a letter, or a regular shape's number of points, kind (1 for a star) and angle."""


class Chooses(NamedTuple):
    """What a method decides about filters, given its settings.

    Attributes:
      filters: whether it prunes filters, so that the network must have some.
      by_holdout: whether held-out clean images decide how many.
      number: how many filters its settings ask for; None where they leave it open.
      option: the option that says so, below the method's own group.
    """

    filters: bool = False
    by_holdout: bool = False
    number: int | None = None
    option: str = "prune.number"


class Pairs(NamedTuple):
    """The same images without and with the attacker's trigger [N, H, W, C]: what no defender has."""

    clean: Array | np.ndarray
    triggered: Array | np.ndarray


class Keep(Protocol):
    """Gives what a stage computes: computed now, or as an interrupted run of the same command left it."""

    def __call__(self, stage: str, compute: "partial[Found]") -> tuple[Found, float]:
        """The value of ``compute``, a pure function with its arguments, and the seconds that computing it took."""
        ...


def compute_anew(stage: str, compute: "partial[Found]") -> tuple[Found, float]:
    """A ``Keep`` that keeps nothing."""
    del stage
    started = time.perf_counter()
    return compute(), time.perf_counter() - started


class Do(Protocol):
    """Calls a function, and may keep its value for an interrupted run, or know it from one; see ``Task.do``."""

    def __call__(self, function: Callable[Given, Found], /, *arguments: Given.args, **options: Given.kwargs) -> Found:
        """The value of a pure function of these arguments."""
        ...


def just_do(function: Callable[Given, Found], /, *arguments: Given.args, **options: Given.kwargs) -> Found:
    """A ``Do`` that only calls."""
    return function(*arguments, **options)


def do_by(keep: Keep, stage: str) -> Do:
    """A ``Do`` of one stage, whose values ``keep`` gives."""

    def do(function: Callable[Given, Found], /, *arguments: Given.args, **options: Given.kwargs) -> Found:
        return keep(stage, partial(function, *arguments, **options))[0]

    return do


@dataclass(eq=False)
class Task:
    """What a method works with, and where it notes what it does.

    Attributes:
      network: the function of the variables.
      variables: the suspicious weights, masks baked into them; for a method that trains a new network the weights it
        starts from, or None for fresh ones.
      data: the images it learns from, uint8 [N, H, W, C] and int32 [N].
      key: of everything random.
      holdout: clean images that are not in ``data``, to choose and to measure by.
      augment: applied to every batch of ``data``.
      progress: called after every epoch.
      pairs: for controls, images with and without the trigger.
      keep: gives what the longer stages compute.
      timing: seconds by stage.
      history: by phase, the series of its epochs.
      stops: by phase, why it ended, where it did not just run all its epochs.
      warnings: what did not go as planned, one sentence each.
    """

    network: Network
    variables: Any
    data: Batch
    key: jax.Array
    holdout: Batch | None = None
    augment: Augment | None = None
    progress: Progress | None = None
    pairs: Pairs | None = None
    keep: Keep = compute_anew
    timing: dict[str, float] = field(default_factory=dict)
    history: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    stops: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage, compilation included; a stage that is entered again adds to its seconds."""
        started = time.perf_counter()
        yield
        self._spend(name, time.perf_counter() - started)

    def do(
        self, stage: str, function: Callable[Given, Found], *arguments: Given.args, **options: Given.kwargs
    ) -> Found:
        """Calls a function as a stage of its own, whose value an interrupted run need not compute again.

        The function must be pure, but for ``progress``. Its value consists of dicts, tuples, records, arrays, numbers
        and text.
        """
        found, seconds = self.keep(stage, partial(function, *arguments, **options))
        self._spend(stage, seconds)
        return found

    def doing(self, stage: str) -> Do:
        """``do`` for one stage, for functions that do several things in it."""
        return partial(self.do, stage)

    def _spend(self, stage: str, seconds: float) -> None:
        self.timing[stage] = self.timing.get(stage, 0.0) + seconds

    def note(self, phase: str, history: Mapping[str, np.ndarray], stopped: str | None = None) -> None:
        """Keeps the history of a phase.

        Raises:
          DefenseError: its loss became infinite or not a number.
        """
        check_finite(phase, history)
        self.history[phase] = dict(history)
        if stopped is not None:
            self.stops[phase] = stopped

    def warn(self, text: str) -> None:
        """Keeps a warning, once."""
        if text not in self.warnings:
            self.warnings.append(text)


@dataclass(frozen=True)
class Method:
    """A defense, or a control that defenses are compared with.

    Attributes:
      name: what options, rows and documents call it.
      title: its name in tables and figures.
      summary: what it does, in a line of ``--help``.
      basis: what its masks or scores are, or what it does to the weights: a sentence with the source, for reports.
      run: the defense itself.
      defaults: its settings, a frozen dataclass.
      needs: what it learns from.
      keeps_network: of a method that needs an untrusted set, whether it changes the suspicious network; without this it
        trains a new one.
      changes: what it may change.
      augments: whether it augments the images it learns from.
      chooses: what it decides about filters, given its settings.
      reads: the group of settings it reads; by default the one of its own name.
      inverts: whether it trains on triggers that it recovers itself, so that a search for such triggers says little of
        its success.
      control: a row to compare with, not a defense.
      colour: in figures, as ``#rrggbb``.
      marker: in figures, as matplotlib names a filled one, or (points, 1, angle) of a star.
    """

    name: str
    title: str
    summary: str
    basis: str
    run: Callable[[Task, Any], Defended]
    defaults: Any = None
    needs: Needs = "clean"
    keeps_network: bool = False
    changes: Changes = "filters"
    augments: bool = False
    chooses: Callable[[Any], Chooses] = lambda _: Chooses()
    reads: str = ""
    inverts: bool = False
    control: bool = False
    colour: str = "#69737d"
    marker: Marker = "o"

    @property
    def group(self) -> str:
        """The group of settings it reads; empty where it has none."""
        return "" if self.defaults is None else self.reads or self.name

    @property
    def anew(self) -> bool:
        """Whether it trains a new network, which takes the place of the suspicious one."""
        return self.needs == "untrusted" and not self.keeps_network

    def __call__(
        self,
        network: Network,
        variables: Variables | None,
        data: Batch | None,
        key: jax.Array,
        config: Any = None,
        *,
        holdout: Batch | None = None,
        augment: Augment | None = None,
        progress: Progress | None = None,
        pairs: Pairs | None = None,
        keep: Keep = compute_anew,
    ) -> Defended:
        """Defends a network.

        Args:
          network: the function of the variables.
          variables: the suspicious weights; for a method that trains a new network, the weights it starts from, or
            None for fresh ones.
          data: the images it learns from, uint8 [N, H, W, C] and int32 [N]; not read by a method that needs none.
          key: of everything random: the same key gives the same result on the same machine.
          config: its settings; by default ``defaults``.
          holdout: clean images that are not in ``data``: how many filters are pruned is chosen by them where the
            settings leave that open, and the cost in accuracy is measured on them.
          augment: applied to every batch of ``data``; not read by a method that does not augment.
          progress: called after every epoch.
          pairs: for controls that see the trigger, images without and with it.
          keep: gives what the longer stages compute, so that an interrupted run can go on after the last of them.

        Raises:
          ConfigError: settings that do not fit the network, or nothing is held out to choose by.
          DataError: images that do not fit the network.
          DefenseError: the network has nothing to prune, or a loss became infinite or not a number.
        """
        if variables is not None:  # recovery and pruning replace masks: those it came with become part of the weights
            variables = masks.bake(variables, network.placement)
        task = Task(network, variables, data, key, holdout, augment, progress, pairs, keep)  # pyright: ignore[reportArgumentType]
        done = self.run(task, self.defaults if config is None else config)
        ranking = done.choice.ranking or self.name
        return replace(
            done,
            choice=done.choice.model_copy(update={"ranking": ranking}),
            history={**task.history, **done.history},
            stops={**task.stops, **done.stops},
            timing={**task.timing, **done.timing},
            warnings=(*task.warnings, *done.warnings),
        )

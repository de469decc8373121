"""LMC, linear mode connectivity: how far weights must go from the purified network towards the backdoored one.

Along (1 - t) θ_purified + t θ_original, the backdoor's loss is the cross-entropy of triggered images against the label
that the attacker wants (Min et al., NeurIPS 2024, after Frankle et al., ICML 2020). The statistics of batch norm are
estimated anew for each t, on the attacker's clean images; at the ends too, so that all points are measured alike.

The barrier is by how much the loss exceeds the straight line between its ends, at most: 0 where there is no hill
between the networks, which is what a superficial defense leaves. The same path from the clean reference, which never
had the backdoor, is the control. The attempt needs the original file, so it explains, and decides nothing.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from rnp_jax.attacks import TriggeredSet
from rnp_jax.defenses.mcr import estimate_statistics
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.metrics import known_share
from rnp_jax.evaluation.predict import predict
from rnp_jax.reactivation.attempt import Attempt, Curve, draw_shares
from rnp_jax.reactivation.problem import WATCHED, Party, Problem, check_alike, spread
from rnp_jax.reactivation.record import Reactivation
from rnp_jax.types import Batch, Variables

TURNED = 0.5
"""ASR from which on a point of the path counts as backdoored."""


@dataclass(frozen=True)
class LmcConfig:
    """Settings of linear mode connectivity.

    Attributes:
      points: number of points of the path, its two ends included.
      batch_size: images per batch, over which the statistics of batch norm are estimated.
    """

    points: int = 11
    batch_size: int = 128

    def __post_init__(self):
        if self.points < 2 or self.batch_size < 2:
            raise ConfigError(f"{self}: expected points >= 2 and batch_size >= 2")


def run_lmc(problem: Problem, config: LmcConfig) -> Attempt:
    """Walks from the purified network, and from the clean one, to the original.

    Raises:
      ConfigError: the networks are not of one architecture.
    """
    original, curves, figures = problem.need("original", "lmc"), [], {}
    for name, start in problem.sides.items():
        check_alike("lmc", start, original, f"the {name} network")
        with problem.work_on(start, f"lmc, {name}") as task:
            found = task.do("lmc", walk, start, original, problem.clean, _watch(problem), problem.test, config)
        curves += _draw(name, found)
        figures |= {
            f"barrier of the loss, {name}": measure_barrier(found["t"], found["loss"]),
            f"way to an ASR of 50 %, {name}": find_way(found["t"], found["turned"].mean(1)),
        }
    return Attempt(
        name="lmc",
        budget={"points": config.points, "clean images": len(problem.clean.labels)},
        figures=figures,
        curves=tuple(curves),
    )


def walk(
    start: Party, end: Party, clean: Batch, watched: TriggeredSet, test: Batch, config: LmcConfig
) -> dict[str, np.ndarray]:
    """The networks along the line from one to the other, T of them, on M triggered and N clean test images.

    Returns:
      ``t`` [T], the backdoor's ``loss`` [T], and which images are ``turned`` [T, M] and which are ``right`` [T, N].
    """
    network, points = start.network, np.linspace(0, 1, config.points, dtype=np.float32)
    rows: dict[str, list] = {"loss": [], "turned": [], "right": []}
    for t in points:
        params = _mix(start.variables["params"], end.variables["params"], t)
        there = estimate_statistics(network, {**start.variables, "params": params}, clean, config.batch_size)
        triggered = predict(network, there, Batch(watched.images, watched.wanted))
        rows["loss"].append(triggered.loss[0].mean())
        rows["turned"].append(triggered.labels[0] == watched.wanted)
        rows["right"].append(predict(network, there, test).labels[0] == np.asarray(test.labels))
    return {"t": points, **{name: np.stack(row) for name, row in rows.items()}}


@jax.jit
def _mix(start: Variables, end: Variables, t: Float[jax.Array, ""]) -> Variables:
    """The weights at t; at 0 and 1 exactly those of the ends."""
    return jax.tree.map(lambda first, last: (1 - t) * first + t * last, start, end)


def measure_barrier(t: Float[np.ndarray, "T"], loss: Float[np.ndarray, "T"]) -> float:
    """By how much the loss exceeds the straight line between its ends, at most; 0 where it never does."""
    return float(np.max(loss - ((1 - t) * loss[0] + t * loss[-1])).clip(0))


def find_way(t: Float[np.ndarray, "T"], asr: Float[np.ndarray, "T"]) -> float | None:
    """The first t at which ASR is half or more, as a share of the way; None where it never is."""
    reached = np.flatnonzero(asr >= TURNED)
    return float(t[reached[0]]) if len(reached) else None


def explain(attempt: Attempt) -> str:
    """The barrier and the way, beside those of the clean network."""
    told = []
    for name, what in (("purified", "From this network"), ("reference", "From the clean reference")):
        if (barrier := f"barrier of the loss, {name}") not in attempt.figures:
            continue
        way = attempt.figures[f"way to an ASR of 50 %, {name}"]
        reached = "is never reached" if way is None else f"is reached after {way:.0%} of the way"
        height = f"the backdoor's loss has a barrier of {attempt.figures[barrier]:.2f}"
        told.append(f"{what}, {height}, and an ASR of 50 % {reached}.")
    return " ".join(told)


def _watch(problem: Problem) -> TriggeredSet:
    return spread(problem.judged, WATCHED)


def _draw(name: str, found: dict[str, np.ndarray]) -> list[Curve]:
    t = tuple(map(float, found["t"]))
    asr, acc = (tuple(known_share(row) for row in found[what]) for what in ("turned", "right"))
    return [
        draw_shares("path", f"ASR, {name}", t, asr),
        draw_shares("path", f"ACC, {name}", t, acc),
        Curve(figure="barrier", name=name, x=t, y=tuple(map(float, found["loss"]))),
    ]


lmc = Reactivation(
    name="lmc",
    title="LMC",
    summary="linear mode connectivity: the straight way in weight space to the backdoored network",
    basis="The weights are moved in a straight line to those of the backdoored network, the statistics of batch norm "
    "estimated anew at each point (linear mode connectivity, NeurIPS 2024). Without a hill in the backdoor's loss, "
    "the two networks lie in one valley.",
    run=run_lmc,
    defaults=LmcConfig(),
    needs=("original",),
    compares=True,
    explain=explain,
)

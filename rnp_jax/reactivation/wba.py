"""WBA, white-box re-activation: one faint perturbation on top of the trigger (Zhu, Liang and Wu, "Breaking the false
sense of security in backdoor defense through re-activation attack", NeurIPS 2024).

The perturbation is found on triggered training images by the gradients of the purified network, and is then added to
triggered test images: a new trigger, which works where the old one lies dormant. The constants are the release's, its
bound the one that its documentation advises: L∞ 0.05, of pixels in [0, 1].

A universal perturbation alone turns many networks. So two controls come with it: a perturbation found in the same way
on the same images without the trigger (a targeted universal adversarial attack, gUAA), and both on a clean network. The
attempt on the clean network is the floor.
"""

import numpy as np

from rnp_jax.reactivation.attempt import Attempt, Control, Outcome
from rnp_jax.reactivation.perturbation import Found, PerturbationConfig, find_perturbation, lay
from rnp_jax.reactivation.problem import Party, Problem
from rnp_jax.reactivation.record import Reactivation
from rnp_jax.types import Batch


def run_wba(problem: Problem, config: PerturbationConfig) -> Attempt:
    """Finds a perturbation of triggered images on the purified network and on the clean one, and of clean images."""
    outcomes, controls = {}, []
    for name, party in problem.sides.items():
        outcomes[name] = reactivate(problem, party, config, f"wba, {name}")
        alone = attack_clean(problem, party, config, f"wba, {name}, no trigger")
        controls.append(Control(name=f"{name}, perturbation without the trigger", asr=alone.asr))
    return Attempt(
        name="wba",
        after=outcomes["purified"],
        floor=outcomes.get("reference"),
        controls=tuple(controls),
        budget=tell_budget(problem, config),
    )


def tell_budget(problem: Problem, config: PerturbationConfig) -> dict[str, float | None]:
    """What a perturbation was allowed."""
    count = len(problem.triggered.labels)
    steps = config.epochs * config.inner_steps * -(-count // config.batch_size)
    return {"triggered images": count, "epsilon": config.epsilon, "steps": steps}


def find_on_triggered(problem: Problem, seen: tuple[Party, ...], config: PerturbationConfig, name: str) -> Found:
    """The perturbation of the attacker's triggered images on the networks ``seen``, all together."""
    triggered = Batch(problem.triggered.images, problem.triggered.wanted)
    with problem.work_on(seen[0], name) as task:
        return task.do(name.partition(",")[0], find_perturbation, seen, triggered, problem.key, config, task.progress)


def reactivate(problem: Problem, party: Party, config: PerturbationConfig, name: str) -> Outcome:
    """ASR of triggered images with a perturbation that was found on the same network."""
    found = find_on_triggered(problem, (party,), config, name)
    return Outcome(asr=problem.count_turned(party, lay(problem.judged.images, found.delta)))


def attack_clean(problem: Problem, party: Party, config: PerturbationConfig, name: str) -> Outcome:
    """The same without the trigger: found on clean images of the same classes, and added to clean test images."""
    chosen = np.asarray(problem.clean.images)[problem.triggered.indices]
    with problem.work_on(party, name) as task:
        data = Batch(chosen, problem.triggered.wanted)
        found = task.do("wba", find_perturbation, (party,), data, problem.key, config, task.progress)
    tested = np.asarray(problem.test.images)[problem.judged.indices]
    return Outcome(asr=problem.count_turned(party, lay(tested, found.delta)))


wba = Reactivation(
    name="wba",
    title="WBA",
    summary="white-box re-activation: one faint perturbation on top of the trigger",
    basis="One faint perturbation, the same for all images, is found by the network's gradients and added to triggered "
    "images (white-box re-activation, NeurIPS 2024). The attacker needs the weights; the network stays as it is.",
    run=run_wba,
    defaults=PerturbationConfig(),
    usual=False,
)

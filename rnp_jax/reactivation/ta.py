"""TA, transfer re-activation: the perturbation of other purified networks (Zhu, Liang and Wu, NeurIPS 2024).

An attacker without this network's weights finds one perturbation on surrogates, which were purified from the same
backdoored network in other ways, and adds it to triggered images for this one. The cross-entropies of all surrogates
are summed. The constants are the release's: 100 passes of one step a batch. The clean reference, given the same
images, is the floor.
"""

from rnp_jax.reactivation.attempt import Attempt, Control, Outcome
from rnp_jax.reactivation.perturbation import PerturbationConfig, lay
from rnp_jax.reactivation.problem import Party, Problem
from rnp_jax.reactivation.record import Reactivation
from rnp_jax.reactivation.wba import find_on_triggered, tell_budget


def run_ta(problem: Problem, config: PerturbationConfig) -> Attempt:
    """Finds a perturbation of triggered images on the surrogates, and tries it on the purified and clean networks."""
    found = find_on_triggered(problem, problem.surrogates, config, "ta")
    images = lay(problem.judged.images, found.delta)

    def turn(party: Party) -> Outcome:
        return Outcome(asr=problem.count_turned(party, images))

    seen = [Control(name=f"surrogate {i}", asr=turn(party).asr) for i, party in enumerate(problem.surrogates, 1)]
    return Attempt(
        name="ta",
        after=turn(problem.purified),
        floor=None if problem.reference is None else turn(problem.reference),
        controls=tuple(seen),
        budget={"surrogates": len(problem.surrogates), **tell_budget(problem, config)},
    )


ta = Reactivation(
    name="ta",
    title="TA",
    summary="transfer re-activation: a perturbation found on other purified networks",
    basis="One faint perturbation is found on other purified networks and added to triggered images for this one "
    "(transfer re-activation, NeurIPS 2024). The attacker needs neither the weights nor a single answer.",
    run=run_ta,
    defaults=PerturbationConfig(epochs=100, inner_steps=1, other=0.0),
    needs=("surrogates",),
    usual=False,
)

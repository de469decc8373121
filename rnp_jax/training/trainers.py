"""Which attacks train together with their victim, and how each does that."""

from rnp_jax.attacks.awp import Awp
from rnp_jax.attacks.base import Attack
from rnp_jax.attacks.dfst import Dfst
from rnp_jax.attacks.input_aware import InputAware
from rnp_jax.attacks.lira import Lira
from rnp_jax.training.awp import AwpTraining
from rnp_jax.training.dfst import DfstTraining
from rnp_jax.training.input_aware import InputAwareTraining
from rnp_jax.training.joint import Joint
from rnp_jax.training.lira import LiraTraining

JOINT: dict[type[Attack], Joint] = {
    Awp: AwpTraining(),
    Dfst: DfstTraining(),
    InputAware: InputAwareTraining(),
    Lira: LiraTraining(),
}
"""By the attack's class."""


def find_trainer(attack: Attack | None) -> Joint | None:
    """How the attack trains with its victim; None for one that does not, and for no attack."""
    return None if attack is None else JOINT.get(type(attack))

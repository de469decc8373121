import pytest

from rnp_jax.attacks import ATTACKS, Awp, BadNets, Dfst, InputAware, Lira
from rnp_jax.training.awp import AwpTraining
from rnp_jax.training.dfst import DfstTraining
from rnp_jax.training.input_aware import InputAwareTraining
from rnp_jax.training.lira import LiraTraining
from rnp_jax.training.trainers import JOINT, find_trainer


@pytest.mark.parametrize(
    ("attack", "trainer"),
    [
        (Awp(epochs=3), AwpTraining),
        (Dfst(variant="orig"), DfstTraining),
        (InputAware(), InputAwareTraining),
        (Lira(), LiraTraining),
    ],
)
def test_the_class_of_an_attack_tells_its_trainer(attack, trainer):
    assert type(find_trainer(attack)) is trainer


def test_other_attacks_have_none():
    assert find_trainer(None) is None
    assert find_trainer(BadNets()) is None


def test_they_are_attacks_that_have_a_name_and_learn_nothing_beforehand():
    assert set(JOINT) <= set(ATTACKS.values())
    assert not any(kind.learns() or kind.in_step for kind in JOINT)

"""Which adaptive training is chosen, and that every control is plain training."""

import pytest

from rnp_jax.adaptive import AdaptiveOptions, choose_adaptation
from rnp_jax.adaptive.embedding import Embedding
from rnp_jax.adaptive.grond import Grond
from rnp_jax.adaptive.lipschitz import Lipschitz
from rnp_jax.adaptive.sbl import Sbl
from rnp_jax.adaptive.unlearn_aware import UnlearnAware
from rnp_jax.errors import ConfigError
from rnp_jax.training.supervised import train_epoch
from tests.adaptive.runs import MLP, NORMED, equal, run
from tests.compiled import count_compiled

OFF = {
    "grond": Grond(strength=0.0),
    "lipschitz": Lipschitz(weight=0.0),
    "unlearn_aware": UnlearnAware(weight=0.0),
    "sbl": Sbl(rho=0.0, second_epochs=0),
    "embedding": Embedding(ratio=0.0),
}


@pytest.mark.parametrize("name", OFF)
def test_every_control_is_plain_training_bit_for_bit(name):
    network = NORMED if name == "grond" else MLP
    plain = run(None, network)
    before = count_compiled(train_epoch)
    found = run(OFF[name], network)
    assert equal(found.variables, plain.variables)
    assert {key: value.tolist() for key, value in found.history.items()} == {
        key: value.tolist() for key, value in plain.history.items()
    }
    assert count_compiled(train_epoch) == before


def test_the_method_s_settings_are_chosen_and_plain_training_by_default():
    assert choose_adaptation(AdaptiveOptions()) is None
    sbl = Sbl(rho=0.1)
    assert choose_adaptation(AdaptiveOptions("sbl", sbl=sbl)) is sbl


@pytest.mark.parametrize("method", [None, "grond"])
def test_settings_that_nothing_reads_are_refused(method):
    told = f"settings of --adaptive.unlearn-aware: not read with --adaptive.method {method}; remove them"
    with pytest.raises(ConfigError, match=told):
        choose_adaptation(AdaptiveOptions(method, unlearn_aware=UnlearnAware(steps=3)))

"""Every defense takes what the registry says it takes, and gives a network back."""

import inspect
from types import MappingProxyType

import jax
import numpy as np
import pytest
from rnp_jax.commands.comparing import MethodOptions

from rnp_jax import masks
from rnp_jax.defenses import (
    DEFENSES,
    FinePruningConfig,
    FinetuneConfig,
    FtConfig,
    FtSamConfig,
    IbauConfig,
    Pruned,
)
from rnp_jax.defenses.anp import AnpConfig
from rnp_jax.defenses.recover import RecoverConfig
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.unlearn import UnlearnConfig

QUICK = {
    "rnp": RnpConfig(UnlearnConfig(max_epochs=2, batch_size=16), RecoverConfig(epochs=2, batch_size=16)),
    "anp": AnpConfig(iterations=4, batch_size=16),
    "fp": FinePruningConfig(finetune=FinetuneConfig(epochs=1, batch_size=16)),
    "ft": FtConfig(finetune=FinetuneConfig(epochs=1, batch_size=16)),
    "ft_sam": FtSamConfig(epochs=1, batch_size=16),
    "ibau": IbauConfig(rounds=1, batch_size=16),
}
ON_A_HEAD = [name for name in DEFENSES if name != "nad"]  # attention needs feature maps: see test_nad.py


@pytest.mark.parametrize("name", DEFENSES)
def test_one_signature(name):
    found = inspect.signature(DEFENSES[name]).parameters
    assert list(found) == ["network", "variables", "data", "key", "config", "holdout", "augment", "progress"]
    assert {each for each, value in found.items() if value.kind is value.KEYWORD_ONLY} == {
        "holdout", "augment", "progress",
    }  # fmt: skip


@pytest.mark.parametrize("name", ON_A_HEAD)
def test_every_defense_gives_a_network_of_the_same_structure(name, features):
    config = QUICK.get(name, getattr(MethodOptions(), name))
    key = jax.random.key(0)
    pruned = DEFENSES[name](features.network, features.variables, features.data, key, config, holdout=features.holdout)
    assert isinstance(pruned, Pruned)
    assert jax.tree.structure(pruned.variables) == jax.tree.structure(features.variables)
    left = masks.flatten(masks.filters(pruned.variables["masks"]))
    assert set(np.unique(left)) <= {0.0, 1.0}
    assert (left == 0).sum() == pruned.choice.count
    shapes = {layer: row.shape for layer, row in pruned.values.items()}
    assert shapes == ({} if pruned.kind == "weights" else {"0": (16,), "2": (8,)})
    assert (pruned.kind == "weights") == (name in ("ft", "ft_sam", "ibau"))
    assert sum(pruned.timing.values()) > 0


def test_the_registry_cannot_be_changed_by_accident():
    assert isinstance(DEFENSES, MappingProxyType)
    assert list(DEFENSES) == ["rnp", "holder", "clp", "anp", "fp", "ft", "nad", "ft_sam", "ibau"]

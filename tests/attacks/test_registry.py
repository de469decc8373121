import json

import pytest

from rnp_jax.attacks.badnets import BadNets
from rnp_jax.attacks.blend import Blend
from rnp_jax.attacks.registry import ATTACKS, describe, from_description, get_attack
from rnp_jax.attacks.sig import Sig, SigRnp
from rnp_jax.attacks.wanet import WaNet
from rnp_jax.errors import ConfigError

CHANGED = [
    BadNets(variant="square", size=5, margin=2),
    Blend(alpha=0.35, seed=9),
    Sig(delta=20.0, frequency=5),
    SigRnp(alpha=0.1),
    WaNet(grid_size=8, strength=0.75, rescale=0.98, noise_ratio=1.0, seed=4),
]


def test_every_attack_is_found_by_its_name():
    for name, kind in ATTACKS.items():
        assert get_attack(name) is kind
    assert {type(attack) for attack in CHANGED} == set(ATTACKS.values())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("badnet", "did you mean badnets"), ("WaNet", "did you mean wanet"), ("zzz", "use one of badnets")],
)
def test_unknown_names_get_a_suggestion(name, hint):
    with pytest.raises(ConfigError, match=f"'{name}' is unknown; {hint}"):
        get_attack(name)


@pytest.mark.parametrize("attack", CHANGED, ids=lambda attack: type(attack).__name__)
def test_description_survives_json(attack):
    assert from_description(json.loads(json.dumps(describe(attack)))) == attack


def test_description_writes_defaults_out():
    assert describe(BadNets()) == {"name": "badnets", "constants": {"variant": "grid", "size": 3, "margin": None}}


def test_missing_and_unknown_constants_are_listed():
    with pytest.raises(ConfigError, match="- seed\n\\+ beta"):
        from_description({"name": "blend", "constants": {"alpha": 0.2, "beta": 1}})


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"name": "blend"}, "needs 'name' and 'constants'"),
        ("blend", "needs 'name' and 'constants'"),
        ({"name": "blend", "constants": [0.2, 0]}, "expected a mapping"),
        ({"name": "blend", "constants": {"alpha": "0.2", "seed": 0}}, "alpha is '0.2', expected a number"),
        ({"name": ["blend"], "constants": {}}, "is unknown"),
    ],
)
def test_broken_descriptions_are_refused(description, message):
    with pytest.raises(ConfigError, match=message):
        from_description(description)


def test_unregistered_attacks_are_refused():
    class Other(BadNets):
        pass

    with pytest.raises(ConfigError, match="Other is no registered attack"):
        describe(Other())

import json

import pytest

from rnp_jax.attacks.a_blend import ABlend
from rnp_jax.attacks.adap_patch import AdapPatch
from rnp_jax.attacks.awp import Awp
from rnp_jax.attacks.badnets import BadNets
from rnp_jax.attacks.base import Attack
from rnp_jax.attacks.blend import Blend
from rnp_jax.attacks.bpp import Bpp
from rnp_jax.attacks.cl import LabelConsistent
from rnp_jax.attacks.ctrl import Ctrl
from rnp_jax.attacks.dfst import Dfst
from rnp_jax.attacks.fc import FeatureCollision
from rnp_jax.attacks.grond import Grond
from rnp_jax.attacks.input_aware import InputAware
from rnp_jax.attacks.lf import LowFrequency
from rnp_jax.attacks.lira import Lira
from rnp_jax.attacks.narcissus import Narcissus
from rnp_jax.attacks.registry import ATTACKS, describe, from_description, get_attack
from rnp_jax.attacks.sig import Sig, SigRnp
from rnp_jax.attacks.ssba import Ssba
from rnp_jax.attacks.stamp import Stamp
from rnp_jax.attacks.trojan import Trojan
from rnp_jax.attacks.wanet import WaNet
from rnp_jax.errors import ConfigError

CHANGED = [
    BadNets(variant="square", size=5, margin=2),
    Blend(alpha=0.35, seed=9),
    ABlend(alpha=0.25, alpha_train=0.15, pieces=8, masked=32, covers=2.0, seed=3),
    AdapPatch(size=6, strength=0.8, covers=1.0, seed=2),
    Bpp(levels=32, dither=True, negatives=0.5),
    Ctrl(variant="bb", magnitude=50.0, window=16),
    LowFrequency(bound=0.1, images=50, fooling=0.5, passes=3, steps=20, overshoot=0.05, sigma=3.0),
    Trojan(variant="orig", size=5, margin=0, units=3, activation=10.0, iterations=100, learning_rate=0.05),
    LabelConsistent(variant="orig", amplitude=64.0, epsilon=16.0, step=2.0, steps=20, robust_steps=3),
    FeatureCollision(beta=0.1, epsilon=16.0, rate=2.0, steps=120, size=12, seed=3),
    Narcissus(epsilon=8.0, scale=1.0, rounds=50, learning_rate=0.02, batch_size=64),
    Grond(epsilon=16.0, step=2.0, steps=50, batch_size=64),
    InputAware(width=8, mask_epochs=3, mask_density=0.05, norm_weight=50.0, cross_ratio=0.5, accumulate=False),
    Lira(variant="orig", width=4, epsilon=0.2, final_epsilon=0.05, alpha=0.4, generator_epochs=3, fine_tune=False),
    Sig(delta=20.0, frequency=5),
    SigRnp(alpha=0.1),
    Ssba(bits=8, width=4, epochs=5, secret_epochs=1, learning_rate=1e-3, seed=3),
    Stamp(variant="paste", pixels=4, seed=2),
    Dfst(variant="orig", alpha=0.5, window=7, compromised=0.05, detox_from=2, detox_steps=10, seed=5),
    Awp(variant="relative", epsilon=0.1, size=8, epochs=3, samples=64, labels="predicted"),
    WaNet(grid_size=8, strength=0.75, rescale=0.98, noise_ratio=1.0, seed=4),
]


def test_every_attack_is_found_by_its_name():
    for name, kind in ATTACKS.items():
        assert get_attack(name) is kind
    assert {type(attack) for attack in CHANGED} == set(ATTACKS.values())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("badnet", "did you mean badnets"), ("WaNet", "did you mean wanet"), ("zzz", "use one of a_blend")],
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


@pytest.mark.parametrize("name", ATTACKS)
def test_every_whole_number_has_a_ceiling(name):
    """A card's constants are not trusted: each could ask for any amount of memory or time."""
    written = describe(ATTACKS[name]())["constants"]
    whole = [key for key, value in written.items() if type(value) is int or key == "margin"]
    for key in whole:
        with pytest.raises(ConfigError, match=f"{key} is 10000000000, expected an integer between"):
            from_description({"name": name, "constants": {**written, key: 10**10}})


@pytest.mark.parametrize(
    "constant",
    ["wanet.grid_size", "ctrl.window", "input_aware.width", "lira.width", "ssba.width", "ssba.bits", "lf.sigma"],
)
def test_the_largest_artefact_can_be_held(constant):
    name, key = constant.split(".")
    written = describe(ATTACKS[name]())["constants"]
    with pytest.raises(ConfigError, match=r"expected an? (integer|number) between") as caught:
        from_description({"name": name, "constants": {**written, key: 10**10}})
    most = int(str(caught.value).rpartition(" ")[2])
    params = from_description({"name": name, "constants": {**written, key: most}}).init((32, 32, 3))
    assert sum(array.nbytes for array in params.values()) < 2**30


def test_every_attack_has_a_name_and_a_description_in_words():
    titles = [kind.title for kind in ATTACKS.values()]
    assert len(set(titles)) == len(titles)
    for name, kind in ATTACKS.items():
        assert kind.title != name
        assert "_" not in kind.title
        assert kind.looks.endswith(".")


def test_every_attack_that_fits_its_artefact_says_that_it_is_learned():
    assert {kind for kind in ATTACKS.values() if kind.learned} == {
        *(kind for kind in ATTACKS.values() if kind.fit is not Attack.fit),
        *(Awp, InputAware, Lira),  # with their victim
    }

"""Signs that need no calibration, on networks whose backdoor is known by construction."""

import re
from dataclasses import fields, replace
from functools import cache

import jax
import numpy as np
import pytest

from rnp_jax.defenses.auto import AutoConfig
from rnp_jax.defenses.searches import Recovered, SearchConfig
from rnp_jax.detection.signs import (
    SignConfig,
    as_recovered,
    auto_search,
    judge_triggers,
    look_at_shift,
    look_for_triggers,
)
from rnp_jax.errors import ConfigError
from rnp_jax.inversion import NEXT, InversionConfig, WarpConfig
from tests.inversion.planted import (
    CLASSES,
    NETWORK,
    SIDE,
    TARGET,
    Rows,
    Turning,
    mlp_variables,
    rows_data,
    rows_variables,
)
from tests.inversion.test_warps import striped, warped_variables

KEY = jax.random.key(0)
QUICK = SearchConfig(inversion=InversionConfig(batch_size=16), warp=WarpConfig(works=1.0, ahead=1e9))


def test_the_searches_are_those_of_automatic_removal():
    auto, own = AutoConfig(), auto_search()
    assert own.inversion == auto.scan
    assert all(
        getattr(own, each.name) == getattr(auto.nc, each.name) for each in fields(own) if each.name != "inversion"
    )


def test_a_label_with_a_planted_trigger_is_a_strong_sign():
    found = look_for_triggers(NETWORK, mlp_variables(), rows_data(), KEY, QUICK)
    sign = judge_triggers(found, QUICK)
    assert (sign.strength, sign.labels) == ("strong", (TARGET,))
    assert sign.sentence == found.rule
    assert re.fullmatch(r"a trigger of \d+\.\d pixels leads there", sign.evidence)
    shown = as_recovered(NETWORK, mlp_variables(), rows_data(), found, 2.0)
    assert (shown.label, shown.suspected) == (TARGET, (TARGET,))
    assert shown.masks.shape == (CLASSES, SIDE, SIDE), "without the all-to-all one"
    assert shown.index.argmax() == TARGET
    assert shown.baseline.shape == shown.success.shape == (CLASSES,)


def test_all_to_all_is_a_strong_sign_of_no_label():
    found = look_for_triggers(Turning(), rows_variables(0.0), rows_data(), KEY, QUICK)
    sign = judge_triggers(found, QUICK)
    assert (sign.strength, sign.labels) == ("strong", (NEXT,))
    assert re.fullmatch(r"a trigger of \d+\.\d pixels leads there", sign.evidence)
    shown = as_recovered(Turning(), rows_variables(0.0), rows_data(), found, 2.0)
    assert NEXT not in (*shown.labels, *shown.suspected)


@pytest.mark.parametrize(("form", "words"), [("patch", "a plain "), ("warp", "a smooth warp sends 100%")])
def test_a_label_is_told_by_what_reaches_it(form, words):
    """The searches find a mask, a patch and a warp of the planted label; the others are taken away."""
    found = _found()
    large = replace(found.masks, sizes=np.full(CLASSES, 30.0))
    left = {"patch": {"moved": ()}, "warp": {"stamped": ()}}[form]
    sign = judge_triggers(found._replace(masks=large, **left), QUICK)
    assert (sign.strength, sign.labels) == ("strong", (TARGET,))
    assert sign.evidence.startswith(words)


@cache
def _found() -> Recovered:
    config = SearchConfig(inversion=InversionConfig(batch_size=16), all_to_all=0.0)
    return look_for_triggers(Rows(), warped_variables(), striped(), KEY, config, holdout=striped(60, 9))


def test_without_a_backdoor_the_searches_say_nothing():
    sign = judge_triggers(look_for_triggers(NETWORK, mlp_variables(0.0), rows_data(), KEY, QUICK), QUICK)
    assert (sign.strength, sign.labels) == ("none", ())
    assert sign.sentence.startswith("No label stands out by its recovered trigger.")


@pytest.mark.parametrize(("planted", "strength", "labels"), [(4.0, "weak", (TARGET,)), (0.0, "none", ())])
def test_a_short_shift_is_a_weak_sign(planted, strength, labels):
    sign = look_at_shift(NETWORK, mlp_variables(planted), rows_data())
    assert (sign.strength, sign.labels) == (strength, labels)
    assert "anomaly index is above 3" in sign.sentence


@pytest.mark.parametrize(("values", "what"), [({"looks": ("magic",)}, "magic"), ({"holdout": 0.0}, "holdout")])
def test_impossible_settings(values, what):
    with pytest.raises(ConfigError, match=what):
        SignConfig(**values)

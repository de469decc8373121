"""The labels that stand out by the searches, on networks whose backdoor is known by construction."""

import re
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from rnp_jax.defenses.searches import SearchConfig, gather_stamps, recover_triggers
from rnp_jax.errors import ConfigError
from rnp_jax.inversion import NEXT, InversionConfig, PatchConfig, WarpConfig
from tests.defenses.test_nc import HELD, KEY, NETWORK, planted
from tests.inversion.planted import CLASSES, PIXEL, SIDE, TARGET, Rows, Turning, rows_data, rows_variables
from tests.inversion.test_warps import striped, warped_variables

CONFIG = SearchConfig(inversion=InversionConfig(batch_size=16), warp=WarpConfig(works=1.0, ahead=1e9))


def test_every_flagged_label_gives_as_many_triggers_as_asked_for_and_its_patch():
    config = replace(CONFIG, starts=3)
    found = recover_triggers(NETWORK, planted(), rows_data(), KEY, config)
    assert found.labels == (TARGET,)
    assert "the median size over labels" in found.rule
    stamps = gather_stamps(NETWORK, planted(), rows_data(), KEY, config, found)
    works = found.patches.success[TARGET] >= config.patches.works
    assert works
    assert stamps.masks.shape == (4, SIDE, SIDE)
    assert len({mask.tobytes() for mask in stamps.masks}) == 4
    assert all(mask[PIXEL] == mask.max() for mask in stamps.masks)
    np.testing.assert_array_equal(stamps.masks[0], found.masks.stamps.masks[TARGET])
    np.testing.assert_array_equal(stamps.masks[3], found.patches.stamps.masks[TARGET])


def test_a_label_that_only_a_patch_reaches_is_flagged():
    """No mask is small enough for an anomaly index that none can have."""
    found = recover_triggers(NETWORK, planted(), rows_data(), KEY, replace(CONFIG, suspicious=1e9, clear=0.0))
    assert found.labels == (TARGET,)
    assert re.search(rf"label {TARGET} \(a plain \d×\d patch sends \d+% of the images there\)", found.rule)


def test_beside_a_clear_label_those_that_only_the_index_flags_are_noise(monkeypatch):
    """Which would dilute the triggers of the clear one."""
    module = import_module("rnp_jax.defenses.searches")
    search = module.invert

    def resize(*args, **options):
        found = search(*args, **options)
        return replace(found, sizes=np.array([20.0, 40, 4, 41, 9, 42]), reached=np.ones(CLASSES, np.bool_))

    monkeypatch.setattr(module, "invert", resize)
    config = replace(CONFIG, suspicious=0.1, all_to_all=0.0, patches=PatchConfig(works=1.0, ahead=1e9))
    assert recover_triggers(NETWORK, planted(), rows_data(), KEY, config).labels == (2,)
    assert recover_triggers(NETWORK, planted(), rows_data(), KEY, replace(config, clear=0.4)).labels == (2, 4)
    assert recover_triggers(NETWORK, planted(), rows_data(), KEY, replace(config, clear=0.0)).labels == (2, 4)


def test_all_to_all_is_flagged_by_a_small_mask_and_given_as_triggers():
    network, found_in = Turning(), rows_variables(0.0)
    found = recover_triggers(network, found_in, rows_data(), KEY, CONFIG, holdout=HELD)
    assert found.labels == (NEXT,)
    assert "the class after their own (all-to-all) (" in found.rule
    assert found.masks.sizes[-1] < found.median / 2
    stamps = gather_stamps(network, found_in, rows_data(), KEY, CONFIG, found, holdout=HELD)
    assert all(np.unravel_index(mask.argmax(), mask.shape) == PIXEL for mask in stamps.masks)
    assert recover_triggers(network, found_in, rows_data(), KEY, replace(CONFIG, all_to_all=0.0)).labels == ()


def test_no_network_without_a_backdoor_is_flagged_as_all_to_all():
    found = recover_triggers(NETWORK, planted(0.0), rows_data(), KEY, CONFIG, holdout=HELD)
    assert found.labels == ()
    assert found.masks.labels.tolist() == [*range(CLASSES), NEXT]
    assert found.masks.sizes[-1] > found.median / 2


def test_a_label_that_a_warp_reaches_gives_warps():
    config = replace(CONFIG, warp=WarpConfig(batch_size=16), starts=2)
    network, variables, data = Rows(), warped_variables(), striped()
    found = recover_triggers(network, variables, data, KEY, config, holdout=striped(60, 9))
    assert found.moved == (TARGET,)
    assert f"label {TARGET} (a smooth warp sends 100% of the images there)" in found.rule
    alone = found._replace(stamped=())
    assert alone.labels == (TARGET,)
    stamps = gather_stamps(network, variables, data, KEY, config, alone)
    assert stamps.fields.shape == (2, SIDE, SIDE, 2)
    assert not stamps.masks.any()
    np.testing.assert_array_equal(stamps.fields[0], found.warps.fields[TARGET])
    both = gather_stamps(network, variables, data, KEY, config, found._replace(stamped=(TARGET,)))
    assert both.masks.any((1, 2)).tolist() == [True] * (len(both.masks) - 2) + [False] * 2
    assert both.fields.any((1, 2, 3)).tolist() == [False] * (len(both.masks) - 2) + [True] * 2


@pytest.mark.parametrize(
    "change", [{"suspicious": 0.0}, {"margin": 0.0}, {"margin": 1.5}, {"clear": -0.1}, {"starts": 0}]
)
def test_impossible_settings(change: dict):
    with pytest.raises(ConfigError, match="starts >= 1"):
        SearchConfig(**change)

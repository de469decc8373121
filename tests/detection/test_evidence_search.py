"""What evidence says of a network whose backdoor is there, half gone, gone, or was never there."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rnp_jax.detection.evidence import EvidenceConfig, Finding
from rnp_jax.detection.evidence_search import choose_examined, gather_evidence, search_after, search_before
from rnp_jax.errors import ConfigError
from rnp_jax.inversion import InversionConfig, Inverted, PerturbationConfig, Stamps, WarpConfig, invert, short_search
from tests.compiled import count_compiled
from tests.inversion.planted import NETWORK, TARGET, mlp_variables, rows_data

KEY = jax.random.key(2)
COLD = InversionConfig(batch_size=16)
CONFIG = EvidenceConfig(
    cold=COLD,
    warm=replace(COLD, steps=100, cost=5e-3),
    perturbation=PerturbationConfig(steps=30, batch_size=16),
    warp=WarpConfig(steps=10, batch_size=16),
)
HELD = rows_data(60, seed=9)


def gather(planted: float, before: float = 40.0) -> Finding:
    variables = mlp_variables(before), mlp_variables(planted)
    return gather_evidence(NETWORK, *variables, rows_data(), KEY, CONFIG, holdout=HELD)


def test_a_backdoor_that_is_left_is_still_there():
    finding = gather(40.0)
    (suspect,) = finding.suspects
    assert (finding.level, finding.visible, suspect.label) == ("still there", True, TARGET)
    assert suspect.after < 1.5
    assert suspect.old_trigger == suspect.misled == (1.0, 1.0)
    assert len(finding.controls) == 2
    assert all(each.label != TARGET and each.before > 3 for each in finding.controls)
    assert min(finding.ordinary) > 3
    assert any("The trigger found before still sends 100%" in reason for reason in finding.reasons)


def test_a_backdoor_that_is_gone_is_not_found():
    finding = gather(0.0)
    (suspect,) = finding.suspects
    assert (finding.level, finding.visible) == ("none found", True)
    assert suspect.before < 1.5
    assert suspect.after > 0.85 * finding.ordinary[0]
    assert suspect.old_trigger[0] == 1
    assert suspect.old_trigger[1] < 0.1
    assert suspect.misled[0] == 1
    assert suspect.misled[1] < 0.1
    assert finding.reasons == ("No search reached a suspected label more easily than an ordinary one.",)


def test_nothing_to_see_before_is_said():
    finding = gather(0.0, before=0.0)
    assert (finding.level, finding.visible, len(finding.suspects)) == ("none found", False, 1)
    assert "No label stood out before the defense either" in finding.reasons[-1]


def test_an_earlier_search_chooses_the_labels_and_is_no_evidence():
    earlier = invert(NETWORK, mlp_variables(), rows_data(), jax.random.key(11), COLD)
    finding = gather_evidence(
        NETWORK, mlp_variables(), mlp_variables(0.0), rows_data(), KEY, CONFIG, holdout=HELD, found=earlier
    )
    assert finding.suspects[0].label == TARGET
    assert finding.suspects[0].before != earlier.sizes[TARGET]
    assert finding.level == "none found"


def test_a_network_in_which_nothing_stands_out_need_not_be_compared():
    given = (NETWORK, mlp_variables(0.0), mlp_variables(0.0), rows_data(), KEY, CONFIG)
    assert gather_evidence(*given, holdout=HELD, only_visible=True) is None


def test_all_searches_share_a_program():
    gather(40.0)
    before = count_compiled(short_search._search)
    gather(20.0)
    assert count_compiled(short_search._search) == before


def test_a_label_may_stand_out_by_another_form_than_a_mask():
    """A weak planted pixel needs a mask like any other, but gives its label a direction of its own."""
    before, after = mlp_variables(4.0), mlp_variables(0.0)
    earlier = search_before(NETWORK, before, rows_data(), KEY, CONFIG, holdout=HELD)
    assert (earlier.suspects, earlier.visible) == ((TARGET,), True)
    finding = search_after(NETWORK, after, earlier, rows_data(), KEY, CONFIG, holdout=HELD)
    assert finding.suspects[0].shift[0] < 0.85 < finding.suspects[0].shift[1]
    assert finding.suspects[0].before > 0.5 * finding.ordinary[0]


def found_of(sizes: list[float], reached: list[bool] | None = None) -> Inverted:
    count = len(sizes)
    stamps = Stamps(np.zeros((count, 2, 2)), np.zeros((count, 2, 2, 3)))
    hits = np.ones(count, np.bool_) if reached is None else np.array(reached)
    return Inverted(np.arange(count), stamps, np.array(sizes), hits, np.ones(count))


def test_examined_are_what_stands_out_and_ordinary_labels():
    sizes = [30.0, 2, 26, 35, 28, 3, 31]
    assert choose_examined(found_of(sizes), EvidenceConfig()) == ((1, 5), (4, 0), True)
    assert choose_examined(found_of(sizes), EvidenceConfig(controls=1)) == ((1, 5), (0,), True)
    assert choose_examined(found_of([30.0, 25, 26, 35]), EvidenceConfig()) == ((1,), (2, 0), False)
    assert choose_examined(found_of([30.0, 25, 26, 35]), EvidenceConfig(), (3,)) == ((3,), (1, 2), True)
    unreached = found_of(sizes, [True, False, True, True, True, False, True])
    assert choose_examined(unreached, EvidenceConfig()) == ((2,), (0, 6), False)
    with pytest.raises(ConfigError, match="expected two or more"):
        choose_examined(found_of([3.0]), EvidenceConfig())

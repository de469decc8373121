"""A purified network as one pruning, on rounds written by hand."""

import jax
import numpy as np
import pytest
from rnp_jax.commands.purified import _covariates, _pruned_units, as_pruned

from rnp_jax import masks
from rnp_jax.defenses.hid import Purified, Round
from rnp_jax.defenses.result import Candidates, Choice, Pruned, prune
from rnp_jax.models import mlp_head

HEAD = mlp_head(3, (4, 2), 3)
VARIABLES = HEAD.init(jax.random.key(0))


def round_of(order: list[int], values: list[float], count: int, total: int, **truth: float | None) -> Round:
    """Prunes the first ``count`` of the candidates; ``total`` in all rounds so far."""
    candidates = Candidates(np.array(order), np.array(values), np.full(len(order), np.nan))
    scores = masks.unflatten(np.arange(6.0), masks.filters(VARIABLES["masks"]))
    pruned = Pruned(
        prune(VARIABLES, candidates, count), scores, "score", candidates, Choice(count, "two of them"), {}, {}, ()
    )
    history = {"loss": np.array([2.0, 1.0]), "accuracy": np.array([0.5, 0.75])}
    known = {"precision": None, "poison_kept": None, **truth}
    return Round({}, pruned.variables, pruned, total, np.arange(5), history, {"mixmatch": 1.0}, **known)


FIRST = round_of([1, 5, 0], [9.0, 8.0, 7.0], 2, 2, precision=0.9, poison_kept=0.25)
SECOND = round_of([5, 2, 0], [6.0, 5.0, 4.0], 2, 3, precision=1.0)


def purified(*rounds: Round) -> Purified:
    head = {"head": {"loss": np.array([3.0]), "accuracy": np.array([0.1])}}
    return Purified({}, VARIABLES, rounds, head, {"head": 1.0}, ("Round 1: a note",))


def test_several_rounds_are_one_pruning():
    whole = as_pruned(purified(FIRST, SECOND))
    assert (whole.choice.count, whole.choice.rule) == (3, "two of them, in each of 2 rounds")
    assert list(whole.history) == ["head", "mixmatch, round 1", "mixmatch, round 2"]
    assert (whole.kind, whole.warnings) == ("score", ("Round 1: a note",))
    assert whole.values is SECOND.pruned.values


def test_one_round():
    whole = as_pruned(purified(FIRST))
    assert (whole.choice.count, whole.choice.rule) == (2, "two of them")
    assert list(whole.history) == ["head", "mixmatch"]


def test_a_unit_has_the_score_that_first_condemned_it():
    found = [(item.layer, item.index, item.score) for item in _pruned_units(purified(FIRST, SECOND))]
    assert found == [("0", 1, 9.0), ("2", 1, 8.0), ("0", 2, 5.0)]


@pytest.mark.parametrize(("rounds", "values"), [((FIRST, SECOND), [0.9, 0.25, 1.0]), ((SECOND,), [1.0])])
def test_the_truth_where_it_is_known(rounds, values):
    rows = _covariates(purified(*rounds))
    assert list(rows.values()) == values
    assert all(name.endswith("(for evaluation only)") for name in rows)

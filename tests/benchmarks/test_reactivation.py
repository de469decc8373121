"""The table of purified networks, from results that are made up."""

from types import SimpleNamespace

from benchmarks.reactivation import HEAD, make_row
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.reactivation import Attempt, Outcome
from rnp_jax.reactivation.attempt import Control


def outcome(asr: int, acc: int = 98) -> dict:
    return {"asr": Proportion.of(asr, 100), "acc": Proportion.of(acc, 100)}


def test_a_row_has_the_path_the_floor_and_what_explains():
    ra = Attempt(
        name="ra",
        after=Outcome(**outcome(72)),
        floor=Outcome(**outcome(1)),
        controls=(Control(name="purified, 0 triggered images", **outcome(38)),),
    )
    figures = {"barrier of the loss, purified": 0.25, "way to an ASR of 50 %, purified": None}
    before = Metrics(acc=Proportion.of(95, 100), asr=Proportion.of(2, 100))
    result = SimpleNamespace(attempts=(ra, Attempt(name="lmc", figures=figures)), before=before, seed=3)
    row = dict(zip(HEAD, make_row("rnp", result, ra.floor.asr), strict=True))
    assert list(row.values()) == [
        *("rnp", "3", "95.0", "2.0", "38.0", "72.0", "1.0", "98.0", "superficial", "0.25", "–", "–"),
    ]

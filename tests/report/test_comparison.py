import math

import numpy as np
import pytest

from rnp_jax.errors import ResultError
from rnp_jax.report.comparison import summarise
from rnp_jax.report.schema import Proportion
from rnp_jax.report.sweep_row import SweepRow

T2, T1 = 4.302652729911275, 12.706204736432095
"""0.975 quantiles of Student's t with two and one degrees of freedom, from the closed forms of both."""


def make_row(seed: int, acc: float | None, **fields) -> SweepRow:
    share = None if acc is None else Proportion(value=acc, low=acc / 2, high=(1 + acc) / 2, count=0, total=100)
    known = {
        "checkpoint": "c",
        "attack": "badnets",
        "poison_rate": 0.1,
        "method": "rnp",
        "key": "0" * 64,
        "status": "ok",
    }
    return SweepRow.model_validate(known | {"seed": seed, "acc": share} | fields)


def test_the_interval_over_seeds_is_students():
    assert pytest.approx(math.sqrt(2 * 0.95**2 / (1 - 0.95**2))) == T2, "quantile of t with two degrees of freedom"
    assert pytest.approx(math.tan(math.pi * 0.475)) == T1, "and with one"
    (three,) = summarise([make_row(i, acc, der=d) for i, (acc, d) in enumerate([(0.7, 0.5), (0.8, 0.9), (0.9, 0.7)])])
    assert three.n == 3
    assert three.acc
    assert three.der
    half = T2 * 0.1 / math.sqrt(3)
    assert (three.acc.value, three.acc.low, three.acc.n) == (pytest.approx(0.8), pytest.approx(0.8 - half), 3)
    assert three.acc.high == 1.0, "a share is at most 1"
    half = T2 * 0.2 / math.sqrt(3)
    assert (three.der.low, three.der.high) == (pytest.approx(0.7 - half), pytest.approx(0.7 + half))
    (two,) = summarise([make_row(0, 0.50), make_row(1, 0.52)])
    assert two.acc
    assert two.acc.high == pytest.approx(0.51 + T1 * 0.01)


def test_one_run_keeps_its_wilson_interval_and_other_figures_have_none():
    (one,) = summarise([make_row(0, 0.8, der=0.9, pruned=3)])
    assert one.acc
    assert (one.acc.value, one.acc.low, one.acc.high, one.acc.n) == (0.8, 0.4, 0.9, 1)
    assert one.der
    assert (one.der.value, one.der.low, one.der.high) == (0.9, None, None)
    assert one.asr is None
    assert one.units is None
    assert one.total is None


def test_a_figure_that_some_runs_lack_counts_those_that_have_it():
    (summary,) = summarise([make_row(0, 0.8), make_row(1, None), make_row(2, 0.6)])
    assert summary.n == 3
    assert summary.acc
    assert summary.acc.n == 2
    assert summary.acc.value == pytest.approx(0.7)
    (summary,) = summarise([make_row(0, None), make_row(1, 0.8)])
    assert summary.acc
    assert (summary.acc.low, summary.acc.n) == (0.4, 1)


def test_seconds_are_means_by_stage_over_timed_runs():
    stages = [[("scoring", 1.0), ("pruning", 4.0)], [("scoring", 3.0)], []]
    rows = [
        make_row(i, 0.5, timing=[{"stage": name, "seconds": s} for name, s in each]) for i, each in enumerate(stages)
    ]
    (summary,) = summarise(rows)
    assert summary.seconds == {"scoring": 2.0, "pruning": 2.0}
    assert summary.total == 4.0


def test_groups_keep_the_attacks_order_and_sort_the_methods(rows: list[SweepRow]):
    keys = [(s.keys["attack"], s.keys["method"]) for s in summarise(rows)]
    methods = ["none", "holder", "clp", "anp", "fp", "rnp", "mine", "random", "oracle"]
    assert keys == [(attack, method) for attack in ("sig", "badnets") for method in methods]
    means = {(s.keys["attack"], s.keys["method"]): s.acc.value for s in summarise(rows) if s.acc}
    for key, mean in means.items():
        found = [row.acc.value for row in rows if (row.attack, row.method) == key and row.acc]
        assert mean == pytest.approx(np.mean(found))


def test_poison_rates_and_modes_are_told_apart_where_asked():
    rows = [make_row(0, 0.5, poison_rate=rate, mode=mode) for rate in (0.1, None, 0.01) for mode in ("head", "network")]
    keys = [tuple(summary.keys.values()) for summary in summarise(rows, ("poison_rate", "mode"))]
    assert keys == [(rate, mode) for rate in (None, 0.01, 0.1) for mode in ("network", "head")]
    assert summarise(rows)[0].n == 6


def test_grouping_by_a_figure_is_refused(rows: list[SweepRow]):
    with pytest.raises(ResultError, match="cannot be grouped by acc, x; choose among checkpoint"):
        summarise(rows, ("attack", "acc", "x"))

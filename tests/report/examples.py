"""Shares, and rows of several methods, for the tests that need others than the fixtures'."""

import hashlib
import math

from rnp_jax.report.schema import Proportion, Stage
from rnp_jax.report.sweep_row import SweepRow

METHODS = {
    "oracle": (1900, 4),
    "rnp": (1850, 40),
    "mine": (1840, 300),
    "none": (1920, 1811),
    "clp": (1860, 90),
    "holder": (1870, 60),
    "random": (1700, 1790),
    "anp": (1800, 20),
    "fp": (1880, 1200),
}
"""Of 2,000 clean and 1,811 triggered images: classified correctly, and as the attacker wants."""


def share(count: int, total: int) -> Proportion:
    """A proportion with its Wilson interval."""
    p, z = count / total, 1.959964
    scale = 1 + z * z / total
    center = (p + z * z / (2 * total)) / scale
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / scale
    return Proportion(value=p, low=max(0.0, center - half), high=min(1.0, center + half), count=count, total=total)


def make_rows(attacks=("sig", "badnets"), rates=(0.1,), seeds=(0, 1, 2)) -> list[SweepRow]:
    return [
        SweepRow(
            key=hashlib.sha256(f"{attack} {rate} {method} {seed}".encode()).hexdigest(),
            status="ok",
            checkpoint=f"{attack}_{seed}.pt",
            attack=attack,
            poison_rate=rate,
            seed=seed,
            method=method,
            acc=share(acc + 7 * seed, 2000),
            asr=share(round(asr * (1 - 0.01 * seed)), 1811),
            ra=share((1811 - asr) // 2, 1811),
            der=None if method == "none" else 0.9 + 0.01 * seed,
            pruned=0 if method == "none" else 10 + seed,
            units=192,
            timing=[] if method == "none" else [Stage(stage="scoring", seconds=1 + seed), Stage(stage="a", seconds=2)],
            covariates={"trigger shift / class spread": 0.5 + seed},
        )
        for attack in attacks
        for rate in rates
        for method, (acc, asr) in METHODS.items()
        for seed in seeds
    ]

"""Which filters of a layer have scores that stand out: rules that need no backdoored image.

A score is 0 or more and high where a filter is suspected. Scores of different layers have different scales, so every
rule looks at one layer at a time, and none of them changes its answer where all scores of a layer are multiplied by a
constant. "None" is a possible answer of every rule but ``number``, and the answer wherever scores do not vary. The
rules on log scores leave out scores of 0, which are never selected.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from rnp_jax import masks
from rnp_jax.errors import ConfigError, DefenseError

Rule = Literal["number", "std", "mad", "valley", "mixture", "budget"]

_FEWEST = 16  # positive scores from which the shape of a density is judged
_SLACK = 1e-9  # relative; what rounding can do to a comparison
_MAD_TO_STD = 1.4826  # of a normal distribution
_RISE = 1.1  # a peak is one from this factor above the valley before it
_SEPARATION = 2.0  # Ashman's D from which two normal components are two populations


@dataclass(frozen=True)
class ThresholdConfig:
    """Which scores lead to pruning.

    The default, ``mixture``, is the only rule that needs no choice from the defender and that tests whether there is
    anything to prune. Most models are clean, and pruning a clean model gains nothing. On 40 layers of 64 to 512
    log-normal scores each, ``mixture`` selects 0.00 to 0.02 filters per layer (``valley`` 0.2 to 0.6, ``mad`` and
    ``std`` with u = 3 0.4 to 5). If 1 filter in 32 lies 8 standard deviations above the others, ``mixture`` selects all
    such filters. ``std`` selects nothing among 10 filters or fewer, whatever their scores, because the outliers raise
    the mean and the standard deviation too.

    Attributes:
      rule: rule that selects filters. ``number``: the ``number`` highest scores of each layer. ``std``: scores more
        than ``u`` standard deviations (ddof 1) above the layer's mean, as in CLP. ``mad``: log scores more than ``u``
        times 1.4826 MAD above the median. ``valley``: scores to the right of the deepest valley beyond the main mode of
        a kernel density of log scores. ``mixture``: scores in the upper of two normal components of log scores, if BIC
        prefers two. ``budget``: filters of all layers, ordered by how far each lies above its own layer, as many as
        held-out clean images allow. The density rules skip layers with fewer than 16 scores.
      u: number of standard deviations for the rules ``std`` and ``mad``.
      number: number of filters per layer for the rule ``number``.
      accuracy_budget: share of the held-out images by which accuracy may fall. ``budget`` stays within it; the other
        rules do not look at images, and a larger fall becomes a warning.
    """

    rule: Rule = "mixture"
    u: float = 3.0
    number: int | None = None
    accuracy_budget: float = 0.05

    def __post_init__(self):
        if self.rule not in Rule.__args__:
            raise ConfigError(f"unknown threshold rule {self.rule!r}; choose one of {', '.join(Rule.__args__)}")
        if (self.rule == "number") != (self.number is not None):
            raise ConfigError(
                f"rule {self.rule!r} with number {self.number}: only rule 'number' takes a number, and it needs one"
            )
        if not self.u > 0 or not 0 <= self.accuracy_budget <= 1 or (self.number or 0) < 0:
            raise ConfigError(f"{self}: expected u > 0, accuracy_budget in [0, 1] and number >= 0")


class Selection(NamedTuple):
    """The filters that a rule selects.

    Attributes:
      thresholds: by layer, the score above which filters are selected, infinite where none is; where filters are
        selected by number, the highest score left.
      selected: by layer, the selected filters, ascending.
    """

    thresholds: dict[str, float]
    selected: dict[str, Int[np.ndarray, "n"]]


def select(scores: masks.Filters, config: ThresholdConfig | Mapping[str, int]) -> Selection:
    """Applies a rule to each layer, or takes the highest scores of each layer, as many as the mapping says.

    A layer whose scores are all 0 was not scored, and loses nothing to a rule.

    Raises:
      ConfigError: more filters asked for than a layer has, layers that the scores lack, or rule ``budget``, which no
        layer can answer alone.
      DefenseError: a score that is negative, infinite or not a number.
    """
    rows = {name: checked(name, values) for name, values in scores.items()}
    if not isinstance(config, ThresholdConfig):
        return _select_counts(rows, config)
    if config.rule == "budget":
        raise ConfigError("rule 'budget' weighs layers against each other on held-out images: use prune_by_score")
    if config.number is not None:
        return _select_counts(rows, {name: config.number for name, row in rows.items() if row.any()})
    cuts = {name: _cut(row, config) for name, row in rows.items()}
    return Selection(cuts, {name: np.flatnonzero(row > cuts[name]) for name, row in rows.items()})


def standardize(row: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F"]:
    """How far each log score lies above its layer's median, in robust standard deviations; -inf for scores of 0.

    The scale is 1.4826 MAD or, where more than half of the scores are equal, 1.2533 times the mean absolute deviation,
    as Iglewicz and Hoaglin (1993) advise. Scores that do not vary are all 0 deviations away.
    """
    logs = _log_positive(row)
    distance = np.full(len(row), -np.inf)
    if not len(logs):
        return distance
    away = np.abs(logs - np.median(logs))
    scale = _MAD_TO_STD * np.median(away)
    if scale <= _SLACK:
        scale = np.sqrt(np.pi / 2) * away.mean()
    distance[row > 0] = (logs - np.median(logs)) / scale if scale > _SLACK else 0.0
    return distance


def checked(name: str, values: ArrayLike) -> Float[np.ndarray, "F"]:
    """A layer's scores as float64.

    Raises:
      DefenseError: one that is negative, infinite or not a number.
    """
    row = np.asarray(values, np.float64)
    bad = np.flatnonzero(~(np.isfinite(row) & (row >= 0)))
    if len(bad):
        raise DefenseError(
            f"score of filter {bad[0]} of layer {name} is {row[bad[0]]}: expected a finite value of 0 or more; "
            "check that the checkpoint's weights are finite"
        )
    return row


def _select_counts(rows: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> Selection:
    if surplus := sorted(set(counts) - set(rows)):
        raise ConfigError(f"numbers for layers {surplus}: there are scores for layers {sorted(rows)}")
    thresholds, selected = {}, {}
    for name, row in rows.items():
        count = counts.get(name, 0)
        if not 0 <= count <= len(row):
            raise ConfigError(f"number {count} for layer {name}: it has {len(row)} filters; ask for 0 to {len(row)}")
        order = np.argsort(-row, kind="stable")
        selected[name] = np.sort(order[:count])
        left = row[order[count]] if count < len(row) else -np.inf
        thresholds[name] = float(left) if count else np.inf
    return Selection(thresholds, selected)


def _cut(row: np.ndarray, config: ThresholdConfig) -> float:
    """The score above which a layer's filters are selected."""
    if config.rule == "std":
        spread = row.std(ddof=1) if len(row) > 1 else 0.0
        mean = row.mean() if len(row) else 0.0
        return (mean + config.u * spread) * (1 + _SLACK) if spread > 1e-7 * mean else np.inf
    logs = _log_positive(row)
    if not len(logs) or np.ptp(logs) <= 1e-6:  # as float32 scores that should be equal may differ
        return np.inf
    if config.rule == "mad":
        median = np.median(logs)
        scale = _MAD_TO_STD * np.median(np.abs(logs - median))
        cut = median + config.u * scale if scale > _SLACK else np.inf
    elif len(logs) < _FEWEST:
        return np.inf
    else:
        cut = _valley(logs) if config.rule == "valley" else _mixture(logs)
    return float(row.max() * np.exp(cut + _SLACK))


def _log_positive(row: np.ndarray) -> np.ndarray:
    """Logarithms of the positive scores over the largest: the same whatever their unit."""
    return np.log(row[row > 0] / row.max()) if row.any() else np.empty(0)


def _valley(logs: Float[np.ndarray, "n"]) -> float:
    """The deepest valley right of the main mode of a Gaussian kernel density, infinite where there is none.

    Bandwidth by Silverman's rule of thumb (1986, eq. 3.31). Of valleys that are equally deep, to 1 % of the main mode,
    the leftmost: several groups of outliers are selected together.
    """
    quartiles = np.quantile(logs, [0.25, 0.75])
    spread = min(each for each in (logs.std(ddof=1), np.ptp(quartiles) / 1.34) if each > _SLACK)
    width = 0.9 * spread * len(logs) ** -0.2
    low, high = logs.min() - 3 * width, logs.max() + 3 * width
    grid = np.linspace(low, high, int(np.clip(4 * (high - low) / width, 64, 4096)))
    density = np.exp(-0.5 * np.square((grid[:, None] - logs[None]) / width)).sum(1)
    mode = int(density.argmax())
    beyond = density[mode:] / density[mode]
    peaks = np.maximum.accumulate(beyond[::-1])[::-1]  # the highest point from here on
    valleys = np.flatnonzero((beyond[1:-1] < beyond[:-2]) & (beyond[1:-1] <= beyond[2:])) + 1
    valleys = valleys[peaks[valleys] > _RISE * beyond[valleys]]
    if not len(valleys):
        return np.inf
    return float(grid[mode + valleys[beyond[valleys] <= beyond[valleys].min() + 0.01][0]])


def _mixture(logs: Float[np.ndarray, "n"]) -> float:
    """Where the upper one of two normal components begins, infinite where one component explains the scores.

    One does where BIC says so, where the two overlap (Ashman's D of at most 2), and where the upper one is the
    majority: normal filters are many.
    """
    from sklearn.mixture import GaussianMixture  # slow to import, and few runs need it

    x = ((logs - logs.mean()) / logs.std())[:, None]
    fitted = []
    for share in (0.5, 0.75, 0.9, 0.97):  # expectation maximisation only finds the optimum near its start
        high = x >= np.quantile(x, share)
        parts = x[~high], x[high]
        if min(len(part) for part in parts) == 0:
            continue
        two = GaussianMixture(
            2,
            covariance_type="spherical",
            reg_covar=1e-3,
            max_iter=1000,
            weights_init=np.array([len(part) / len(x) for part in parts]),
            means_init=np.array([[part.mean()] for part in parts]),
            precisions_init=np.array([1 / (part.var() + 0.01) for part in parts]),
        )
        fitted.append(two.fit(x))
    one = GaussianMixture(1, covariance_type="spherical", reg_covar=1e-3).fit(x)
    best = min(fitted, key=lambda model: model.bic(x))
    low, high = np.argsort(best.means_[:, 0])
    apart = np.sqrt(2) * (best.means_[high, 0] - best.means_[low, 0]) / np.sqrt(best.covariances_.sum())
    if best.bic(x) >= one.bic(x) or apart <= _SEPARATION or best.weights_[high] >= 0.5:
        return np.inf
    points = np.sort(x[:, 0])
    above = (best.predict(points[:, None]) == high) & (points > best.means_[low, 0])
    if not above.any():
        return np.inf
    first = int(above.argmax())  # all scores from here on, also those that a wide lower component claims
    return float((points[first - 1] + points[first]) / 2 * logs.std() + logs.mean())

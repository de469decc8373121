"""``rnp-jax ablate``: what Hölder pruning's settings change, on one checkpoint."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import product
from typing import Annotated

import numpy as np
import tyro

from rnp_jax import masks
from rnp_jax.config import (
    FLAT,
    FOLDER,
    ComputeOptions,
    DataOptions,
    DefenseSetOptions,
    SourceOptions,
    TriggerOptions,
    to_plain,
    write_yaml,
)
from rnp_jax.defenses import Defended, HolderConfig, HolderPruneConfig, holder_scores
from rnp_jax.defenses.probes import Norm
from rnp_jax.defenses.scores import prune_by_score, scores_by_filter
from rnp_jax.defenses.site_maps import Scope
from rnp_jax.defenses.thresholds import Rule
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.models import Network
from rnp_jax.pipeline.doubts import find_doubt
from rnp_jax.pipeline.few_images import tell_opened
from rnp_jax.pipeline.holding import hold_new
from rnp_jax.pipeline.images import fit_images, open_images, tell_parts
from rnp_jax.pipeline.opening import choose_out, open_model
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.sets import read_sets
from rnp_jax.pipeline.trigger import open_trigger
from rnp_jax.pipeline.versions import device_name, package_versions
from rnp_jax.report.ablation import Ablation, AblationCell
from rnp_jax.report.ablation_tables import write_ablation
from rnp_jax.report.schema import Versions
from rnp_jax.types import Batch, Variables

LAST = "ablation.md"
"""The file written last, whose presence says that a run is finished."""


@dataclass(frozen=True)
class AblateOptions:
    """Run Hölder pruning with every combination of its settings on one checkpoint, for a table and a heat map.

    Writes report.html, ablation.md, .csv and .json, figures/ and config.yaml to --out. With a single radius, the
    exponent multiplies every score by the same number and changes nothing; the rank correlation with alpha 1 shows
    this. A preset of `rnp-jax defend --method holder` gives the settings that do not vary.

    Attributes:
      checkpoint: PyTorch file with a whole network or a head on features.
      out: output folder; by default runs/ablate-NAME.
      alphas: exponents to try.
      radii: sets of radii to try, each a comma-separated list.
      norms: norms to try: 1, 2 or inf.
      scopes: scopes to try: feature (what the network reads) or local (what the layer reads).
      rules: threshold rules to try: std, mad, valley, mixture or budget; number needs --holder.threshold.number.
      holder: settings that do not vary; a setting that varies may only be set to one of the values to try.
      source: how to read the file and normalise its images.
      images: clean images; scores use the training part, and ACC is measured on the test part.
      defense: clean images that the defender has.
      trigger: attack to measure, if known.
      compute: precision and batches.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    out: Annotated[str | None, FOLDER] = None
    alphas: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    radii: Annotated[tuple[str, ...], tyro.conf.arg(metavar="R,R,... [R,R,... ...]")] = (
        "0.1",
        "0.05,0.1,0.2",
        "0.01,0.1,1",
    )
    norms: tuple[Norm, ...] = ("1", "2", "inf")
    scopes: tuple[Scope, ...] = ("feature", "local")
    rules: tuple[Rule, ...] = ("std", "mad", "valley", "mixture", "budget")
    holder: HolderPruneConfig = field(default_factory=HolderPruneConfig)
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    defense: DefenseSetOptions = field(default_factory=DefenseSetOptions)
    trigger: Annotated[TriggerOptions, FLAT] = field(default_factory=TriggerOptions)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)

    def __post_init__(self):
        if not (self.alphas and self.radii and self.norms and self.scopes and self.rules):
            raise ConfigError("--alphas, --radii, --norms, --scopes and --rules: give one or more of each")
        scores, threshold, default = self.holder.sensitivity, self.holder.threshold, HolderPruneConfig()
        _check_varied("sensitivity.alpha", scores.alpha, default.sensitivity.alpha, "alphas", self.alphas)
        _check_varied("sensitivity.radii", scores.radii, default.sensitivity.radii, "radii", map(_radii, self.radii))
        _check_varied("sensitivity.norm", scores.norm, default.sensitivity.norm, "norms", self.norms)
        _check_varied("sensitivity.scope", scores.scope, default.sensitivity.scope, "scopes", self.scopes)
        _check_varied("threshold.rule", threshold.rule, default.threshold.rule, "rules", self.rules)
        if "budget" in self.rules and self.defense.holdout == 0:
            raise ConfigError(
                "--rules budget needs held-out images: give --defense.holdout above 0, or --rules without budget"
            )


def run(options: AblateOptions) -> Ablation:
    """Scores once a combination of alpha, radii, norm and scope, prunes by every rule, measures, writes.

    Raises:
      RnpError: an unusable checkpoint, data set or option.
    """
    own = options.holder
    settings = [
        replace(own.sensitivity, alpha=alpha, radii=_radii(radii), norm=norm, scope=scope)
        for scope, norm, radii, alpha in product(options.scopes, options.norms, options.radii, options.alphas)
    ]
    thresholds = [
        replace(own.threshold, rule=rule, number=own.threshold.number if rule == "number" else None)
        for rule in options.rules
    ]
    out = choose_out(options.out, options.checkpoint, "ablate", LAST)
    log = RunLog()
    log.say(f"{len(settings)} sets of scores, {len(thresholds)} rules each")
    model = open_model(options.checkpoint, options.source, options.compute, options.images)
    data, holdout, test = open_images(model, options.images, options.defense)
    model, _ = fit_images(model, test)
    if (parts := tell_parts(data, holdout, test)) is not None:
        log.say(parts)
    tell_opened(model, test, log)
    data, holdout, sets = read_sets(model, data, holdout, test, open_trigger(model, options.trigger, test))
    (as_it_is,) = sets.measure(model, model.variables, batch_size=options.compute.batch_size)
    if (doubt := find_doubt(model, as_it_is)) is not None:
        log.warn(doubt.sentence)
    variables = masks.bake(model.variables, model.network.placement)
    measured: dict[tuple[int, ...], Metrics] = {}
    reference: dict[HolderConfig, dict[str, np.ndarray]] = {}
    cells = []
    for number, config in enumerate(settings, 1):
        scores, correlation = _score(model.network, variables, data, config, reference)
        for threshold in thresholds:
            pruned = prune_by_score(model.network, variables, scores, threshold, holdout=holdout)
            units = tuple(sorted(pruned.candidates.order[: pruned.choice.pruned].tolist()))
            if units not in measured:
                (after,) = sets.measure(model, pruned.variables, batch_size=options.compute.batch_size)
                measured[units] = after.metrics
            cells.append(_cell(config, threshold.rule, pruned, measured[units], correlation))
        log.say(
            f"  {number}/{len(settings)}  {config.scope}, p = {config.norm}, {cells[-1].radii}, α = {config.alpha:g}"
        )
    ablation = Ablation(
        created=datetime.now(UTC),
        versions=Versions(**package_versions()),
        device=device_name(),
        config=to_plain(options),
        reference="the same settings with alpha 1",
        cells=tuple(cells),
    )
    with hold_new(out, "ablate", LAST):
        write_yaml(out / "config.yaml", options)
        table = write_ablation(out, ablation)
    log.say(table.read_text("utf-8"))
    log.conclude(f"{table}", table=table)
    return ablation


def _score(
    network: Network,
    variables: Variables,
    data: Batch,
    config: HolderConfig,
    reference: dict[HolderConfig, dict[str, np.ndarray]],
) -> tuple[dict[str, np.ndarray], float | None]:
    """Scores by layer [F], and the correlation of their ranks with those of α = 1, which ``reference`` keeps.

    The correlation is the mean over layers, which is what the rules see: relative radii differ between layers.
    """
    scores = scores_by_filter(network, variables, holder_scores(network, variables, data.images, config))
    base = replace(config, alpha=1.0)
    if base not in reference:
        at_one = scores
        if config != base:
            at_one = scores_by_filter(network, variables, holder_scores(network, variables, data.images, base))
        reference[base] = at_one
    found = [rank_correlation(row, reference[base][layer]) for layer, row in scores.items()]
    known = [each for each in found if each is not None]
    return scores, float(np.mean(known)) if known else None


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's: of the ranks, ties sharing their mean rank; None where either does not vary."""
    from scipy.stats import rankdata

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    value = np.corrcoef(rankdata(first), rankdata(second))[0, 1]
    return float(np.clip(value, -1, 1))


def _check_varied(name: str, value: object, default: object, axis: str, values: Iterable[object]) -> None:
    """A setting that is varied is left alone in its group, or names one of the values that it takes."""
    if value != default and value not in set(values):
        raise ConfigError(f"--holder.{name} is varied, and {value} is not one of its values: add it to --{axis}")


def _radii(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--radii {text!r}: give numbers with commas between, such as 0.05,0.1,0.2") from error


def _cell(
    config: HolderConfig, rule: str, pruned: Defended, metrics: Metrics, correlation: float | None
) -> AblationCell:
    return AblationCell(
        alpha=config.alpha,
        radii=", ".join(f"{radius:g}" for radius in config.radii),
        norm=config.norm,
        scope=str(config.scope),
        rule=rule,
        acc=metrics.acc,
        asr=metrics.asr,
        ra=metrics.ra,
        pruned=pruned.choice.pruned,
        rank_correlation=correlation,
    )

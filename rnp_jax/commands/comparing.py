"""Several defenses on one checkpoint: the rows of a comparison."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from rnp_jax import masks
from rnp_jax.commands.inputs import Suspect, Trigger, draw_evenly
from rnp_jax.commands.judging import EvaluationSets
from rnp_jax.commands.result import as_proportion
from rnp_jax.commands.run_log import RunLog
from rnp_jax.commands.training_set import name_attack
from rnp_jax.config import check_seed
from rnp_jax.data import Augmentation
from rnp_jax.defenses import (
    DEFENSES,
    AnpConfig,
    ClpConfig,
    FinePruningConfig,
    FtConfig,
    FtSamConfig,
    HolderPruneConfig,
    IbauConfig,
    NadConfig,
    Pruned,
    RnpConfig,
)
from rnp_jax.defenses.controls import oracle_scores, random_scores
from rnp_jax.defenses.scores import count_pruned, prune_by_score
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.evaluation.metrics import defense_effectiveness
from rnp_jax.report.comparison import ComparisonRow
from rnp_jax.report.schema import Stage
from rnp_jax.training.extended import extract
from rnp_jax.types import Batch

CONTROLS = ("random", "oracle")
ROWS = ("none", *DEFENSES, *CONTROLS)
PRUNING = ("none", "rnp", "holder", "clp", "anp", "fp", *CONTROLS)
COVARIATE = "trigger shift / class distance"

_ORACLE_IMAGES = 1000  # triggered images that the oracle looks at


@dataclass(frozen=True)
class MethodOptions:
    """Which defenses are compared, and their settings.

    Attributes:
      methods: rows of the tables: none, holder, clp, anp, fp, rnp, random, oracle, and on request ft, nad, ft_sam and
        ibau, which tune all weights. Random and oracle prune as many filters of each layer as Hölder pruning does.
      holder: of Hölder pruning.
      clp: of CLP.
      anp: of ANP.
      fp: of Fine-Pruning.
      ft: of fine-tuning.
      nad: of NAD.
      ft_sam: of FT-SAM.
      ibau: of I-BAU.
      rnp: of RNP.
      augmentation: of the defense set, in what a defense trains; a head on features is trained without.
      seed: draws order and augmentation.
    """

    methods: tuple[str, ...] = PRUNING
    holder: HolderPruneConfig = field(default_factory=HolderPruneConfig)
    clp: ClpConfig = field(default_factory=ClpConfig)
    anp: AnpConfig = field(default_factory=AnpConfig)
    fp: FinePruningConfig = field(default_factory=FinePruningConfig)
    ft: FtConfig = field(default_factory=FtConfig)
    nad: NadConfig = field(default_factory=NadConfig)
    ft_sam: FtSamConfig = field(default_factory=FtSamConfig)
    ibau: IbauConfig = field(default_factory=IbauConfig)
    rnp: RnpConfig = field(default_factory=RnpConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self):
        unknown = sorted(set(self.methods) - set(ROWS))
        if unknown or not self.methods:
            given = " ".join(unknown) or "none given"
            raise ConfigError(f"--methods: {given}; choose among {', '.join(ROWS)}")
        check_seed("seed", self.seed)


def compare_methods(
    model: Suspect,
    data: Batch,
    holdout: Batch | None,
    trigger: Trigger | None,
    sets: EvaluationSets,
    options: MethodOptions,
    log: RunLog,
    batch_size: int | None = None,
) -> list[ComparisonRow]:
    """A row a method; ``data``, ``holdout`` and ``sets`` are as the model reads them.

    A defense that cannot work on this model, or with these settings, has a row that says why, and no figures.
    """
    base = _describe(model, trigger, options)
    (before,) = sets.measure(model, model.variables, batch_size=batch_size)
    done: dict[str, Pruned] = {}
    rows = []
    for method in sorted(set(options.methods), key=ROWS.index):
        log.say(f"  {method}")
        if method == "none":
            rows.append(ComparisonRow(**base, method=method, **_figures(before.metrics, None)))
            continue
        if method == "oracle" and trigger is None:
            rows.append(ComparisonRow(**base, method=method, note="the trigger is not known"))
            continue
        try:
            pruned = done[method] = _run(method, model, data, holdout, sets, options, done)
        except (ConfigError, DefenseError) as error:
            rows.append(ComparisonRow(**base, method=method, note=str(error)))
            continue
        (after,) = sets.measure(model, pruned.variables, batch_size=batch_size)
        rows.append(
            ComparisonRow(
                **base,
                method=method,
                **_figures(after.metrics, defense_effectiveness(before.metrics, after.metrics)),
                pruned=None if pruned.kind == "weights" else pruned.choice.count,
                units=None if pruned.kind == "weights" else sum(len(value) for value in pruned.values.values()),
                timing=as_stages(pruned.timing),
                note=" ".join(pruned.warnings),
            )
        )
    return rows


def _run(
    method: str,
    model: Suspect,
    data: Batch,
    holdout: Batch | None,
    sets: EvaluationSets,
    options: MethodOptions,
    done: dict[str, Pruned],
) -> Pruned:
    key = jax.random.key(options.seed)
    if method in DEFENSES:
        augment = options.augmentation if model.extractor is None else None
        config = getattr(options, method)
        return DEFENSES[method](model.network, model.variables, data, key, config, holdout=holdout, augment=augment)
    if "holder" not in done:
        done["holder"] = _run("holder", model, data, holdout, sets, options, done)
    variables = masks.bake(model.variables, model.network.placement)
    if method == "random" or sets.triggered is None:
        scores = random_scores(model.network, variables, key)
    else:
        chosen = draw_evenly(sets.triggered.labels, _ORACLE_IMAGES)
        clean = np.asarray(sets.clean.images)[sets.triggered.indices[chosen]]
        scores = oracle_scores(model.network, variables, clean, sets.triggered.images[chosen])
    return prune_by_score(model.network, variables, scores, count_pruned(done["holder"]))


def as_stages(seconds: Mapping[str, float]) -> tuple[Stage, ...]:
    """Seconds by stage as a document has them."""
    return tuple(Stage(stage=name, seconds=spent) for name, spent in seconds.items())


def measure_shift(model: Suspect, sets: EvaluationSets) -> float | None:
    """How far the trigger moves features, over how far classes lie apart; None where the trigger is not known.

    The mean over triggered images of ‖φ(x + trigger) − φ(x)‖₂, over the mean distance between two classes' mean
    features. Where it is small, a trigger hides among what distinguishes images of one class.
    """
    if sets.triggered is None:
        return None
    clean, triggered = (np.asarray(images) for images in (sets.clean.images, sets.triggered.images))
    if model.extractor is None:
        clean, triggered = (extract(model.network, model.variables, images) for images in (clean, triggered))
    clean, triggered = (values.reshape(len(values), -1) for values in (clean, triggered))
    labels = np.asarray(sets.clean.labels)
    means = np.stack([clean[labels == label].mean(0) for label in np.unique(labels)])
    apart = np.linalg.norm(means[:, None] - means[None], axis=-1)
    distance = apart.sum() / (len(means) * (len(means) - 1)) if len(means) > 1 else np.nan
    shift = np.linalg.norm(triggered - clean[sets.triggered.indices], axis=-1).mean()
    return float(shift / distance) if distance > 0 else None


def _describe(model: Suspect, trigger: Trigger | None, options: MethodOptions) -> dict[str, Any]:
    card = model.card
    return {
        "checkpoint": model.checkpoint.path.name,
        "attack": name_attack(model, trigger),
        "poison_rate": None if card is None or card.attack is None else card.attack.rate,
        "seed": options.seed if card is None else card.seed,
        "mode": "network" if model.extractor is None else "head",
    }


def _figures(metrics: Any, der: float | None) -> dict[str, Any]:
    names = ("acc", "acc_without_target", "asr", "ra")
    return {name: as_proportion(getattr(metrics, name)) for name in names} | {"der": der}

"""``rnp-jax defend``: remove a backdoor with clean images, and show what it did."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro

from rnp_jax import masks
from rnp_jax.attacks.base import check_number
from rnp_jax.checkpoints import Model, save_model
from rnp_jax.commands.inputs import Trigger, choose_out, draw_evenly, open_data, open_model, open_trigger
from rnp_jax.commands.result import describe_run
from rnp_jax.commands.run_log import RunLog
from rnp_jax.commands.sweeps import measure_sweeps
from rnp_jax.commands.tables import metrics_table
from rnp_jax.config import (
    FLAT,
    ComputeOptions,
    DataOptions,
    DefenseSetOptions,
    SourceOptions,
    TriggerOptions,
    check_seed,
    write_yaml,
)
from rnp_jax.data import Augmentation, Dataset, check_overlap, holdout_split, sample_defense_set
from rnp_jax.defenses import Pruned, RecoverConfig, RnpConfig, UnlearnConfig, rnp
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.evaluation.measure import Measured, measure_variants
from rnp_jax.report.page import write_report
from rnp_jax.report.samples import MAX_SAMPLES, Samples
from rnp_jax.report.schema import Result
from rnp_jax.store import save_tree
from rnp_jax.types import Batch

LAST = "report.html"
"""The file written last, whose presence says that a run is finished."""


def _rnp_for_400_images() -> RnpConfig:
    """The release's settings, but for batches of 100: 128 would leave a batch of 16, too few for batch norm."""
    return RnpConfig(UnlearnConfig(batch_size=100), RecoverConfig(batch_size=100))


@dataclass(frozen=True)
class DefendOptions:
    """Remove a backdoor by Reconstructive Neuron Pruning.

    Writes into --out: the cleaned checkpoint (same layout as the source), masks/ (orbax) and mask_values.txt (the RNP
    release's format), report.html, result.json, figures/, run.log and config.yaml.

    Attributes:
      checkpoint: the PyTorch file to defend.
      method: the defense.
      out: output folder; by default runs/defend-NAME.
      source: how the file is read, and its normalisation.
      images: clean images: the defense set comes from the training part, ACC from the test part.
      defense: how many clean images the defender has.
      trigger: the attack to measure, where it is known; never used to choose.
      rnp: unlearning, recovery and pruning.
      augmentation: of the defense set, in unlearning and recovery.
      compute: precision and batches.
      sweep_images: test images that the report's sweeps are measured on, clean and triggered each; 0 for no sweeps.
      seed: draws order and augmentation.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    method: Literal["rnp"] = "rnp"
    out: str | None = None
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    defense: DefenseSetOptions = field(default_factory=DefenseSetOptions)
    trigger: Annotated[TriggerOptions, FLAT] = field(default_factory=TriggerOptions)
    rnp: RnpConfig = field(default_factory=_rnp_for_400_images)
    augmentation: Augmentation = field(default_factory=Augmentation)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)
    sweep_images: int = 2000
    seed: int = 0

    def __post_init__(self):
        check_number("sweep_images", self.sweep_images, 0, integer=True)
        check_seed("seed", self.seed)


def run(options: DefendOptions) -> Result:
    """Defends the checkpoint and writes everything; returns what result.json says.

    Raises:
      RnpError: an unusable checkpoint, data set or option; nothing is written to the source.
    """
    _check_choice(options)
    out, cleaned = _choose_files(options)
    log = RunLog()
    log.say(f"reading {options.checkpoint}")
    with log.stage("load checkpoint"):
        model = open_model(options.checkpoint, options.source, options.compute)
        _check_filters(model, options)
    for anomaly in model.checkpoint.anomalies:
        log.say(f"  note: {anomaly}")
    with log.stage("load images"):
        data, holdout, test = _images(model, options)
        trigger = open_trigger(model, options.trigger, test)
    write_yaml(out / "config.yaml", options)  # the first file: what came before left no folder behind
    log.write_to(out / "run.log")

    log.say(f"{model.network.architecture.name}: unlearning and recovering on {len(data.labels)} clean images")
    defended = _defend(model, data, holdout, options, log)
    log.say("measuring")
    with log.stage("measure"):
        before, after = _measure(model, defended, test, trigger, options.compute.batch_size)
    with log.stage("sweeps"):
        sweeps = measure_sweeps(model, defended, holdout, test, trigger, options.sweep_images, options.rnp.prune)
    with log.stage("write checkpoint"):
        dropped = save_model(cleaned, model, defended.variables, overwrite=True)
        _write_masks(out, defended, options)
    command = shlex.join(["rnp-jax", *sys.argv[1:]]) if sys.argv[0].endswith("rnp-jax") else None
    result = describe_run(
        options,
        model,
        data,
        holdout,
        test,
        trigger,
        defended,
        before.metrics,
        after.metrics,
        sweeps,
        dropped,
        log.timing,
        command,
    )
    report = write_report(
        out,
        result,
        {name: np.asarray(value) for name, value in defended.values.items()},
        _samples(test, trigger, before, after),
    )
    log.console.print(metrics_table({"before": before.metrics, "after": after.metrics}))
    log.say(result.verdict.headline)
    log.say(f"cleaned checkpoint  {cleaned}\nreport              {report}")
    return result


def _check_choice(options: DefendOptions) -> None:
    """Says now what the choice of filters would say after unlearning and recovery."""
    prune = options.rnp.prune
    if options.defense.holdout == 0 and prune.threshold is None and prune.number is None:
        raise ConfigError(
            "--defense.holdout 0 leaves no images to choose the number of pruned filters by: hold some out (0.2), or "
            "give --rnp.prune.number, or as the release has it --rnp.prune.ranking release --rnp.prune.threshold 0.3"
        )


def _choose_files(options: DefendOptions) -> tuple[Path, Path]:
    """The output folder, and the cleaned checkpoint in it."""
    source = Path(options.checkpoint)
    out = choose_out(options.out, options.checkpoint, "defend", LAST)
    cleaned = out / f"cleaned{source.suffix or '.pt'}"
    if cleaned.resolve() == source.resolve():
        raise DataError(f"{source} would be replaced by the cleaned checkpoint; choose another folder with --out")
    return out, cleaned


def _check_filters(model: Model, options: DefendOptions) -> None:
    total = sum(len(values) for values in masks.filters(model.variables["masks"]).values())
    name, number = model.network.architecture.name, options.rnp.prune.number
    if total == 0:
        raise ConfigError(
            f"--placement {options.compute.placement}: {name} has no filters there; use bn_scale (networks "
            "with batch norm), conv_output (networks with convolutions) or unit (mlp)"
        )
    if number is not None and number > total:
        raise ConfigError(f"--rnp.prune.number {number}: {name} has {total} filters")


def _images(model: Model, options: DefendOptions) -> tuple[Batch, Batch | None, Dataset]:
    train, test = (open_data(model, options.images, split) for split in ("train", "test"))
    chosen = options.defense
    drawn, _ = sample_defense_set(train, chosen.size, seed=chosen.seed, stratified=chosen.stratified)
    check_overlap(drawn, test)
    if chosen.holdout == 0:
        return drawn, None, test
    data, holdout = holdout_split(drawn, chosen.holdout, chosen.seed)
    return data, holdout, test


def _defend(model: Model, data: Batch, holdout: Batch | None, options: DefendOptions, log: RunLog) -> Pruned:
    with log.epochs() as bars:
        defended = rnp(
            model.network,
            model.variables,
            data,
            jax.random.key(options.seed),
            options.rnp,
            holdout=holdout,
            augment=options.augmentation,
            progress=bars,
        )
    log.timing.update(defended.timing)
    for warning in defended.warnings:
        log.say(f"  warning: {warning}")
    log.say(f"pruned {defended.choice.count} filters: {defended.choice.rule}")
    return defended


def _measure(
    model: Model, defended: Pruned, test: Dataset, trigger: Trigger | None, batch_size: int | None
) -> tuple[Measured, Measured]:
    pruned = masks.filters(defended.variables["masks"])
    before, after = measure_variants(
        model.network,
        defended.variables,
        [masks.ones(pruned), pruned],
        test.batch,
        None if trigger is None else trigger.test,
        None if trigger is None else trigger.goal.one_target,
        batch_size,
    )
    return before, after


def _write_masks(out: Path, defended: Pruned, options: DefendOptions) -> None:
    tree = {"recovered": defended.values, "pruned": masks.filters(defended.variables["masks"])}
    save_tree(out / "masks", tree, {"placement": options.compute.placement}, overwrite=True)
    masks.write_mask_values(out / "mask_values.txt", defended.values)


def _samples(test: Dataset, trigger: Trigger | None, before: Measured, after: Measured) -> Samples | None:
    if trigger is None:
        return None
    shown = draw_evenly(trigger.test.labels, MAX_SAMPLES)
    names = np.asarray(test.class_names)
    return Samples(
        test.images[trigger.test.indices[shown]],
        trigger.test.images[shown],
        [str(name) for name in names[trigger.test.labels[shown]]],
        [str(name) for name in names[before.triggered[shown]]],
        [str(name) for name in names[after.triggered[shown]]],
    )

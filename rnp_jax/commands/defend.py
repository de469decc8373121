"""``rnp-jax defend``: remove a backdoor with clean images, and show what it did."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import tyro

from rnp_jax import masks
from rnp_jax.checkpoints import Model, save_model
from rnp_jax.checks import check_number
from rnp_jax.commands.finish import command_line, report, write_masks
from rnp_jax.commands.inputs import Suspect, Trigger, choose_out, open_images, open_model, open_trigger
from rnp_jax.commands.judging import EvaluationSets, measure_within_memory, read_sets
from rnp_jax.commands.purified import CLEANED, EXTRACTOR
from rnp_jax.commands.purify import HidOptions, purify
from rnp_jax.commands.result import describe_run, ranking_of, rnp_config
from rnp_jax.commands.run_log import RunLog
from rnp_jax.commands.sweeps import measure_sweeps
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
from rnp_jax.data import Augmentation, Dataset
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
    PruneConfig,
    Pruned,
    RecoverConfig,
    RnpConfig,
    UnlearnConfig,
)
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.evaluation.measure import Measured
from rnp_jax.evaluation.predict import default_batch_size
from rnp_jax.report.schema import Result
from rnp_jax.types import Batch

LAST = "report.html"
"""The file written last, whose presence says that a run is finished."""

TUNING = ("ft", "nad", "ft_sam", "ibau")
"""The defenses that tune all weights, and choose no filters unless RNP goes before them."""


def rnp_for_400_images() -> RnpConfig:
    """The release's settings, but for batches of 100: 128 would leave a batch of 16, too few for batch norm."""
    return RnpConfig(UnlearnConfig(batch_size=100), RecoverConfig(batch_size=100))


@dataclass(frozen=True)
class DefendOptions:
    """Remove a backdoor: by Reconstructive Neuron Pruning, Hölder pruning, CLP, ANP, Fine-Pruning or HID, or by tuning
    all weights: fine-tuning, NAD, FT-SAM or I-BAU.

    Writes into --out: the cleaned checkpoint (same layout as the source), masks/ (orbax) and mask_values.txt (the RNP
    release's format), report.html, result.json, figures/, run.log and config.yaml.

    HID (Hölder Iterative Defence) takes no clean images: it trains a new network on the untrusted training set, and
    writes extractor.pt and, on its features, cleaned.pt, an MLP.

    Attributes:
      checkpoint: the PyTorch file to defend.
      method: the defense.
      out: output folder; by default runs/defend-NAME.
      source: how the file is read, and its normalisation.
      images: clean images: the defense set comes from the training part, ACC from the test part.
      defense: how many clean images the defender has.
      trigger: the attack to measure, where it is known; never used to choose.
      rnp: unlearning, recovery and pruning.
      holder: scoring by Hölder constants, and what is pruned.
      clp: which channel Lipschitz bounds condemn.
      anp: optimisation of masks against perturbed weights, and pruning.
      fp: pruning of dormant channels, and fine-tuning.
      ft: fine-tuning, of the network or of what RNP left of it.
      nad: neural attention distillation, and what its student and its teacher start from.
      ft_sam: sharpness-aware fine-tuning.
      ibau: unlearning of universal perturbations.
      hid: the untrusted training set, and the network that is trained on it.
      augmentation: of the defense set, in what a defense trains; a head on features is trained without. For hid, of its
        semi-supervised training.
      compute: precision and batches.
      sweep_images: test images that the report's sweeps are measured on, clean and triggered each; 0 for no sweeps.
      seed: draws order and augmentation.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    method: Literal["rnp", "holder", "clp", "anp", "fp", "ft", "nad", "ft_sam", "ibau", "hid"] = "rnp"
    out: str | None = None
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    defense: DefenseSetOptions = field(default_factory=DefenseSetOptions)
    trigger: Annotated[TriggerOptions, FLAT] = field(default_factory=TriggerOptions)
    rnp: RnpConfig = field(default_factory=rnp_for_400_images)
    holder: HolderPruneConfig = field(default_factory=HolderPruneConfig)
    clp: ClpConfig = field(default_factory=ClpConfig)
    anp: AnpConfig = field(default_factory=AnpConfig)
    fp: FinePruningConfig = field(default_factory=FinePruningConfig)
    ft: FtConfig = field(default_factory=FtConfig)
    nad: NadConfig = field(default_factory=NadConfig)
    ft_sam: FtSamConfig = field(default_factory=FtSamConfig)
    ibau: IbauConfig = field(default_factory=IbauConfig)
    hid: HidOptions = field(default_factory=HidOptions)
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
    check_choice(options)
    out, cleaned = _choose_files(options)
    log = RunLog()
    log.say(f"reading {options.checkpoint}")
    with log.stage("load checkpoint"):
        model = open_model(options.checkpoint, options.source, options.compute)
        if options.method != "hid":
            check_filters(model, options)
    for anomaly in model.checkpoint.anomalies:
        log.say(f"  note: {anomaly}")
    if options.method == "hid":
        return purify(options, model, out, log)
    case = open_case(model, options, log)
    write_yaml(out / "config.yaml", options)  # the first file: what came before left no folder behind
    log.write_to(out / "run.log")
    return conclude(case, out, cleaned, judge(case, options, log), options, log)


@dataclass(frozen=True, eq=False)
class Case:
    """A model, the clean images a defender has, and what both are judged on, as the model reads them."""

    model: Suspect
    data: Batch
    holdout: Batch | None
    test: Dataset
    trigger: Trigger | None
    sets: EvaluationSets


class Judged(NamedTuple):
    """A defense's outcome, the figures before and after it, and how many images a batch of theirs had."""

    defended: Pruned
    before: Measured
    after: Measured
    batch_size: int


def open_case(model: Suspect, options: DefendOptions, log: RunLog) -> Case:
    """The images and the trigger that the options or the model's card name.

    Raises:
      ConfigError, DataError: they name none, or what they name does not fit the model.
    """
    with log.stage("load images"):
        data, holdout, test = open_images(model, options.images, options.defense)
        trigger = open_trigger(model, options.trigger, test)
    if model.extractor is not None:
        log.say(f"features of {model.extractor.name}")
        if model.extractor.caution is not None:
            log.say(f"  note: {model.extractor.caution}")
    with log.stage("cache features" if model.extractor is not None else "load images"):
        data, holdout, sets = read_sets(model, data, holdout, test, trigger)
    return Case(model, data, holdout, test, trigger, sets)


def judge(case: Case, options: DefendOptions, log: RunLog, before: Measured | None = None) -> Judged:
    """Runs the defense and measures the model after it, and before it where that is not known.

    Raises:
      ConfigError, DefenseError: settings that do not fit the model; a defense that cannot do its work.
    """
    model = case.model
    log.say(f"{model.network.architecture.name}: {options.method} on {len(case.data.labels)} clean images")
    defended = _defend(model, case.data, case.holdout, options, log)
    log.say("measuring")
    size = options.compute.batch_size or default_batch_size()
    with log.stage("measure"):
        if before is None:
            before, size = measure_within_memory(case.sets, model, model.variables, size)
        after, size = measure_within_memory(case.sets, model, defended.variables, size)
    return Judged(defended, before, after, size)


def conclude(case: Case, out: Path, cleaned: Path, judged: Judged, options: DefendOptions, log: RunLog) -> Result:
    """Writes the cleaned checkpoint, the masks, the result and the report."""
    model, (defended, before, after, _) = case.model, judged
    sweeps = ()
    if defended.kind != "weights":  # a defense without filters has nothing to prune further
        with log.stage("sweeps"):
            sweeps = measure_sweeps(model, defended, case.holdout, case.sets, options.sweep_images, ranking_of(options))
    with log.stage("write checkpoint"):
        dropped = save_model(cleaned, model, defended.variables, overwrite=True)
        write_masks(out, defended, case.model.network.placement, options.method)
    result = describe_run(
        options,
        model,
        case.data,
        case.holdout,
        case.test,
        case.trigger,
        defended,
        before.metrics,
        after.metrics,
        sweeps,
        dropped,
        log.timing,
        command_line(),
    )
    report(out, result, defended.values, case.test, case.trigger, before, after, cleaned, log)
    return result


def check_choice(options: DefendOptions) -> None:
    """Says now what the choice of filters would say later, and which options would stay unread.

    Raises:
      ConfigError: one of these.
    """
    for method in (*DEFENSES, "hid"):
        kind = {each.name: each for each in fields(options)}[method]
        default = kind.default_factory()  # pyright: ignore[reportCallIssue]
        if method != options.method and getattr(options, method) != default:
            raise ConfigError(
                f"--method {options.method} leaves --{method}.* unread: remove them, or choose --method {method}"
            )
    if options.method == "hid":
        if options.defense != DefenseSetOptions() or options.sweep_images not in (0, DefendOptions.sweep_images):
            raise ConfigError(
                "--method hid leaves --defense.* and --sweep-images unread, since it takes no clean images and trains "
                "a new network: remove them"
            )
        return
    if options.defense.holdout > 0:
        return
    pruning = prune_config(options)
    by_masks = pruning is not None and pruning.threshold is None and pruning.number is None
    by_images = {
        "fp": True,
        "holder": options.holder.threshold.rule == "budget",
        "clp": options.clp.threshold.rule == "budget",
    }
    if by_masks or by_images.get(options.method, False):
        raise ConfigError(
            f"--defense.holdout 0 leaves no images to choose the number of pruned filters by, which --method "
            f"{options.method} does: hold some out (0.2), or where the method has them give a number, a threshold or "
            "another rule, such as --rnp.prune.number 20, --rnp.prune.ranking release --rnp.prune.threshold 0.3, "
            "--holder.threshold.rule mad"
        )


def _choose_files(options: DefendOptions) -> tuple[Path, Path]:
    """The output folder, and the cleaned checkpoint in it."""
    source = Path(options.checkpoint)
    out = choose_out(options.out, options.checkpoint, "defend", LAST)
    cleaned = out / (CLEANED if options.method == "hid" else f"cleaned{source.suffix or '.pt'}")
    written = [cleaned, out / EXTRACTOR] if options.method == "hid" else [cleaned]
    for read in filter(None, [options.checkpoint, options.hid.extractor]):
        if Path(read).resolve() in [path.resolve() for path in written]:
            raise DataError(f"{read} would be replaced by a file of this run; choose another folder with --out")
    return out, cleaned


def check_filters(model: Model, options: DefendOptions) -> None:
    """The model has filters at the placement, and as many as are to be pruned.

    Raises:
      ConfigError: it has not.
    """
    total = sum(len(values) for values in masks.filters(model.variables["masks"]).values())
    pruning = prune_config(options)
    name, number = model.network.architecture.name, None if pruning is None else pruning.number
    if total == 0 and (pruning is not None or options.method not in TUNING):
        raise ConfigError(
            f"--placement {model.network.placement}: {name} has no filters there; use bn_scale (networks "
            "with batch norm), conv_output (networks with convolutions) or unit (mlp)"
        )
    if number is not None and number > total:
        prefix = f"--{options.method}" + (".rnp" if options.method in TUNING else "")
        raise ConfigError(f"{prefix}.prune.number {number}: {name} has {total} filters")


def prune_config(options: DefendOptions) -> PruneConfig | None:
    """How the method, or RNP before it, chooses among filters by their masks; None where neither does."""
    if options.method == "anp":
        return options.anp.prune
    found = rnp_config(options)
    return None if found is None else found.prune


def _defend(model: Suspect, data: Batch, holdout: Batch | None, options: DefendOptions, log: RunLog) -> Pruned:
    with log.epochs() as bars:
        defended = DEFENSES[options.method](
            model.network,
            model.variables,
            data,
            jax.random.key(options.seed),
            getattr(options, options.method),
            holdout=holdout,
            augment=options.augmentation if model.extractor is None else None,
            progress=bars,
        )
    log.timing.update(defended.timing)
    for warning in defended.warnings:
        log.say(f"  warning: {warning}")
    done = "tuned" if defended.kind == "weights" else f"pruned {defended.choice.count} filters"
    log.say(f"{done}: {defended.choice.rule}")
    return defended

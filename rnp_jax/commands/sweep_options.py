"""The options of a sweep, and what they are for one item of it."""

import hashlib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tyro

from rnp_jax.card import CARD_SUFFIX, TRIGGER_SUFFIX, beside
from rnp_jax.checks import check_number
from rnp_jax.commands.defend import DefendOptions, rnp_for_400_images
from rnp_jax.config import (
    FLAT,
    ComputeOptions,
    DataOptions,
    DefenseSetOptions,
    SourceOptions,
    TriggerOptions,
    check_seed,
    to_plain,
)
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
    RnpConfig,
)
from rnp_jax.sweep.items import Item, make_key

OPTIONS = "config.yaml"
"""The resolved options, in the sweep's folder: workers read them there."""


Method = Literal["none", "rnp", "holder", "clp", "anp", "fp", "ft", "nad", "ft_sam", "ibau"]


def _as_several(value: Any) -> Any:
    """A single method, as a preset of ``rnp-jax defend`` has it, as the sweep does."""
    return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class SweepOptions:
    """Run one or more defenses on thousands of checkpoints: one row each, one table, one page.

    Inputs are files, folders, patterns in quotes ('models/**/*.pt') and manifests (.csv, .jsonl or .parquet with a
    column path and, where a checkpoint has no card, normalization, attack, target, artefact and the like).

    Writes into --out: leaderboard.html and .md, rows.csv, .jsonl and .parquet, and items/ with what --write asks for.
    It may be killed at any moment: the same command goes on where it was. Each checkpoint ends as ok, rejected (the
    file is at fault), failed or skipped; the exit status is 1 if any failed.

    Attributes:
      inputs: files, folders, patterns, manifests.
      method: the defenses, a row each; none measures the checkpoint as it is.
      out: output folder.
      write: what is kept of each item: its row alone, the cleaned checkpoint too, or all that `rnp-jax defend` writes.
      engine: local (processes on this machine), ray (actors of a cluster), slurm (jobs on a shared folder).
      workers: processes, actors or jobs; by default one a device.
      address: of a running Ray cluster; by default one is started here.
      partition: of the SLURM jobs; without SLURM they run on this machine.
      tracker: also tell an experiment tracker, through its own library.
      source: how the files are read, and their normalisation, where no card or manifest says it.
      images: clean images: the defense set comes from the training part, ACC from the test part.
      defense: how many clean images the defender has.
      trigger: the attack to measure, where neither card nor manifest names it.
      rnp: of method rnp.
      holder: of method holder.
      clp: of method clp.
      anp: of method anp.
      fp: of method fp.
      ft: of method ft.
      nad: of method nad.
      ft_sam: of method ft_sam.
      ibau: of method ibau.
      augmentation: of the defense set, in what a defense trains; a head on features is trained without.
      compute: precision and batches.
      sweep_images: for --write report, test images that the report's sweeps are measured on; 0 for no sweeps.
      seed: draws order and augmentation.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    method: Annotated[tuple[Method, ...], pydantic.BeforeValidator(_as_several)] = ("rnp",)
    out: str = "runs/sweep"
    write: Literal["row", "cleaned", "report"] = "cleaned"
    engine: Literal["local", "ray", "slurm"] = "local"
    workers: int | None = None
    address: str | None = None
    partition: str | None = None
    tracker: Literal["none", "tensorboard", "mlflow"] = "none"
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
    augmentation: Augmentation = field(default_factory=Augmentation)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)
    sweep_images: int = 2000
    seed: int = 0

    def __post_init__(self):
        check_number("sweep_images", self.sweep_images, 0, integer=True)
        check_seed("seed", self.seed)
        if self.workers is not None:
            check_number("workers", self.workers, 1, integer=True)


def method_options(options: SweepOptions, method: str, path: str, overrides: dict[str, Any]) -> DefendOptions:
    """What ``rnp-jax defend`` would be given for this checkpoint and method; ``none`` gives the shared part alone."""
    shared = {each.name for each in fields(DefendOptions)} & {each.name for each in fields(SweepOptions)}
    unread = {"out", "method"} | (set(DEFENSES) - {method})
    values = {name: getattr(options, name) for name in shared - unread}
    for group in ("source", "images", "trigger"):
        own = {each.name for each in fields(values[group])} & set(overrides)
        values[group] = replace(values[group], **{name: _frozen(overrides[name]) for name in own})
    return DefendOptions(checkpoint=path, method="rnp" if method == "none" else method, **values)  # pyright: ignore


def _frozen(value: Any) -> Any:
    """A list, as JSON has it, as the options do."""
    return tuple(value) if isinstance(value, list) else value


def item_options(options: SweepOptions, item: Item) -> DefendOptions:
    """What ``rnp-jax defend`` would be given for this item."""
    return method_options(options, item.method, item.path, item.overrides)


def item_key(options: SweepOptions, method: str, path: str, sha256: str, overrides: dict[str, Any]) -> str:
    """The key of an item: of the file, what lies beside it, what is done to it, and this package's code."""
    given = method_options(options, method, path, overrides)
    plain = to_plain(replace(given, checkpoint="", compute=replace(given.compute, batch_size=None)))
    plain["images"].pop("data_dir")
    read = [beside(path, CARD_SUFFIX), beside(path, TRIGGER_SUFFIX)]
    read += [] if given.trigger.artefact is None else [Path(given.trigger.artefact)]
    beside_it = [hashlib.sha256(each.read_bytes()).hexdigest() if each.is_file() else None for each in read]
    return make_key(path=path, file=sha256, beside=beside_it, method=method, write=options.write, options=plain)

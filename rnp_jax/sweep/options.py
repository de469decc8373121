"""The options of a sweep, and what they ask of one item of it."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tyro

from rnp_jax.attacks.pictures import SUFFIXES
from rnp_jax.card import CARD_SUFFIX, TRIGGER_SUFFIX, beside
from rnp_jax.checks import check_number
from rnp_jax.config import FOLDER, NAME
from rnp_jax.defenses import find_method
from rnp_jax.pipeline.options import RunOptions, is_read
from rnp_jax.pipeline.request import Request
from rnp_jax.sweep.contents import digest_small
from rnp_jax.sweep.items import Item, make_key
from rnp_jax.sweep.trackers import TrackerName

OPTIONS = "config.yaml"
"""The resolved options, in the sweep's folder: workers read them there."""

Write = Literal["row", "cleaned", "report"]

Reactivate = Literal["none", "ra", "wba", "bba"]
"""The attempts to bring a backdoor back that need no other network."""


def _as_several(value: Any) -> Any:
    """A single method, as a preset of ``rnp-jax defend`` has it, as the sweep does."""
    return (value,) if isinstance(value, str) else value


Methods = Annotated[
    tuple[str, ...], pydantic.BeforeValidator(_as_several), tyro.conf.arg(metavar="METHOD [METHOD ...]")
]


@dataclass(frozen=True, kw_only=True)
class SweptOptions(RunOptions):
    """What several methods do to several checkpoints.

    Attributes:
      reactivate: try to bring the backdoor back in each defended network whose trigger is known, as `rnp-jax
        reactivate` does, and add ASR after it as a column: ra (retuning on clean images of which 5 carry the trigger),
        wba or bba (a faint perturbation; long on a CPU).
    """

    reactivate: Reactivate = "none"


@dataclass(frozen=True)
class SweepOptions(SweptOptions):
    """Run one or more methods on thousands of checkpoints and collect the results in one table and one page.

    Inputs are files, folders, quoted patterns ('models/**/*.pt') and manifests: .csv, .jsonl or .parquet files with a
    path column and, for checkpoints without a card, columns such as normalization, attack, target and artefact.

    Writes leaderboard.html and .md, rows.csv, .jsonl and .parquet to --out, and the files that --write asks for to
    items/. If the sweep is killed, the same command continues it. Each checkpoint ends as ok, rejected (the file is at
    fault), failed or skipped. The exit status is 1 if any failed, or could not be run for now, as its data are not
    there; the same command runs those again.

    Attributes:
      inputs: files, folders, quoted patterns or manifests.
      method: methods to run, with one row each per checkpoint; none measures the checkpoint unchanged.
      out: output folder.
      write: what to keep of each item: its row, the cleaned checkpoint too, or all that `rnp-jax defend` writes.
      engine: local (processes on this machine), ray (actors on a cluster) or slurm (jobs that share a folder).
      workers: number of processes, actors or jobs; by default one per device.
      address: address of a running Ray cluster; by default Ray is started on this machine.
      partition: partition of the SLURM jobs; without SLURM the jobs run on this machine.
      tracker: experiment tracker to log to, through its own library.
      retry: rows to make anew, by how they ended (failed, rejected), such as those of a machine that was at fault.
      item_seconds: how long one item may take before it counts as failed; by default as long as it takes.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT [INPUT ...]")] = ()
    _: KW_ONLY
    method: Methods = ("auto",)
    out: Annotated[str, FOLDER] = "runs/sweep"
    write: Write = "cleaned"
    engine: Literal["local", "ray", "slurm"] = "local"
    workers: int | None = None
    address: Annotated[str | None, NAME] = None
    partition: Annotated[str | None, NAME] = None
    tracker: TrackerName = "none"
    retry: tuple[Literal["failed", "rejected"], ...] = ()
    item_seconds: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.item_seconds is not None:
            check_number("item_seconds", self.item_seconds, 1)
        if self.workers is not None:
            check_number("workers", self.workers, 1, integer=True)


def item_request(options: SweptOptions, item: Item) -> Request:
    """What the options ask of an item."""
    return Request.of(item.path, find_method(item.method), options).with_overrides(item.overrides)


def item_key(
    request: Request, sha256: str, write: Write, data: str | None = None, reactivate: Reactivate = "none"
) -> str:
    """The key of an item: of the file, what lies beside it, what is done to it and on what, and this package's code.

    Args:
      request: what is asked of it.
      sha256: of the file.
      write: what is kept of it.
      data: digest of the data it is judged on.
      reactivate: the attempt to bring its backdoor back.
    """
    plain = request.plain()
    if reactivate != "none" and is_read("reactivate", request.method):
        plain["reactivate"] = reactivate
    plain["compute"].pop("batch_size")
    plain["images"].pop("data_dir")
    path = request.checkpoint
    read = [beside(path, CARD_SUFFIX), beside(path, TRIGGER_SUFFIX), *_files_named(request)]
    found = [digest_small(each) for each in read]
    return make_key(path=path, file=sha256, beside=found, write=write, options=plain, data=data)


def _files_named(request: Request) -> list[Path]:
    """The files that the options name, data sets aside, and those that are read beside them."""
    named, start = request.options.trigger.artefact, request.options.untrusted.start
    files = []
    if named is not None:
        files.append(Path(named))
        if files[0].suffix.lower() in SUFFIXES:  # the picture's mask, in one of two forms
            files += [files[0].with_name(f"{files[0].stem}_mask{suffix}") for suffix in (".npy", ".png")]
    if start is not None and request.method.needs == "untrusted":
        files += [Path(start), beside(start, CARD_SUFFIX)]
    return files

"""A sweep from its inputs to its tables: plan, run what has no row yet, compact."""

import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import jax

from rnp_jax.config import to_plain, write_yaml
from rnp_jax.errors import ConfigError, DataError, RnpError, SweepError
from rnp_jax.pipeline.opening import load_images
from rnp_jax.pipeline.options import RunOptions, read_options
from rnp_jax.pipeline.request import Request, check_request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.versions import package_versions
from rnp_jax.report.leaderboard import write_leaderboard
from rnp_jax.report.schema import Versions
from rnp_jax.report.sweep_row import STATUSES, SweepRow
from rnp_jax.report.sweep_table import write_tables
from rnp_jax.sweep.items import Item, make_key, write_plan
from rnp_jax.sweep.job import SweepJob
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.local import run_local
from rnp_jax.sweep.manifest import Entry, read_entries
from rnp_jax.sweep.options import OPTIONS, SweepOptions, Write, item_key
from rnp_jax.sweep.parsing import Parser
from rnp_jax.sweep.plan import group_of, order_items
from rnp_jax.sweep.progress import SweepProgress
from rnp_jax.sweep.ray_engine import run_ray
from rnp_jax.sweep.serving import serve
from rnp_jax.sweep.slurm_engine import run_slurm
from rnp_jax.sweep.trackers import TrackerName, open_tracker
from rnp_jax.sweep.worker import failed_row, work

WORKER = (sys.executable, "-m", "rnp_jax.sweep.serving")

Engine: TypeAlias = Callable[[Ledger, Sequence[Item], Callable[[], None]], Any]
"""Runs items of a ledger that have no row yet, and calls the last argument now and then."""


def run_sweep(options: SweepOptions) -> tuple[SweepRow, ...]:
    """Plans, runs what has no row yet on the engine that the options name, and writes the tables and the page.

    Raises:
      ConfigError: unusable inputs or options.
      SweepError: some items failed, or the sweep had to stop; the tables are written then, too.
    """
    if options.engine != "ray" and options.address is not None:
        raise ConfigError("--address is for --engine ray; remove it")
    if options.engine != "slurm" and options.partition is not None:
        raise ConfigError("--partition is for --engine slurm; remove it")
    check_options(options, images=options.engine == "local")
    entries = read_entries(options.inputs)
    out = open_folder(Path(options.out), SweepOptions)
    write_yaml(out / OPTIONS, options)
    log = RunLog()
    log.write_to(out / "run.log")
    return run_items(entries, options, out, options.write, log, _engine(options), options.tracker)


def run_here(
    paths: Sequence[str],
    options: RunOptions,
    out: Path,
    log: RunLog,
    finish: Callable[[SweepRow], SweepRow] = lambda row: row,
) -> tuple[SweepRow, ...]:
    """A sweep over a few checkpoints in this process; ``finish`` adds to rows what only the caller knows.

    Raises:
      ConfigError: unusable options.
      SweepError: some items failed, or a checkpoint cannot be used; the tables are written then, too.
    """

    def engine(ledger: Ledger, items: Sequence[Item], watch: Callable[[], None]) -> None:
        def go_on() -> bool:
            watch()
            return True

        with ledger.join() as member:
            work(ledger, items, SweepJob(options, out, "row", explain=True), member, go_on)

    entries = [Entry(path=path) for path in dict.fromkeys(paths)]  # one that is given twice is no second run
    rows = run_items(entries, options, out, "row", log, engine, finish=finish)
    rejected = [row for row in rows if row.status == "rejected"]
    if rejected:
        first = rejected[0]
        raise SweepError(
            f"{len(rejected)} of {len(rows)} items cannot be used, for example {first.checkpoint}: {first.reason}"
        )
    return rows


def check_options(options: RunOptions, images: bool = True) -> None:
    """Says what is wrong with the options for every checkpoint, before anything is written.

    Args:
      options: of the sweep.
      images: whether the data that they name are read from here.

    Raises:
      ConfigError: options that no item could be run with.
      DataError: images that cannot be read.
    """
    for method in options.methods:
        check_request(Request.of("", method, options))
    if images and options.images.data is not None:
        load_images(options.images, "test")


def open_folder(out: Path, schema: type[RunOptions]) -> Path:
    """The folder of a new sweep, or of one of the same command that goes on.

    Raises:
      DataError: it is no folder, or holds files of something else.
      ConfigError: it is another command's.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is not a folder; choose another with --out")
    if out.is_dir() and not (out / OPTIONS).exists() and any(out.iterdir()):
        raise DataError(f"{out} contains files that do not belong to a sweep; choose another folder with --out")
    if (out / OPTIONS).exists():
        read_options(schema, out / OPTIONS)  # of another command it does not resolve
    out.mkdir(parents=True, exist_ok=True)
    return out


def run_items(
    entries: Sequence[Entry],
    options: RunOptions,
    out: Path,
    write: Write,
    log: RunLog,
    engine: Engine,
    tracker: TrackerName = "none",
    finish: Callable[[SweepRow], SweepRow] = lambda row: row,
) -> tuple[SweepRow, ...]:
    """Plans an item for each checkpoint and method, runs those without a row, and writes the tables and the page.

    Raises:
      SweepError: some items failed, or the sweep had to stop; the tables are written then, too.
    """
    ledger = Ledger(out)
    items = plan_items(entries, options, write, ledger, log)
    write_plan(out, items)
    stopped: BaseException | None = None
    try:
        _execute(ledger, items, log, engine, tracker)
    except (SweepError, KeyboardInterrupt) as error:
        stopped = error
    rows = compact(ledger, items, options, finish)
    counts = Counter(row.status for row in rows)
    log.say(", ".join(f"{counts[status]} {status}" for status in STATUSES) + f" of {len(rows)}")
    log.say(f"table  {out / 'rows.csv'}\npage   {out / 'leaderboard.html'}")
    if stopped is not None:
        raise stopped
    if counts["failed"]:
        raise SweepError(
            f"{counts['failed']} of {len(rows)} items failed; see {out / 'leaderboard.html'} for the reasons"
        )
    return rows


def compact(
    ledger: Ledger,
    items: Sequence[Item],
    options: RunOptions,
    finish: Callable[[SweepRow], SweepRow] = lambda row: row,
) -> tuple[SweepRow, ...]:
    """The rows of all items, those without one as skipped, in the tables and on the page."""
    found = (ledger.row(item.key) or failed_row(item, "skipped", "not reached yet") for item in items)
    rows = tuple(map(finish, found))
    write_tables(ledger.out, rows)
    write_leaderboard(
        ledger.out,
        rows,
        config=to_plain(options),
        versions=Versions(**package_versions()),
        created=datetime.now(UTC),
        title=f"Sweep {ledger.out.name}",
    )
    return rows


def plan_items(
    entries: Sequence[Entry], options: RunOptions, write: Write, ledger: Ledger, log: RunLog
) -> tuple[Item, ...]:
    """An item for each checkpoint and method; files that cannot be used have their rows at once.

    Raises:
      ConfigError: options that no item could be run with.
    """
    check_options(options, images=False)
    log.say(f"reading {len(entries)} checkpoints in a separate process")
    items: list[Item] = []
    with Parser() as parser, log.bar("read", len(entries)) as advance:
        for entry in entries:
            advance()
            path, overrides = entry.path, entry.overrides
            try:
                parsed = parser.parse(_with_defaults(entry, options))
            except RnpError as error:
                for method in options.methods:
                    key = make_key(path=path, state=_state(path), method=method.name, overrides=overrides)
                    item = Item(key, path, "", method.name, "unreadable", overrides)
                    ledger.commit(failed_row(item, "rejected", getattr(error, "reason", str(error))))
                    items.append(item)
                continue
            for method in options.methods:
                request = Request.of(path, method, options).with_overrides(overrides)
                key = item_key(request, parsed.sha256, write)
                items.append(Item(key, path, parsed.sha256, method.name, group_of(parsed, entry), overrides))
    return order_items(items)


def _with_defaults(entry: Entry, options: RunOptions) -> Entry:
    """The entry, with what the options say of every file."""
    source = options.source
    shared = {"key": source.key, "architecture": source.architecture, "image_shape": source.image_shape}
    given = {name: value for name, value in shared.items() if getattr(entry, name) is None and value is not None}
    return Entry(**{"path": entry.path, **entry.overrides, **given})


def _state(path: str) -> list[int]:
    """What tells that an unreadable file was replaced."""
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, stat.S_IFMT(found.st_mode)]


def _execute(ledger: Ledger, items: Sequence[Item], log: RunLog, engine: Engine, tracker: TrackerName) -> None:
    done = ledger.done()
    left = [item for item in items if item.key not in done]
    log.say(f"{len(items)} items, {len(items) - len(left)} of them already done")
    if not left:
        return
    with open_tracker(tracker, ledger.out) as tracking, SweepProgress(ledger, items, log, tracking.log) as progress:
        engine(ledger, items, progress.watch)


def _engine(options: SweepOptions) -> Engine:
    """The workers that the options name."""
    cached = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    environment = {} if cached else {"RNP_JAX_CACHE": "off"}
    workers = options.workers

    def run(ledger: Ledger, items: Sequence[Item], watch: Callable[[], None]) -> None:
        if options.engine == "ray":
            run_ray(ledger, items, serve, workers, options.address, watch, environment)
        elif options.engine == "slurm":
            run_slurm(ledger, items, WORKER, workers, options.partition, watch, environment)
        else:
            only_measured = all(method.changes == "nothing" for method in options.methods)
            run_local(ledger, items, WORKER, workers, watch, environment, whole_machine=only_measured)

    return run

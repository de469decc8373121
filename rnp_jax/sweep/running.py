"""A sweep from its inputs to its tables: plan, run what has no row yet, compact."""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import jax

from rnp_jax.atomic import is_draft, remove_drafts
from rnp_jax.checks import check_path
from rnp_jax.config import to_plain, write_yaml
from rnp_jax.errors import ConfigError, DataError, Interrupted, OutsideError, SweepError
from rnp_jax.pipeline.holding import LOCK, hold_folder
from rnp_jax.pipeline.options import read_options
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.versions import package_versions
from rnp_jax.report.leaderboard import write_leaderboard
from rnp_jax.report.leaderboard_matrix import say_doubts
from rnp_jax.report.schema import Versions
from rnp_jax.report.sweep_row import STATUSES, Status, SweepRow
from rnp_jax.report.sweep_table import write_tables
from rnp_jax.sweep.items import Item, make_key, write_plan
from rnp_jax.sweep.job import SweepJob
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.local import run_local
from rnp_jax.sweep.manifest import Entry, read_entries
from rnp_jax.sweep.options import OPTIONS, SweepOptions, SweptOptions, Write
from rnp_jax.sweep.plan import Plan, check_options, plan_items
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
    return run_items(
        entries,
        options,
        out,
        options.write,
        RunLog(),
        _engine(options),
        options.tracker,
        elsewhere=options.engine != "local",
        retry=options.retry,
    )


def run_here(
    paths: Sequence[str],
    options: SweptOptions,
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


def open_folder(out: Path, schema: type[SweptOptions]) -> Path:
    """The folder of a new sweep, or of one of the same command that goes on.

    Raises:
      DataError: it is no folder, or holds files of something else.
      ConfigError: it is another command's, or its name is not UTF-8.
    """
    check_path("--out", out)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is not a folder; choose another with --out")
    foreign = out.is_dir() and any(path.name != LOCK and not is_draft(path) for path in out.iterdir())
    if foreign and not (out / OPTIONS).exists():
        raise DataError(f"{out} contains files that do not belong to a sweep; choose another folder with --out")
    if (out / OPTIONS).exists():
        read_options(schema, out / OPTIONS)  # of another command it does not resolve
    out.mkdir(parents=True, exist_ok=True)
    return out


def run_items(
    entries: Sequence[Entry],
    options: SweptOptions,
    out: Path,
    write: Write,
    log: RunLog,
    engine: Engine,
    tracker: TrackerName = "none",
    finish: Callable[[SweepRow], SweepRow] = lambda row: row,
    *,
    elsewhere: bool = False,
    retry: Collection[Status] = (),
) -> tuple[SweepRow, ...]:
    """Plans, runs on an engine what has no row yet, and writes the options, the tables and the page.

    Args:
      entries: the checkpoints.
      options: of all of them.
      out: the folder, which runs with the same plan share.
      write: what is kept of each item.
      log: told what is done; written to the folder, too.
      engine: runs items.
      tracker: of experiments.
      finish: adds to rows what only the caller knows.
      elsewhere: whether other machines run the items.
      retry: the statuses of rows that are made anew.

    Raises:
      ConfigError: options that no item could be run with.
      DataError: another run with other options or checkpoints writes into the folder.
      SweepError: some items failed or could not be run, or the sweep had to stop; the tables are written then, too.
    """
    plan = plan_items(entries, options, write, log, elsewhere=elsewhere)
    with hold_folder(out, "sweep", _tell_apart(plan, options, write)) as alone:
        write_yaml(out / OPTIONS, options)
        log.write_to(out / "run.log")
        ledger = Ledger(out)
        if alone:
            ledger.tidy()
            ledger.forget([item.key for item in plan.items], retry)
        for row in plan.rejected:
            ledger.commit(row)
        for key, reason in plan.aside.items():
            ledger.set_aside(key, reason)
        write_plan(out, plan.items)
        stopped: BaseException | None = None
        try:
            _execute(ledger, plan.items, log, engine, tracker)
        except (SweepError, OutsideError, KeyboardInterrupt) as error:
            stopped = error
        remove_drafts(out, deep=True)  # of workers that were killed
        rows = compact(ledger, plan.items, options, finish)
        counts = Counter(row.status for row in rows)
        reached = ", ".join(f"{counts[status]} {status}" for status in STATUSES) + f" of {len(rows)}"
        for doubt in say_doubts(rows):
            log.warn(doubt)
        table, page = out / "rows.csv", out / "leaderboard.html"
        log.conclude(f"{reached}\ntable  {table}\npage   {page}", table=table, page=page)
        if isinstance(stopped, KeyboardInterrupt):
            done = len(ledger.done() & {item.key for item in plan.items})
            raise Interrupted(f"{done} of {len(plan.items)} items are done; the same command goes on with the others")
        if stopped is not None:
            raise stopped
        hint = " (--retry failed runs them again)" if isinstance(options, SweepOptions) else ""
        _check_finished(ledger, plan.items, counts, hint)
    return rows


def _tell_apart(plan: Plan, options: SweptOptions, write: Write) -> str:
    """A digest of whatever decides what the workers of a sweep do; how many they are, and where, does not."""
    decisive = {each.name: getattr(options, each.name) for each in fields(SweptOptions) if each.name != "out"}
    keys = sorted(item.key for item in plan.items)
    return make_key(keys=keys, options=to_plain(decisive), write=write)


def _check_finished(ledger: Ledger, items: Sequence[Item], counts: Mapping[str, int], hint: str) -> None:
    """Requires that every item was run, and none failed.

    Raises:
      SweepError: it is not so.
    """
    aside = [(item.path, why) for item in items if (why := ledger.why_aside(item.key)) is not None]
    told = []
    if failed := counts["failed"]:
        page = ledger.out / "leaderboard.html"
        told.append(f"{failed} of {len(items)} items failed; see {page} for the reasons{hint}")
    if aside:
        path, why = aside[0]
        told.append(
            f"{len(aside)} of {len(items)} items could not be run, for example {path}: {why} "
            "(the same command runs them once this is mended)"
        )
    if told:
        raise SweepError("; ".join(told))


def compact(
    ledger: Ledger,
    items: Sequence[Item],
    options: SweptOptions,
    finish: Callable[[SweepRow], SweepRow] = lambda row: row,
) -> tuple[SweepRow, ...]:
    """The rows of all items, those without one as skipped, in the tables and on the page."""
    found = (
        ledger.row(item.key) or failed_row(item, "skipped", ledger.why_aside(item.key) or "not reached yet")
        for item in items
    )
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
    workers, limit = options.workers, options.item_seconds

    def run(ledger: Ledger, items: Sequence[Item], watch: Callable[[], None]) -> None:
        if options.engine == "ray":
            run_ray(ledger, items, serve, workers, options.address, watch, environment, limit)
        elif options.engine == "slurm":
            run_slurm(ledger, items, WORKER, workers, options.partition, watch, environment, limit)
        else:
            only_measured = all(method.changes == "nothing" for method in options.methods)
            run_local(ledger, items, WORKER, workers, watch, environment, only_measured, limit)

    return run

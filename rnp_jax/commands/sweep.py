"""``rnp-jax sweep``: defenses on thousands of checkpoints, resumable, one table and one page."""

import os
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import jax

from rnp_jax.commands.run_log import RunLog
from rnp_jax.commands.sweep_options import OPTIONS, SweepOptions, item_key
from rnp_jax.commands.sweep_progress import SweepProgress
from rnp_jax.commands.sweep_worker import serve
from rnp_jax.commands.versions import package_versions
from rnp_jax.config import read_yaml, resolve, to_plain, write_yaml
from rnp_jax.errors import ConfigError, DataError, RnpError, SweepError
from rnp_jax.report.leaderboard import write_leaderboard
from rnp_jax.report.schema import Versions
from rnp_jax.report.sweep_row import STATUSES, SweepRow
from rnp_jax.report.sweep_table import write_tables
from rnp_jax.sweep.items import Item, make_key, write_plan
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.local import run_local
from rnp_jax.sweep.manifest import Entry, read_entries
from rnp_jax.sweep.parsing import Parser
from rnp_jax.sweep.plan import group_of, order_items
from rnp_jax.sweep.ray_engine import run_ray
from rnp_jax.sweep.slurm_engine import run_slurm
from rnp_jax.sweep.trackers import open_tracker
from rnp_jax.sweep.worker import failed_row

WORKER = (sys.executable, "-m", "rnp_jax.commands.sweep_worker")


def run(options: SweepOptions) -> tuple[SweepRow, ...]:
    """Plans, runs what has no row yet, and writes the tables and the page.

    Raises:
      ConfigError: unusable inputs or options.
      SweepError: some items failed, or the sweep had to stop; the tables are written then, too.
    """
    entries = read_entries(options.inputs)
    out = Path(options.out)
    _check_folder(out, options)
    ledger, log = Ledger(out), RunLog()
    log.write_to(out / "run.log")
    write_yaml(out / OPTIONS, options)
    items = _plan(entries, options, ledger, log)
    write_plan(out, items)
    stopped: BaseException | None = None
    try:
        _execute(ledger, items, options, log)
    except (SweepError, KeyboardInterrupt) as error:
        stopped = error
    rows = compact(ledger, items, options)
    counts = Counter(row.status for row in rows)
    log.say(", ".join(f"{counts[status]} {status}" for status in STATUSES) + f" of {len(rows)}")
    log.say(f"table  {out / 'rows.csv'}\npage   {out / 'leaderboard.html'}")
    if stopped is not None:
        raise stopped
    if counts["failed"]:
        raise SweepError(f"{counts['failed']} of {len(rows)} items failed; {out / 'leaderboard.html'} says why")
    return rows


def compact(ledger: Ledger, items: Sequence[Item], options: SweepOptions) -> tuple[SweepRow, ...]:
    """The rows of all items, those without one as skipped, in the tables and on the page."""
    rows = tuple(ledger.row(item.key) or failed_row(item, "skipped", "not reached yet") for item in items)
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


def _check_folder(out: Path, options: SweepOptions) -> None:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is no folder; choose another with --out")
    if out.is_dir() and not (out / OPTIONS).exists() and any(out.iterdir()):
        raise DataError(f"{out} holds files that are of no sweep; choose another folder with --out")
    if (out / OPTIONS).exists():
        resolve(SweepOptions, read_yaml(out / OPTIONS), str(out / OPTIONS))  # of another command it does not resolve
    if options.engine != "ray" and options.address is not None:
        raise ConfigError("--address is for --engine ray; remove it")
    if options.engine != "slurm" and options.partition is not None:
        raise ConfigError("--partition is for --engine slurm; remove it")


def _plan(entries: Sequence[Entry], options: SweepOptions, ledger: Ledger, log: RunLog) -> tuple[Item, ...]:
    """An item for each checkpoint and method; files that cannot be used have their rows at once."""
    log.say(f"reading {len(entries)} checkpoints in a process of their own")
    items: list[Item] = []
    with Parser() as parser, log.bar("read", len(entries)) as advance:
        for entry in entries:
            advance()
            path, overrides = entry.path, entry.overrides
            try:
                parsed = parser.parse(_with_defaults(entry, options))
            except RnpError as error:
                for method in options.method:
                    key = make_key(path=path, state=_state(path), method=method, overrides=overrides)
                    item = Item(key, path, "", method, "unreadable", overrides)
                    ledger.commit(failed_row(item, "rejected", getattr(error, "reason", str(error))))
                    items.append(item)
                continue
            for method in options.method:
                key = item_key(options, method, path, parsed.sha256, overrides)
                items.append(Item(key, path, parsed.sha256, method, group_of(parsed, entry), overrides))
    return order_items(items)


def _with_defaults(entry: Entry, options: SweepOptions) -> Entry:
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


def _execute(ledger: Ledger, items: Sequence[Item], options: SweepOptions, log: RunLog) -> None:
    done = ledger.done()
    left = [item for item in items if item.key not in done]
    log.say(f"{len(items)} items, {len(items) - len(left)} of them done")
    if not left:
        return
    cached = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    environment = {} if cached else {"RNP_JAX_CACHE": "off"}
    workers = options.workers
    with (
        open_tracker(options.tracker, ledger.out) as tracker,
        SweepProgress(ledger, items, log, tracker.log) as progress,
    ):
        if options.engine == "ray":
            run_ray(ledger, items, serve, workers, options.address, progress.watch, environment)
        elif options.engine == "slurm":
            run_slurm(ledger, items, WORKER, workers, options.partition, progress.watch, environment)
        else:
            only_measured = all(item.method == "none" for item in left)
            run_local(ledger, items, WORKER, workers, progress.watch, environment, whole_machine=only_measured)

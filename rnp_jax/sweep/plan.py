"""The plan of a sweep: an item for each checkpoint and method; those that share programs come together."""

import json
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rnp_jax.card import CARD_SUFFIX, beside
from rnp_jax.errors import ArchitectureError, CheckpointError, DataError, UnusableDataError
from rnp_jax.pipeline.images import load_images
from rnp_jax.pipeline.request import Request, check_request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.contents import Contents
from rnp_jax.sweep.items import Item, make_key
from rnp_jax.sweep.manifest import Entry
from rnp_jax.sweep.options import SweptOptions, Write, item_key
from rnp_jax.sweep.parsing import Parsed, Parser
from rnp_jax.sweep.worker import failed_row


class Plan(NamedTuple):
    """What a sweep is to do.

    Attributes:
      items: all of them, in order.
      rejected: the rows of those whose files cannot be used.
      aside: by key, why an item cannot be run for now.
    """

    items: tuple[Item, ...]
    rejected: tuple[SweepRow, ...]
    aside: dict[str, str]


def plan_items(
    entries: Sequence[Entry], options: SweptOptions, write: Write, log: RunLog, *, elsewhere: bool = False
) -> Plan:
    """An item for each checkpoint and method. Nothing is written.

    Args:
      entries: the checkpoints.
      options: of all of them.
      write: what is kept of each.
      log: told what takes its time.
      elsewhere: whether other machines run the items, which may see data that this one does not.

    Raises:
      ConfigError: options that no item could be run with.
      SweepError: the process that reads checkpoints does not start.
    """
    check_options(options, images=False)
    log.say(f"reading {len(entries)} checkpoints in a separate process")
    items: list[Item] = []
    rejected: list[SweepRow] = []
    aside: dict[str, str] = {}
    contents = Contents()
    with Parser() as parser, log.bar("read", len(entries)) as advance:
        for entry in entries:
            advance()
            path, overrides = entry.path, entry.overrides
            try:
                parsed = parser.parse(_with_defaults(entry, options))
            except (CheckpointError, ArchitectureError, DataError) as error:
                card = beside(path, CARD_SUFFIX)
                for method in options.methods:
                    state = [_state(path), _state(card)]
                    key = make_key(path=path, state=state, method=method.name, overrides=overrides)
                    items.append(Item(key, path, "", method.name, "unreadable", overrides))
                    rejected.append(failed_row(items[-1], "rejected", getattr(error, "reason", str(error))))
                continue
            for method in options.methods:
                request, data, missing = Request.of(path, method, options).with_overrides(overrides), None, None
                try:
                    data = contents.digest(request, parsed.data)
                except UnusableDataError as error:
                    missing = str(error)
                key = item_key(request, parsed.sha256, write, data, options.reactivate)
                group = group_of(parsed, entry)
                items.append(Item(key, path, parsed.sha256, method.name, group, overrides, data))
                if missing is not None and not elsewhere:
                    aside[key] = missing
    return Plan(order_items(items), tuple(rejected), aside)


def check_options(options: SweptOptions, images: bool = True) -> None:
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


def _with_defaults(entry: Entry, options: SweptOptions) -> Entry:
    """The entry, with what the options say of every file."""
    source = options.source
    shared = {name: getattr(source, name) for name in ("key", "prefix", "architecture", "image_shape")}
    given = {name: value for name, value in shared.items() if getattr(entry, name) is None and value is not None}
    return Entry(**{"path": entry.path, **entry.overrides, **given})


def _state(path: str | Path) -> list[int]:
    """What tells that a file that was unreadable, or the card beside it, was replaced."""
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, stat.S_IFMT(found.st_mode)]


def group_of(parsed: Parsed, entry: Entry) -> str:
    """What decides the shapes and constants of an item's programs, as text; equal for items that can share them.

    It is the architecture with the shape of its input, the normalisation, the extractor and the data; where the entry
    leaves one open, the card's counts.
    """
    return json.dumps(
        {
            **parsed.architecture,
            "normalization": entry.normalization or parsed.normalization,
            "extractor": entry.extractor or parsed.extractor,
            "data": entry.data or parsed.data,
        },
        sort_keys=True,
    )


def order_items(items: Iterable[Item]) -> tuple[Item, ...]:
    """The items group by group, groups by their first item; within a group the order stays."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    return tuple(item for group in groups.values() for item in group)

"""The order of a sweep: items that share their compiled programs come together."""

import json
from collections.abc import Iterable

from rnp_jax.sweep.items import Item
from rnp_jax.sweep.manifest import Entry
from rnp_jax.sweep.parsing import Parsed


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

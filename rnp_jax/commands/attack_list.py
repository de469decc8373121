"""What there is to say of every registered attack: the table of ``rnp-jax attack --list``."""

import dataclasses

from rich.table import Table
from rich.text import Text

from rnp_jax.attacks import ATTACKS, Attack
from rnp_jax.console import open_console
from rnp_jax.training.trainers import JOINT


def list_attacks() -> None:
    """Prints the table."""
    open_console().print(attack_table())


def attack_table() -> Table:
    """One row an attack: name and paper, kind, constants with their defaults, what differs from the publication."""
    table = Table("attack", "kind", "constants", "deviation", show_lines=True)
    for name, kind in sorted(ATTACKS.items()):
        constants = "\n".join(f"{constant} {value}" for constant, value in describe_constants(kind()).items())
        cells = [kind.paper, ", ".join(describe_kind(kind)), constants, kind.deviation]
        paper, *rest = cells
        table.add_row(Text.assemble((name, "bold"), f"\n{paper}"), *rest)
    return table


def describe_kind(kind: type[Attack]) -> tuple[str, ...]:
    """Whose labels it changes, and where its trigger comes from."""
    ways = {
        "joint": kind in JOINT,
        "in the step": kind.in_step,
        "learned": kind.fit is not Attack.fit,
        "crafted": kind.craft is not Attack.craft,
    }
    found = [way for way, is_so in ways.items() if is_so]
    return ("clean label" if kind.clean_label else "dirty label", *(found or ["static"]))


def describe_constants(attack: Attack) -> dict[str, str]:
    """Its constants as one would give them to ``--constants``."""
    return {field.name: f"{getattr(attack, field.name)}" for field in dataclasses.fields(attack)}

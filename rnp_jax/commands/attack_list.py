"""What there is to say of every registered attack: what ``rnp-jax attack --list`` prints."""

import dataclasses

from rich.padding import Padding
from rich.text import Text

from rnp_jax.attacks import ATTACKS, Attack
from rnp_jax.console import open_console
from rnp_jax.training.trainers import JOINT

_INDENT = 4


def list_attacks() -> None:
    """Prints the list: no name in it is ever cut, however narrow the terminal."""
    console = open_console()
    for name, kind in sorted(ATTACKS.items()):
        console.print(Text.assemble((name, "bold"), f"  {kind.paper}: {', '.join(describe_kind(kind))}"))
        for told in describe_more(kind):
            console.print(Padding(Text(told, overflow="fold"), (0, 0, 0, _INDENT), expand=False))


def describe_more(kind: type[Attack]) -> tuple[str, ...]:
    """Its constants with their defaults, as ``--constants`` takes them, and what differs from the publication."""
    constants = ", ".join(f"{name} {value}" for name, value in describe_constants(kind()).items())
    return tuple(filter(None, (constants and f"constants: {constants}", kind.deviation)))


def name_static() -> str:
    """The attacks whose images can be poisoned before any network is trained, as an option's help lists them."""
    names = [name for name, kind in sorted(ATTACKS.items()) if kind not in JOINT and not kind().learns()]
    return f"{', '.join(names)} (rnp-jax attack --list tells more), or none"


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

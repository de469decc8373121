"""The reference that is made from the code when the site is built: options, methods, attacks."""

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping

from site_options import Option, list_options

from rnp_jax.adaptive import AdaptiveOptions
from rnp_jax.attacks import ATTACKS
from rnp_jax.commands.attack_list import describe_constants, describe_kind
from rnp_jax.commands.table import COMMANDS
from rnp_jax.defenses import METHODS, Method
from rnp_jax.pipeline.options import RunOptions

NEEDS = {
    "clean": "clean images",
    "untrusted": "the untrusted training set",
    "none": "no images",
    "trigger": "the attacker's trigger, which no defender has",
}
CHANGES = {
    "nothing": "nothing",
    "filters": "filters, which it sets to zero",
    "weights": "weights",
    "both": "filters and weights",
    "bounds": "upper bounds on activations; weights stay",
}


def write_options() -> str:
    """Every command with its options, as the command line reads them; settings of methods stand with the methods."""
    return "\n\n".join(_command(name, schema, what) for name, (schema, what) in COMMANDS.items())


def command_options(name: str) -> list[Option]:
    """The options of a command without those of any method."""
    schema = getattr(importlib.import_module(f"rnp_jax.commands.{name}"), COMMANDS[name][0])
    return list_options(schema)


def _command(name: str, schema: str, what: str) -> str:
    module = importlib.import_module(f"rnp_jax.commands.{name}")
    kind = getattr(module, schema)
    about = (inspect.getdoc(kind) or "").partition("Attributes:")[0].strip()
    more = "\n\nThe settings of the methods it runs come on top: [methods](methods.md)." * issubclass(kind, RunOptions)
    return f"## {name}\n\n{_sentence(what)}\n\n{escape(about)}{more}\n\n{_options_table(list_options(kind))}"


def write_methods() -> str:
    """Every method with its summary, its source, what it needs and changes, and its settings."""
    return "\n\n".join(_method(method) for method in METHODS.values())


def method_options(method: Method) -> list[Option]:
    """The settings that a method adds to a command."""
    if not method.group:
        return []
    return list_options(type(method.defaults), METHODS[method.group].defaults, f"{method.group}.")


def _method(method: Method) -> str:
    parts = [f"## {method.title} {{#{method.name}}}", f"`--method {method.name}`: {escape(_sentence(method.summary))}"]
    if method.control:
        parts.append("It is a control to compare with, not a defense.")
    if method.basis:
        parts.append(escape(_sentence(method.basis)))
    parts.append(f"It needs {NEEDS[method.needs]}, and changes {CHANGES[method.changes]}.")
    if found := method_options(method):
        parts.append(_options_table(found))
    return "\n\n".join(parts)


def write_attacks() -> str:
    """Every attack with its source, its kind, its constants and what differs from the publication."""
    return "\n\n".join(_attack(name) for name in sorted(ATTACKS))


def _attack(name: str) -> str:
    kind = ATTACKS[name]
    about = (inspect.getdoc(kind) or "").partition("Raises:")[0].partition("Attributes:")[0].strip()
    way = (
        f"`--attack {name}`. {escape(kind.paper)}. {', '.join(describe_kind(kind)).capitalize()}. {escape(kind.looks)}"
    )
    parts = [f"## {kind.title} {{#{name}}}", way, escape(about)]
    if constants := describe_constants(kind()):
        parts.append(_table(("constant", "default"), [(f"`{key}`", f"`{value}`") for key, value in constants.items()]))
    if kind.deviation:
        parts.append(f"What differs from the publication: {escape(kind.deviation)}")
    return "\n\n".join(parts)


def write_adaptive() -> str:
    """Every adaptive training with what it does and its settings."""
    kinds = {each.name: type(getattr(AdaptiveOptions(), each.name)) for each in dataclasses.fields(AdaptiveOptions)}
    return "\n\n".join(_adaptive(name, kind) for name, kind in kinds.items() if name != "method")


def _adaptive(name: str, kind: type) -> str:
    lines = (sys.modules[kind.__module__].__doc__ or "").strip().splitlines()
    about = "\n".join(line if line.startswith("    ") else escape(line) for line in lines)  # formulas are code
    parts = [f"### {name} {{#adaptive-{name}}}", f"`--adaptive.method {name}`. {about}"]
    return "\n\n".join([*parts, _options_table(list_options(kind, prefix=f"adaptive.{name}."))])


GENERATED: Mapping[str, Callable[[], str]] = {
    "options": write_options,
    "methods": write_methods,
    "attacks": write_attacks,
    "adaptive": write_adaptive,
}
"""What stands in the place of ``<!-- generated: NAME -->``."""


def _options_table(options: Iterable[Option]) -> str:
    rows = [(f"`{each.name}`", escape(each.takes), f"`{each.default}`", escape(each.text)) for each in options]
    return f'<div class="options" markdown="1">\n\n{_table(("option", "takes", "default", "meaning"), rows)}\n\n</div>'


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [cells[0], ["---"] * len(head), *cells[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """A docstring as Markdown: double backticks as code, angle brackets and asterisks as they are."""
    parts = text.replace("``", "`").split("`")
    for i in range(0, len(parts), 2):
        parts[i] = parts[i].replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("[", "\\[")
    return "`".join(parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." * (not text.endswith("."))

"""Defenses against attackers who know them, each beside its control: the tables of results/cpu_adaptive.md.

    python -m benchmarks.adaptive [--attack badnets] [--out runs/adaptive] [--victims grond …] [--methods rnp …]
        [--seeds 0] [--kept adaptive.jsonl] [--write FILE]

Victims are ResNet-18 of width 8 on the built-in digits at 16 x 16 pixels, with BadNets' square or Blend (target 0, a
rate of 0.1) and the training of ``configs/attacks/digits/badnets.yaml``. An adaptive training and its control differ
in one option. A victim that is missing in ``--out`` is trained. A defense has 500 clean images, 100 of them held out,
and its defaults; nothing is chosen by ASR. Each run is one line of ``--kept``, and a later call goes on with what is
missing. ``--write`` receives the tables of all lines.
"""

import argparse
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import rnp_jax
from benchmarks.compare import describe_machine
from benchmarks.outcomes import RESULTS, Outcome, append_line, read_lines, show_range, summarise
from rnp_jax.atomic import write_atomic
from rnp_jax.checkpoints import load_model
from rnp_jax.cli import main as run_command
from rnp_jax.config import DefenseSetOptions
from rnp_jax.data import Augmentation, load
from rnp_jax.defenses import METHODS
from rnp_jax.defenses.registry import title
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.report.schema import Result

SIZE = 16
BASE = (
    *("--config", str(Path(__file__).parents[1] / "configs/attacks/digits/badnets.yaml")),
    *("--image-size", str(SIZE), "--resume"),
)
ATTACKS = {"badnets": ("--constants", "variant", "square"), "blend": ()}
"""What each adds to the command line."""
BREAKS = 0.2
"""A defense breaks where it leaves that much more ASR than on the control."""
KEPT = 0.5
"""A control keeps its backdoor where that much ASR is left."""


class Victim(NamedTuple):
    """An adaptive training: what it adds to the command line, and which victim is its control."""

    arguments: tuple[str, ...]
    control: str | None = "plain"


def _adaptive(method: str, *settings: str, control: str = "plain") -> Victim:
    group = f"--adaptive.{method.replace('_', '-')}"
    pairs = [
        word for name, value in zip(settings[::2], settings[1::2], strict=True) for word in (f"{group}.{name}", value)
    ]
    return Victim(("--adaptive.method", method, *pairs), control)


VICTIMS: Mapping[str, Victim] = {
    "plain": Victim((), None),
    "grond": _adaptive("grond", "u", "1.5"),
    "lipschitz": _adaptive("lipschitz", "u", "1.5"),
    "embedding": _adaptive("embedding"),
    "forget": _adaptive("unlearn_aware", "learning-rate", "0.1"),
    "forget_slow": _adaptive("unlearn_aware"),
    "sbl_first": _adaptive("sbl", "second-epochs", "0"),
    "sbl": _adaptive("sbl", "second-epochs", "20", control="sbl_first"),
    "grond_holder": _adaptive("grond", "score", "holder", "u", "1.5"),
    "filters": _adaptive("unlearn_aware", "hides", "filters"),
    "grond_u3": _adaptive("grond"),
}


def train(out: Path, attack: str, name: str) -> Path:
    """The victim's checkpoint, trained if it is not there."""
    path, given = out / attack / f"{name}.pt", (*BASE, *ATTACKS[attack], *VICTIMS[name].arguments)
    if not path.is_file() and run_command(["attack", attack, "--out", str(path), *given]):
        raise SystemExit(f"{path} was not trained")
    return path


def defend(path: Path, method: str, seed: int) -> Result:
    """One run with the method's defaults."""
    images, test = (load("digits", split=split, image_size=SIZE) for split in ("train", "test"))
    options = {"seed": seed, "defense": DefenseSetOptions(seed=seed), "augmentation": Augmentation(1, False)}
    return rnp_jax.defend(
        load_model(path), images, test, method=method, evidence="never", sweep_images=0, **options
    ).result


Found = Mapping[tuple[str, str], list[Outcome]]
"""The outcomes, one a seed, by victim and method."""


def make_text(found: Found) -> str:
    """What breaks, and then every figure."""
    broken = [
        f"- `{title(method)}` on `{name}`: ASR {_left(outcomes):.1%} is left, and {_left(control):.1%} on its control "
        f"`{VICTIMS[name].control}`."
        for (name, method), outcomes, control in _paired(found)
        if _left(outcomes) - _left(control) > BREAKS
    ]
    kept = dict.fromkeys(
        f"`{title(method)}` on `{VICTIMS[name].control}`"
        for (name, method), _, control in _paired(found)
        if _left(control) > KEPT
    )
    head = f"A defense breaks where it leaves over {100 * BREAKS:.0f} points more ASR than on the control.\n\n"
    silent = f"- Nothing can break where the control keeps its backdoor: {', '.join(kept)}." if kept else ""
    lines = [*(broken or ["- None does."]), *filter(None, [silent])]
    return head + "\n".join(lines) + f"\n\n{make_table(found)}\n"


def make_table(found: Found) -> str:
    """A line a victim and method: means over seeds and their range, in %."""
    rows = []
    for (name, method), outcomes in found.items():
        control = found.get((VICTIMS[name].control or "", method))
        after = [_show(outcomes, figure, 1) for figure in ("acc", "asr", "ra")]
        before = " / ".join(_show(outcomes, figure, 0) for figure in ("acc", "asr"))
        beside = "–" if control is None else " / ".join(_show(control, each, 1) for each in ("acc", "asr"))
        rows.append((name, before, title(method), str(len(outcomes)), *after, beside))
    head = ("victim", "before: ACC / ASR", "method", "seeds", "after: ACC", "ASR", "RA", "control after: ACC / ASR")
    return markdown_table(head, rows)


def _paired(found: Found) -> Iterable[tuple[tuple[str, str], list[Outcome], list[Outcome]]]:
    """The runs that have a control."""
    for (name, method), outcomes in found.items():
        control = found.get((VICTIMS[name].control or "", method))
        if control is not None:
            yield (name, method), outcomes, control


def _left(outcomes: list[Outcome]) -> float:
    return sum(each.left for each in outcomes) / len(outcomes)


def _show(outcomes: list[Outcome], figure: str, when: int) -> str:
    return show_range([getattr(each, figure)[when] for each in outcomes])


def group(outcomes: Iterable[Outcome], attack: str) -> Found:
    """The outcomes of an attack's victims, victims and methods in the order of the registries."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for name, method in product(VICTIMS, METHODS):
        own = [each for each in outcomes if (each.bed, each.method) == (name_bed(attack, name), method)]
        if own:
            found[name, method] = own
    return found


def name_bed(attack: str, victim: str) -> str:
    """What an outcome calls the checkpoint."""
    return f"{attack}/{victim}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", default="badnets", choices=list(ATTACKS))
    parser.add_argument("--out", type=Path, default=Path("runs/adaptive"))
    parser.add_argument("--victims", nargs="+", default=list(VICTIMS), choices=list(VICTIMS))
    parser.add_argument("--methods", nargs="+", default=["rnp", "holder", "clp", "anp", "nc"], choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--kept", type=Path, default=RESULTS / "adaptive.jsonl")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    found = read_lines(given.kept, Outcome)
    for name, method, seed in product(given.victims, given.methods, given.seeds):
        cell = name_bed(given.attack, name), method, seed
        if cell not in found:
            result = defend(train(given.out, given.attack, name), method, seed)
            found[cell] = summarise(cell[0], result, seed)
            append_line(given.kept, found[cell])
        print(f"{name} {method} {seed}: ASR {found[cell].left:.1%}", flush=True)
    tables = [f"## {attack}\n\n{make_text(group(found.values(), attack))}" for attack in ATTACKS]
    text = f"{describe_machine()}\n\n" + "\n".join(tables)
    print(text) if given.write is None else write_atomic(given.write, text.encode())


if __name__ == "__main__":
    main()

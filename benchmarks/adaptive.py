"""Defenses against attackers who know them, each beside its control: the tables of results/cpu_adaptive.md.

    python -m benchmarks.adaptive [--attack badnets] [--out runs/adaptive] [--victims grond …] [--methods rnp …]
        [--seeds 0] [--write FILE]

Victims are ResNet-18 of width 8 on the built-in digits at 16 x 16 pixels, with BadNets' square or Blend (target 0, a
rate of 0.1) and the training of ``configs/attacks/digits/badnets.yaml``. An adaptive training and its control differ
in one option. What is missing in ``--out`` is trained and defended, and what is there is read: a call goes on where
another one ended. A defense has 500 clean images, 100 of them held out, and its defaults; nothing is chosen by ASR.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import rnp_jax
from benchmarks.compare import describe_machine
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
    """One run with the method's defaults, read if it is there."""
    kept = path.with_name(f"{path.stem}-{method}-{seed}.json")
    if kept.is_file():
        return Result.model_validate_json(kept.read_bytes())
    images, test = (load("digits", split=split, image_size=SIZE) for split in ("train", "test"))
    options = {"seed": seed, "defense": DefenseSetOptions(seed=seed), "augmentation": Augmentation(1, False)}
    result = rnp_jax.defend(
        load_model(path), images, test, method=method, evidence="never", sweep_images=0, **options
    ).result
    write_atomic(kept, result.model_dump_json(indent=1).encode())
    return result


Found = Mapping[tuple[str, str], list[Result]]
"""The results, one a seed, by victim and method."""


def make_text(found: Found) -> str:
    """What breaks, and then every figure."""
    broken = [
        f"- `{title(method)}` on `{name}`: ASR {_mean(results, 'asr'):.1%} is left, and {_mean(control, 'asr'):.1%} on "
        f"its control `{VICTIMS[name].control}`."
        for (name, method), results, control in _paired(found)
        if _mean(results, "asr") - _mean(control, "asr") > BREAKS
    ]
    kept = dict.fromkeys(
        f"`{title(method)}` on `{VICTIMS[name].control}`"
        for (name, method), _, control in _paired(found)
        if _mean(control, "asr") > KEPT
    )
    head = f"A defense breaks where it leaves over {100 * BREAKS:.0f} points more ASR than on the control.\n\n"
    silent = f"- Nothing can break where the control keeps its backdoor: {', '.join(kept)}." if kept else ""
    lines = [*(broken or ["- None does."]), *filter(None, [silent])]
    return head + "\n".join(lines) + f"\n\n{make_table(found)}\n"


def make_table(found: Found) -> str:
    """A line a victim and method: means over seeds, in %."""
    rows = []
    for (name, method), results in found.items():
        control = found.get((VICTIMS[name].control or "", method))
        before, after = (
            [f"{100 * _mean(results, figure, when):.1f}" for figure in ("acc", "asr", "ra")]
            for when in ("before", "after")
        )
        beside = "–" if control is None else " / ".join(f"{100 * _mean(control, each):.1f}" for each in ("acc", "asr"))
        rows.append((name, " / ".join(before[:2]), title(method), str(len(results)), *after, beside))
    head = ("victim", "before: ACC / ASR", "method", "seeds", "after: ACC", "ASR", "RA", "control after: ACC / ASR")
    return markdown_table(head, rows)


def _paired(found: Found) -> Iterable[tuple[tuple[str, str], list[Result], list[Result]]]:
    """The runs that have a control."""
    for (name, method), results in found.items():
        control = found.get((VICTIMS[name].control or "", method))
        if control is not None:
            yield (name, method), results, control


def _mean(results: list[Result], figure: str, when: str = "after") -> float:
    return sum(getattr(getattr(each, when), figure).value for each in results) / len(results)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", default="badnets", choices=list(ATTACKS))
    parser.add_argument("--out", type=Path, default=Path("runs/adaptive"))
    parser.add_argument("--victims", nargs="+", default=list(VICTIMS), choices=list(VICTIMS))
    parser.add_argument("--methods", nargs="+", default=["rnp", "holder", "clp", "anp", "nc"], choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    found: dict[tuple[str, str], list[Result]] = {}
    for name in given.victims:
        path = train(given.out, given.attack, name)
        for method in given.methods:
            found[name, method] = [defend(path, method, seed) for seed in given.seeds]
            print(f"{name} {method}: ASR {_mean(found[name, method], 'asr'):.1%}", flush=True)
    text = f"{describe_machine()}\n\n{make_text(found)}"
    print(text) if given.write is None else write_atomic(given.write, text.encode())


if __name__ == "__main__":
    main()

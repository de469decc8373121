"""Methods that train on a poisoned set, each on the same sets of digits: the table of docs/training_sets.md.

    python -m benchmarks.training_sets [--attacks badnets …] [--methods abl …] [--seeds 0 1 2] [--minutes 60]
        [--out runs/training_sets] [--kept training_sets.jsonl] [--write table.md] [--page docs/training_sets.md]

The set of an attack is that of the bundled checkpoint, made again from its card, and the checkpoint is the plainly
trained network. The sets of WaNet, whose checkpoint was poisoned batch by batch, and of label-consistent, which are
crafted with a robust network, are made once and kept in ``--out``, and so is a plain network trained on each. A seed
draws everything random of a method, and the 400 clean images of those that need some; the set is the same for all
seeds. Settings are those of ``configs/METHOD_digits.yaml``, with the augmentation that the plain network had. Each run
is one line of ``--kept``, and a later call goes on with what is missing. Nothing is chosen by ASR.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import jax
import numpy as np
from pydantic import Field

from benchmarks.compare import describe_machine
from benchmarks.marked_pages import fill
from benchmarks.outcomes import RESULTS, Line, append_line, read_lines, read_share, show_range
from rnp_jax.atomic import write_atomic
from rnp_jax.attacks import Goal, describe
from rnp_jax.attacks.means import Means
from rnp_jax.card import Card
from rnp_jax.checkpoints import Model, load_model, save_variables
from rnp_jax.compilation import enable_cache
from rnp_jax.data import Augmentation, Dataset, load, sample_defense_set
from rnp_jax.defenses.registry import title
from rnp_jax.pipeline.case import make_case
from rnp_jax.pipeline.defending import defend_case, judge_outcome
from rnp_jax.pipeline.options import RunOptions, read_options
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.suspect import as_suspect
from rnp_jax.pipeline.training_set import remake
from rnp_jax.pipeline.trigger import make_attack
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.training.backdoor import PoisonConfig, TrainingSet, poison_once
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Apply, Batch, Variables

ATTACKS = ("badnets", "blend", "wanet", "sig", "cl", "a_blend")
MADE_ANEW = ("wanet", "cl")
"""Attacks whose set cannot be made again from the card of the bundled checkpoint."""
METHODS = ("none", "abl", "cbd", "dbr", "ep", "hid", "dst", "dbd", "rnp", "auto")
CHECKPOINTS, CONFIGS = Path("checkpoints"), Path("configs")
HEAD = ("attack", "method", "seeds", "ACC", "ASR", "RA", "precision", "recall", "poison kept", "AUROC", "CPU s")
FOUND = {
    "precision": "(precision)",
    "recall": "(recall)",
    "poison kept": "share of the poisoned images kept",
    "AUROC": "AUROC",
}
"""What the table calls a figure of ``Result.covariates``, and what its name there has."""
LOOKED_AT = ("precision", "recall", "AUROC")


@dataclass(frozen=True, eq=False)
class Bed:
    """A poisoned set and the network that ordinary training makes of it.

    Attributes:
      model: the network, with the card that names its trigger.
      data: the set.
      poisoned: which of its images are poisoned [N]; for evaluation only.
    """

    model: Model
    data: Batch
    poisoned: np.ndarray


@cache
def read_digits() -> tuple[Dataset, Dataset]:
    """The clean training part and the test part."""
    return load("digits", split="train"), load("digits", split="test")


def open_bed(attack: str, folder: Path) -> Bed:
    """The bundled checkpoint and its set, or what ``folder`` keeps of those made here, which are made first."""
    model, (clean, _) = load_model(CHECKPOINTS / f"digits_{attack}.pt"), read_digits()
    if attack not in MADE_ANEW:
        made = remake(model.card, model.checkpoint.path, clean)
        return Bed(model, made.data, made.poisoned)
    kept, plain = folder / f"{attack}.npz", folder / f"{attack}.pt"
    if not plain.is_file():
        made, variables = make_anew(model, clean.batch)
        np.savez_compressed(kept, **made.data._asdict(), poisoned=made.poisoned)
        save_variables(plain, model.network, variables)
    arrays = np.load(kept)
    variables = load_model(plain, normalization="digits").variables
    return Bed(replace(model, variables=variables), Batch(arrays["images"], arrays["labels"]), arrays["poisoned"])


def make_anew(model: Model, clean: Batch) -> tuple[TrainingSet, Variables]:
    """The set that the card's attack makes of clean images once, before training, and a plain network of it."""
    card, network = _need(model.card), model.network
    assert card.attack is not None
    attack = make_attack(card.attack.name, card.attack.constants)
    goal = Goal(num_classes=network.architecture.num_classes, target=card.attack.target or 0)
    names = TrainConfig.__dataclass_fields__
    config = TrainConfig(**{name: value for name, value in card.training.items() if name in names})
    init_key, train_key, robust_key = jax.random.split(jax.random.key(card.seed), 3)

    def fit(apply: Apply, data: Batch, key: jax.Array) -> Variables:
        return train(apply, network.init(init_key), data, key, config, augment=Augmentation(**card.augmentation))[0]

    means = Means(network, clean, goal, robust_key, partial(fit, data=clean, key=robust_key), lambda *_: None)
    made = poison_once(attack, goal, clean, card.seed, PoisonConfig(card.attack.rate or 0.1), means)
    return made, fit(network, made.data, train_key)


def _need(card: Card | None) -> Card:
    if card is None:
        sys.exit("a bundled checkpoint has no card")
    return card


class Kept(Line):
    """A run.

    Attributes:
      attack: of the set.
      method: that trained on it, or defended the plainly trained network.
      seed: of everything random of the method.
      acc, asr, ra: after, shares.
      truth: what the method isolated or kept, held against the poison.
      seconds: CPU seconds of all that it took, compilation, reading and measuring included.
      date: of the run.
    """

    attack: str
    method: str
    seed: int
    acc: float
    asr: float | None
    ra: float | None
    truth: dict[str, float] = Field(default_factory=dict)
    seconds: float
    date: str = ""

    @property
    def cell(self) -> tuple[str, str, int]:
        """Attack, method and seed."""
        return self.attack, self.method, self.seed


def run(bed: Bed, attack: str, method: str, seed: int) -> Kept:
    """One run with the preset of the method."""
    started = time.process_time()
    preset = CONFIGS / f"{method}_digits.yaml"
    options = read_options(RunOptions, preset) if preset.is_file() else RunOptions(method=method)
    (record,), (clean, test) = options.methods, read_digits()
    options = replace(
        options,
        seed=seed,
        defense=replace(options.defense, seed=seed),
        augmentation=Augmentation(**_need(bed.model.card).augmentation),
        evidence="never",
        sweep_images=0,
    )
    request = Request(str(bed.model.checkpoint.path), record, options.settings(record), options)
    untrusted, log = record.needs == "untrusted", RunLog(quiet=True)
    if untrusted:
        images = replace(clean, images=bed.data.images, labels=bed.data.labels, source_images=None)
    else:
        _, drawn = sample_defense_set(clean, options.defense.size, seed=seed)
        images = clean.subset(drawn)
    case = make_case(as_suspect(bed.model), request, images, test)
    case = replace(case, poisoned=bed.poisoned) if untrusted else case
    result = judge_outcome(case, defend_case(case, request, log), request, log)
    return Kept(
        attack=attack,
        method=method,
        seed=seed,
        **{name: read_share(result.after, name) for name in ("acc", "asr", "ra")},
        truth={name: value for name, value in result.covariates.items() if value is not None},
        seconds=time.process_time() - started,
        date=f"{result.created:%Y-%m-%d}",
    )


def group(kept: Iterable[Kept]) -> dict[tuple[str, str], list[Kept]]:
    """Runs by attack and method, in the order of the tables and of their seeds."""
    rows = sorted(kept, key=lambda row: row.seed)
    cells = {cell: [row for row in rows if (row.attack, row.method) == cell] for cell in product(ATTACKS, METHODS)}
    return {cell: runs for cell, runs in cells.items() if runs}


def make_table(found: Mapping[tuple[str, str], Sequence[Kept]]) -> str:
    """A line for each attack and method: means over seeds and their range; shares in %."""
    lines = []
    for (attack, method), runs in found.items():
        shares = [show_range([getattr(run, figure) for run in runs]) for figure in ("acc", "asr", "ra")]
        told = [_spread([_find(run, words) for run in runs], name != "AUROC") for name, words in FOUND.items()]
        name = "plain training" if method == "none" else title(method)
        duration = "–" if method == "none" else f"{np.mean([kept.seconds for kept in runs]):.0f}"
        lines.append((describe_attack(attack), name, str(len(runs)), *shares, *told, duration))
    return markdown_table(HEAD, lines)


def make_overview(found: Mapping[tuple[str, str], Sequence[Kept]]) -> str:
    """Two tables of the page, methods by attacks: ACC / ASR / RA, and what was isolated; means over seeds."""
    attacks = [attack for attack in ATTACKS if any(cell[0] == attack for cell in found)]
    methods = [method for method in METHODS if any(cell[1] == method for cell in found)]
    tables = []
    for show in (_show_shares, _show_isolated):
        rows = [
            ("plain training" if method == "none" else title(method), *(show(found.get((a, method))) for a in attacks))
            for method in methods
        ]
        shown = [row for row in rows if set(row[1:]) != {"–"}]
        tables.append(markdown_table(("method", *map(describe_attack, attacks)), shown))
    return "\n\n".join(tables)


def _show_shares(runs: Sequence[Kept] | None) -> str:
    """ACC / ASR / RA in %, and the number of seeds."""
    if not runs:
        return "–"
    means = [show_range([getattr(run, name) for run in runs]).split(" ")[0] for name in ("acc", "asr", "ra")]
    return " / ".join(means) + f" ({len(runs)})"


def _show_isolated(runs: Sequence[Kept] | None) -> str:
    """Precision / recall in %, and AUROC."""
    if not runs:
        return "–"
    cells = [_spread([_find(run, FOUND[name]) for run in runs], name != "AUROC") for name in LOOKED_AT]
    means = [cell.split(" ")[0] for cell in cells]
    return "–" if set(means) == {"–"} else " / ".join(means)


def describe_attack(attack: str) -> str:
    return str(describe(make_attack(attack, {}))["name"])


def _find(kept: Kept, words: str) -> float | None:
    """The last figure whose name has these words: that of the last round."""
    return next((value for name, value in reversed(kept.truth.items()) if words in name), None)


def _spread(values: Sequence[float | None], percent: bool) -> str:
    numbers = [value * (100 if percent else 1) for value in values if value is not None]
    if not numbers:
        return "–"
    digits = 0 if percent else 2
    texts = [f"{value:.{digits}f}" for value in (np.mean(numbers), min(numbers), max(numbers))]
    return texts[0] if texts[1] == texts[2] else "{} ({}–{})".format(*texts)


def _tell(kept: Kept) -> str:
    """ACC, ASR and RA in %, and CPU seconds."""
    return " ".join(show_range([share]) for share in (kept.acc, kept.asr, kept.ra)) + f"  {kept.seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=ATTACKS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many")
    parser.add_argument("--out", type=Path, default=Path("runs/training_sets"), help="for sets that are made here")
    parser.add_argument("--kept", type=Path, default=RESULTS / "training_sets.jsonl")
    parser.add_argument("--write", type=Path, help="write the table of all runs that are kept")
    parser.add_argument("--page", type=Path, help="put an overview between the marks of this page")
    given = parser.parse_args()
    enable_cache()
    given.out.mkdir(parents=True, exist_ok=True)
    until, open_once = time.monotonic() + 60 * given.minutes, cache(partial(open_bed, folder=given.out))
    kept = read_lines(given.kept, Kept)
    for seed, method, attack in product(given.seeds, given.methods, given.attacks):
        if (attack, method, seed) not in kept and time.monotonic() < until:
            done = run(open_once(attack), attack, method, seed)
            append_line(given.kept, done)
            kept[done.cell] = done
            print(f"{attack} {method} {seed}: {_tell(done)}", flush=True)
    found = group(kept.values())
    text = f"# Methods for training sets that nobody trusts\n\n{describe_machine()}\n\n{make_table(found)}\n"
    print(text) if given.write is None else write_atomic(given.write, text.encode())
    if given.page is not None:
        fill(given.page, "training sets", make_overview(found))


if __name__ == "__main__":
    main()

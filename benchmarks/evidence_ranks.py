"""How well evidence without the trigger ranks defended networks: the table of docs/removal.md's evidence.

    python -m benchmarks.evidence_ranks --folder DIR … [--data-dir DIR] [--beds chosen] [--methods none clp fp ft fst]
        [--seeds 0] [--steps 150] [--search-images 64] [--scan-images 32] [--out runs/evidence_ranks]
        [--write table.md]

Beds and images are those of ``benchmarks.test_beds``. The searches of a suspicious network are made once a bed and
seed, those of a defended one for every outcome. What was found is held against the true ASR and against 1 - RA, which
the searches never see. Methods that train on triggers that they recover themselves are measured and counted, but not
ranked. ``--steps`` and the numbers of images shorten the searches; the limits of the rules stay as they are.

Each defended network is kept in ``--out`` with its true figures, and so is what was found in it. A later call goes on
with what is missing; without the ``.found.json`` files, all networks are searched again and none is defended again.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax

from benchmarks.compare import describe_machine
from benchmarks.evidence_table import Outcome, Row, describe, list_errors, make_table
from benchmarks.test_beds import BEDS, Bed, find, open_bed
from rnp_jax.atomic import write_atomic
from rnp_jax.checkpoints import load_model, save_model
from rnp_jax.data import Dataset, load, parse_normalization
from rnp_jax.defenses import METHODS
from rnp_jax.detection import Earlier, EvidenceConfig, search_after, search_before
from rnp_jax.errors import DataError
from rnp_jax.inversion import WARM
from rnp_jax.pipeline.case import Case, make_case
from rnp_jax.pipeline.defending import defend_case
from rnp_jax.pipeline.evidence import describe_evidence
from rnp_jax.pipeline.options import RunOptions
from rnp_jax.pipeline.python import as_suspect
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.training_set import name_attack
from rnp_jax.types import Variables

CHEAP = ("none", "clp", "fp", "ft", "fst", "rnp", "holder")
_SEED = 0x72616E6B  # folded into the run's


@dataclass(frozen=True)
class Run:
    """A bed and a seed, and where the outcomes are kept.

    Attributes:
      name: of the bed.
      path: the checkpoint.
      seed: of the clean images and of everything random.
      data: training and test part.
      out: the folder.
    """

    name: str
    path: Path
    seed: int
    data: tuple[Dataset, Dataset]
    out: Path

    @property
    def bed(self) -> Bed:
        return BEDS[self.name]

    @property
    def keys(self) -> jax.Array:
        """Of the searches before and after."""
        return jax.random.split(jax.random.fold_in(jax.random.key(self.seed), _SEED))

    def file(self, method: str, suffix: str) -> Path:
        return self.out / f"{self.name}-{method}-{self.seed}{suffix}"


def shorten(config: EvidenceConfig, steps: int, images: int, scanned: int) -> EvidenceConfig:
    """The settings with so many steps from a random start and images a step, and images that squares are tried on."""
    own = {"steps": max(5, round(WARM.steps / config.cold.steps * steps)), "batch_size": images}
    return replace(
        config,
        cold=replace(config.cold, steps=steps, batch_size=images),
        warm=replace(config.warm, **own),
        perturbation=replace(config.perturbation, **own),
        patches=replace(config.patches, images=scanned),
        warp=replace(config.warp, **own),
    )


def open_run(run: Run, method: str) -> tuple[Case, Request]:
    """The checkpoint, the images of the seed and the true trigger, as ``benchmarks.test_beds`` has them."""
    opened = open_bed(run.bed, run.path, run.seed, run.data)
    request = Request.of(str(run.path), METHODS[method], RunOptions(method=method, **opened.options))
    return make_case(as_suspect(opened.model), request, opened.images, opened.test), request


def defend(run: Run, method: str) -> tuple[Outcome, Variables]:
    """The outcome and its network: those kept, or what the method makes of the bed."""
    kept, network = run.file(method, ".json"), run.file(method, run.path.suffix)
    if kept.is_file() and network.is_file():
        return Outcome.model_validate_json(kept.read_bytes()), load_model(
            network, normalization=parse_normalization("identity")
        ).variables
    case, request = open_run(run, method)
    done = defend_case(case, request, RunLog(quiet=True))
    metrics = done.before.metrics, done.after.metrics
    figures: dict[str, Any] = {
        figure: tuple(None if (share := getattr(each, figure)) is None else share.value for each in metrics)
        for figure in ("acc", "asr", "ra")
    }
    outcome = Outcome(
        bed=run.name,
        attack=name_attack(case.model, case.trigger),
        method=method,
        seed=run.seed,
        ranked=not request.method.inverts or done.defended.unchanged,
        **figures,
    )
    save_model(network, case.model, done.model.variables, overwrite=True)
    write_atomic(kept, outcome.model_dump_json(indent=1).encode())
    return outcome, done.model.variables


def measure_run(run: Run, methods: Iterable[str], config: EvidenceConfig) -> list[Row]:
    """Every method's row: those kept, and those that are missing."""
    rows: list[Row] = []

    @cache
    def look() -> tuple[Case, Earlier]:
        case, _ = open_run(run, "none")
        found = search_before(case.network, case.model.variables, case.data, run.keys[0], config, holdout=case.holdout)
        return case, found

    for method in methods:
        kept = run.file(method, ".found.json")
        if kept.is_file():
            rows.append(Row.model_validate_json(kept.read_bytes()))
        else:
            rows.append(search_outcome(*defend(run, method), look, run.keys[1], config))
            write_atomic(kept, rows[-1].model_dump_json(indent=1).encode())
        print(f"{describe(rows[-1])}: {rows[-1].evidence.level}, {rows[-1].seconds:.0f} s", flush=True)
    return rows


def search_outcome(
    outcome: Outcome,
    variables: Variables,
    look: Callable[[], tuple[Case, Earlier]],
    key: jax.Array,
    config: EvidenceConfig,
) -> Row:
    """Searches a defended network.

    Raises:
      DataError: nothing was found to describe.
    """
    case, earlier = look()
    started = time.perf_counter()
    finding = search_after(case.network, variables, earlier, case.data, key, config, holdout=case.holdout)
    evidence = describe_evidence(finding, case.test.class_names)
    if evidence is None:
        raise DataError(f"{outcome.bed}: no evidence was gathered")
    return Row(**outcome.model_dump(), seconds=time.perf_counter() - started, evidence=evidence)


@cache
def _load(data: str, data_dir: str | None) -> tuple[Dataset, Dataset]:
    """The training and the test part, read once for all runs."""
    folder = None if data == "digits" else data_dir
    return load(data, split="train", data_dir=folder), load(data, split="test", data_dir=folder)


def main(arguments: list[str] | None = None) -> None:
    default = EvidenceConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", nargs="+", type=Path, default=[Path("checkpoints")])
    parser.add_argument("--data-dir")
    parser.add_argument("--beds", nargs="+", default=["chosen"], help="names, or chosen or judged")
    parser.add_argument("--methods", nargs="+", default=CHEAP, choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=default.cold.steps, help="of a search from a random start")
    parser.add_argument("--search-images", type=int, default=default.cold.batch_size, help="a step")
    parser.add_argument("--scan-images", type=int, default=default.patches.images, help="every square is tried on")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence_ranks"))
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    config = shorten(default, given.steps, given.search_images, given.scan_images)
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in dict.fromkeys(name for each in given.beds for name, bed in BEDS.items() if each in (name, bed.half)):
        path = find(given.folder, BEDS[name].file)
        if path is None:
            print(f"{name}: {BEDS[name].file} is in none of the folders; left out", file=sys.stderr)
            continue
        for seed in given.seeds:
            run = Run(name, path, seed, _load(BEDS[name].data, given.data_dir), given.out)
            rows += measure_run(run, given.methods, config)
    searched = f"{given.steps} steps of {given.search_images} images, squares on {given.scan_images}"
    text = f"{describe_machine()}; {searched}\n\n{make_table(rows)}\n\n{list_errors(rows)}\n"
    print(text) if given.write is None else write_atomic(given.write, text.encode())


if __name__ == "__main__":
    main()

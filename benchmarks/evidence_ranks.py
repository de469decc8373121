"""How well evidence without the trigger ranks defended networks: the table of docs/removal.md's evidence.

    python -m benchmarks.evidence_ranks --folder DIR … [--data-dir DIR] [--beds chosen] [--methods none clp fp ft fst]
        [--seeds 0] [--steps 150] [--search-images 64] [--scan-images 32] [--out runs/evidence_ranks]
        [--kept evidence.jsonl] [--write table.md]

Beds and images are those of ``benchmarks.test_beds``. The searches of a suspicious network are made once a bed and
seed, those of a defended one for every outcome. What was found is held against the true ASR and against 1 - RA, which
the searches never see. Methods that train on triggers that they recover themselves are measured and counted, but not
ranked. ``--steps`` and the numbers of images shorten the searches; the limits of the rules stay as they are.

What was found in a defended network is one line of ``--kept``, with its true figures, and the network is kept in
``--out``. A later call goes on with what is missing; with another ``--kept``, all networks are searched again and none
is defended again. The tables are of all lines of ``--kept``.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import jax

from benchmarks.compare import describe_machine
from benchmarks.evidence_table import Row, count_by_ra, describe, list_errors, make_table, took
from benchmarks.outcomes import RESULTS, Outcome, append_line, read_lines, summarise
from benchmarks.test_beds import BEDS, Bed, defend_bed, find, load_parts, open_bed
from rnp_jax.atomic import write_atomic
from rnp_jax.checkpoints import load_model, save_model
from rnp_jax.data import Dataset, parse_normalization
from rnp_jax.defenses import METHODS
from rnp_jax.detection import Earlier, EvidenceConfig, search_after, search_before
from rnp_jax.errors import DataError
from rnp_jax.inversion import WARM
from rnp_jax.pipeline.case import Case, make_case
from rnp_jax.pipeline.evidence import describe_evidence
from rnp_jax.pipeline.options import RunOptions
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.suspect import as_suspect
from rnp_jax.types import Variables

CHEAP = ("none", "clp", "fp", "ft", "fst", "rnp", "holder")
_SEED = 0x72616E6B  # folded into the run's


@dataclass(frozen=True)
class Run:
    """A bed and a seed, and where the defended networks are kept.

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

    def open(self) -> Case:
        """The checkpoint, the images of the seed and the true trigger, as ``benchmarks.test_beds`` has them."""
        opened = open_bed(self.bed, self.path, self.seed, self.data)
        request = Request.of(str(self.path), METHODS["none"], RunOptions(method="none", **opened.options))
        return make_case(as_suspect(opened.model), request, opened.images, opened.test)


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


def defend(run: Run, method: str) -> tuple[Outcome, Variables]:
    """The outcome and its network: those kept, or what the method makes of the bed."""
    kept = run.out / f"{run.name}-{method}-{run.seed}.json"
    network = kept.with_suffix(run.path.suffix)
    if kept.is_file() and network.is_file():
        model = load_model(network, normalization=parse_normalization("identity"))
        return Outcome.model_validate_json(kept.read_bytes()), model.variables
    done = defend_bed(run.bed, run.path, method, run.seed, run.data)
    outcome = summarise(run.name, done.result, run.seed)
    save_model(network, done.model, done.model.variables, overwrite=True)
    write_atomic(kept, outcome.model_dump_json(indent=1).encode())
    return outcome, done.model.variables


def measure_run(run: Run, methods: Iterable[str], config: EvidenceConfig, kept: Path) -> None:
    """Adds every method's row that is missing."""
    found = read_lines(kept, Row)

    @cache
    def look() -> tuple[Case, Earlier]:
        case = run.open()
        return case, search_before(
            case.network, case.model.variables, case.data, run.keys[0], config, holdout=case.holdout
        )

    for method in methods:
        cell = run.name, method, run.seed
        if cell not in found:
            found[cell] = search_outcome(*defend(run, method), look, run.keys[1], config)
            append_line(kept, found[cell])
        print(f"{describe(found[cell])}: {found[cell].evidence.level}", flush=True)


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
    started = time.process_time()
    finding = search_after(case.network, variables, earlier, case.data, key, config, holdout=case.holdout)
    evidence = describe_evidence(finding, case.test.class_names)
    if evidence is None:
        raise DataError(f"{outcome.bed}: no evidence was gathered")
    return Row(**outcome.model_dump(), seconds=time.process_time() - started, evidence=evidence)


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
    parser.add_argument("--kept", type=Path, default=RESULTS / "evidence.jsonl")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    config = shorten(default, given.steps, given.search_images, given.scan_images)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(name for each in given.beds for name, bed in BEDS.items() if each in (name, bed.half)):
        path = find(given.folder, BEDS[name].file)
        if path is None:
            print(f"{name}: {BEDS[name].file} is in none of the folders; left out", file=sys.stderr)
            continue
        for seed in given.seeds:
            run = Run(name, path, seed, load_parts(BEDS[name].data, given.data_dir), given.out)
            measure_run(run, given.methods, config, given.kept)
    kept = list(read_lines(given.kept, Row).values())
    rows, weak = [row for row in kept if took(row)], {row.bed: row for row in kept if not took(row)}
    searched = f"{given.steps} steps of {given.search_images} images, squares on {given.scan_images}"
    seen = make_table([row for row in rows if row.evidence.visible])
    left_out = "".join(f"\n- {name}: its trigger worked on {row.asr[0] or 0:.0%} before" for name, row in weak.items())
    tables = (
        f"{make_table(rows)}\n\nWhere a label stood out before the defense:\n\n{seen}\n\n{count_by_ra(rows)}\n\n"
        f"{list_errors(rows)}\n\nLeft out:\n{left_out or 'none'}"
    )
    text = f"{describe_machine()}; {searched}\n\n{tables}\n"
    print(text) if given.write is None else write_atomic(given.write, text.encode())


if __name__ == "__main__":
    main()

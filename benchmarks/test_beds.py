"""Methods on checkpoints that others published or that are independent of this project: the table of docs/removal.md.

    python -m benchmarks.test_beds --folder DIR … [--data-dir DIR] [--beds judged] [--methods auto] [--seeds 0 1 2]
        [--kept outcomes.jsonl evidence.jsonl] [--write table.md]

``--folder`` names folders that hold the files; a file that is in none of them is left out, and said. Beds are in two
halves: ``chosen`` served to choose settings and ``judged`` did not. A seed draws the clean images and everything
random. 500 clean images, 100 of them held out; ACC, ASR and RA on the first 2,000 test images; the trigger is known to
the measurement alone. Each run is one line of the first file of ``--kept``, and a later call goes on with what is in
none of the files. Nothing is chosen by ASR.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import rnp_jax
from benchmarks.compare import describe_machine
from benchmarks.outcomes import RESULTS, Outcome, append_line, make_matrix, make_table, read_lines, summarise
from rnp_jax.atomic import write_atomic
from rnp_jax.checkpoints import Model, load_model
from rnp_jax.config import DefenseSetOptions, TriggerOptions
from rnp_jax.data import Augmentation, Dataset, load, parse_normalization, sample_defense_set
from rnp_jax.defenses import METHODS
from rnp_jax.pipeline.python import Cleaned

TEST_IMAGES = 2000
KEPT = (RESULTS / "outcomes.jsonl", RESULTS / "evidence.jsonl")
"""Where runs are kept; those of ``benchmarks.evidence_ranks`` are of the same beds."""


class Bed(NamedTuple):
    """A checkpoint, and how it is measured.

    Attributes:
      file: its name in one of the folders.
      half: ``chosen`` or ``judged``.
      normalization: of its images; None where a card says it.
      target: of its attack, where no card says it.
      attack: the same.
      constants: of the attack, name and value in turn.
      artefact: the trigger's picture, beside the file.
    """

    file: str
    half: str
    normalization: str | None = None
    target: int | None = None
    attack: str | None = None
    constants: tuple[str, ...] = ()
    artefact: str | None = None

    @property
    def data(self) -> str:
        return "digits" if self.file.startswith("digits") else "cifar10"


def _zoo(*names: str, half: str) -> dict[str, Bed]:
    return {name: Bed(f"{name}.pt", half) for name in names}


BEDS: Mapping[str, Bed] = {
    "ibau_badnets": Bed(
        "ibau_badnets_8_02.pth", "chosen", "identity", 8, "badnets", ("variant", "square", "size", "4")
    ),
    "ibau_l0": Bed("ibau_l0_inv_0_02.pth", "chosen", "identity", 0, "stamp", ("variant", "paste"), "ibau_l0_inv.png"),
    "nad_student": Bed("nad_wrn16_1_s_net.tar", "chosen", "identity", 5, "badnets"),
    "torch_badnets_w16": Bed("badnets_resnet18w16.tar", "chosen", "cifar10_rnp", 0, "badnets"),
    "ibau_trojan_wm": Bed("ibau_trojan_wm_2_02.pth", "chosen", "identity", 2, "stamp", artefact="ibau_trojan_wm.png"),
    "abl_grid": Bed("abl_wrn16_1_grid_target0.tar", "judged", "identity", 0, "badnets"),
    "akamaster_clean": Bed("akamaster_resnet20.th", "judged", "imagenet"),
    "torch_badnets_w32": Bed("badnets_resnet18w32.tar", "judged", "cifar10_rnp", 0, "badnets"),
    **_zoo("cifar10_blend", "cifar10_sig", "cifar10_wanet", "cifar10_bpp", "cifar10_clean", half="chosen"),
    **_zoo("cifar10_badnets", "cifar10_ctrl", "cifar10_badnets_a2a", half="judged"),
    **_zoo("digits_badnets", "digits_blend", "digits_sig", "digits_wanet", "digits_clean", half="chosen"),
    **_zoo(
        *("digits_badnets_seed3", "digits_badnets_square", "digits_bpp", "digits_cl", "digits_dfst", "digits_lf"),
        *("digits_input_aware", "digits_narcissus", "digits_ssba", "digits_trojan", "digits_a_blend", "digits_ctrl"),
        *("digits_lira", "digits_fc", "digits_sig_rnp", "digits_adap_patch"),
        half="judged",
    ),
}


class Opened(NamedTuple):
    """A bed's network, the clean images of a seed, the test images, and the settings of a run."""

    model: Model
    images: Dataset
    test: Dataset
    options: dict[str, Any]


def open_bed(bed: Bed, path: Path, seed: int, data: tuple[Dataset, Dataset]) -> Opened:
    """What runs on a bed have in common, whatever the method."""
    normalization = None if bed.normalization is None else parse_normalization(bed.normalization)
    trigger = TriggerOptions(
        attack=bed.attack or "card",
        target=bed.target or 0,
        constants=dict(zip(bed.constants[::2], bed.constants[1::2], strict=True)),
        artefact=None if bed.artefact is None else str(path.parent / bed.artefact),
    )
    images, test = data
    _, drawn = sample_defense_set(images, min(500, len(images)), seed=seed)
    options = {
        "seed": seed,
        "defense": DefenseSetOptions(seed=seed),
        "trigger": trigger,
        "augmentation": Augmentation(1, False) if bed.data == "digits" else Augmentation(4, True),
    }
    shown = test.subset(np.arange(min(TEST_IMAGES, len(test))))
    return Opened(load_model(path, normalization=normalization), images.subset(drawn), shown, options)


def defend_bed(bed: Bed, path: Path, method: str, seed: int, data: tuple[Dataset, Dataset]) -> Cleaned:
    """One run with the method's defaults, without evidence."""
    opened = open_bed(bed, path, seed, data)
    return rnp_jax.defend(
        opened.model, opened.images, opened.test, method=method, evidence="never", sweep_images=0, **opened.options
    )


@cache
def load_parts(data: str, data_dir: str | None) -> tuple[Dataset, Dataset]:
    """The training and the test part, read once for all runs."""
    folder = None if data == "digits" else data_dir
    return load(data, split="train", data_dir=folder), load(data, split="test", data_dir=folder)


def find(folders: Iterable[Path], file: str) -> Path | None:
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", nargs="+", type=Path, default=[Path("checkpoints")])
    parser.add_argument("--data-dir")
    parser.add_argument("--beds", nargs="+", default=["judged"], help="names, or chosen or judged")
    parser.add_argument("--methods", nargs="+", default=["auto"], choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--kept", nargs="+", type=Path, default=KEPT)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    beds = {name: bed for name, bed in BEDS.items() if name in given.beds or bed.half in given.beds}
    found, asked = {cell: each for file in given.kept for cell, each in read_lines(file, Outcome).items()}, []
    for name, bed in beds.items():
        path = find(given.folder, bed.file)
        for method, seed in product(given.methods, given.seeds):
            cell = name, method, seed
            if cell not in found and path is not None:
                result = defend_bed(bed, path, method, seed, load_parts(bed.data, given.data_dir)).result
                found[cell] = summarise(name, result, seed)
                append_line(given.kept[0], found[cell])
            if cell in found:
                asked.append(found[cell])
                print(describe(asked[-1]), flush=True)
        if path is None:
            print(f"{name}: {bed.file} is in none of the folders; what is not kept is left out", file=sys.stderr)
    text = f"{describe_machine()}\n\nASR / RA after:\n\n{make_matrix(asked)}\n\n{make_table(asked)}\n"
    print(text) if given.write is None else write_atomic(given.write, text.encode())


def describe(outcome: Outcome) -> str:
    """One line: the cell; ACC and ASR before, ACC, ASR and RA after; and what was done."""
    figures = (outcome.acc[0], outcome.asr[0], outcome.acc[1], outcome.asr[1], outcome.ra[1])
    shown = " ".join("–" if each is None else f"{100 * each:.1f}" for each in figures)
    return f"{outcome.bed} {outcome.method} {outcome.seed}: {shown}  {outcome.chosen}"


if __name__ == "__main__":
    main()

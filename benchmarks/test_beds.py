"""Methods on checkpoints that others published or that are independent of this project: the table of docs/removal.md.

    python -m benchmarks.test_beds --folder DIR … [--data-dir DIR] [--beds judged] [--methods auto] [--seeds 0 1 2]
        [--out runs/test_beds] [--write table.md]

``--folder`` names folders that hold the files; a file that is in none of them is left out, and said. Beds are in two
halves: ``chosen`` served to choose settings and ``judged`` did not. A seed draws the clean images and everything
random. 500 clean images, 100 of them held out; ACC, ASR and RA on the first 2,000 test images; the trigger is known to
the measurement alone. Each run is kept in ``--out``, and a later call goes on with what is missing. Nothing is chosen
by ASR.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import rnp_jax
from benchmarks.compare import describe_machine
from rnp_jax.atomic import write_atomic
from rnp_jax.checkpoints import Model, load_model
from rnp_jax.config import DefenseSetOptions, TriggerOptions
from rnp_jax.data import Augmentation, Dataset, load, parse_normalization, sample_defense_set
from rnp_jax.defenses import METHODS
from rnp_jax.defenses.registry import title
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.report.schema import Result

TEST_IMAGES = 2000
HEAD = ("checkpoint", "seeds", "before: ACC / ASR / RA", "method", "after: ACC", "ASR", "RA", "worst class", "s")


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


def run(bed: Bed, path: Path, method: str, seed: int, data: tuple[Dataset, Dataset], evidence: str) -> Result:
    """One run with the method's defaults."""
    opened = open_bed(bed, path, seed, data)
    return rnp_jax.defend(
        opened.model,
        opened.images,
        opened.test,
        method=method,
        evidence=evidence,
        sweep_images=0,
        **opened.options,
    ).result


@cache
def _load(data: str, data_dir: str | None) -> tuple[Dataset, Dataset]:
    """The training and the test part, read once for all runs."""
    folder = None if data == "digits" else data_dir
    return load(data, split="train", data_dir=folder), load(data, split="test", data_dir=folder)


def make_table(found: Mapping[tuple[str, str], list[Result]]) -> str:
    """A line a checkpoint and method: means over seeds and their range, in %."""
    lines = []
    for (name, method), results in found.items():
        before, after = [each.before for each in results], [each.after for each in results]
        lost = [max((_points(c.before, c.after) for c in each.classes), default=0) for each in results]
        seconds = [sum(stage.seconds for stage in each.timing if stage.stage != "measure") for each in results]
        first = " / ".join(_range([getattr(each, figure) for each in before]) for figure in ("acc", "asr", "ra"))
        own = [_range([getattr(each, figure) for each in after]) for figure in ("acc", "asr", "ra")]
        worst = f"-{np.mean(lost):.1f} ({max(lost):.1f})"
        lines.append((name, len(results), first, title(method), *own, worst, f"{np.mean(seconds):.0f}"))
    return markdown_table(HEAD, [tuple(map(str, line)) for line in lines])


def _points(before, after) -> float:
    return 0.0 if before is None or after is None else 100 * (before.value - after.value)


def _range(shares: list) -> str:
    values = [100 * share.value for share in shares if share is not None]
    if not values:
        return "–"
    mean = f"{np.mean(values):.1f}"
    return (
        mean
        if len(values) == 1 or max(values) - min(values) < 0.05
        else f"{mean} ({min(values):.1f}–{max(values):.1f})"
    )


def find(folders: Iterable[Path], file: str) -> Path | None:
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", nargs="+", type=Path, default=[Path("checkpoints")])
    parser.add_argument("--data-dir")
    parser.add_argument("--beds", nargs="+", default=["judged"], help="names, or chosen or judged")
    parser.add_argument("--methods", nargs="+", default=["auto"], choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--evidence", choices=("never", "always"), default="never")
    parser.add_argument("--out", type=Path, default=Path("runs/test_beds"))
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    beds = {name: bed for name, bed in BEDS.items() if name in given.beds or bed.half in given.beds}
    found: dict[tuple[str, str], list[Result]] = {}
    given.out.mkdir(parents=True, exist_ok=True)
    for name, bed in beds.items():
        path = find(given.folder, bed.file)
        if path is None:
            print(f"{name}: {bed.file} is in none of the folders; left out", file=sys.stderr)
            continue
        for method in given.methods:
            for seed in given.seeds:
                kept = given.out / f"{name}-{method}-{seed}.json"
                if kept.is_file():
                    result = Result.model_validate_json(kept.read_bytes())
                else:
                    result = run(bed, path, method, seed, _load(bed.data, given.data_dir), given.evidence)
                    write_atomic(kept, result.model_dump_json(indent=1).encode())
                found.setdefault((name, method), []).append(result)
                print(f"{name} {method} {seed}: {_line(result)}", flush=True)
    text = f"{describe_machine()}\n\n{make_table(found)}\n"
    print(text) if given.write is None else write_atomic(given.write, text.encode())


def _line(result: Result) -> str:
    figures = (result.before.acc, result.before.asr, result.after.acc, result.after.asr, result.after.ra)
    return (
        " ".join("–" if each is None else f"{100 * each.value:.1f}" for each in figures)
        + f"  {result.choice.rule if result.choice else ''}"
    )


if __name__ == "__main__":
    main()

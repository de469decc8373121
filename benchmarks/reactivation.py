"""Does the backdoor come back? Purified networks after the retuning attack, and how near the backdoored one they are.

    python -m benchmarks.reactivation ORIGINAL REFERENCE NAME=CLEANED.pt [NAME=CLEANED.pt …] [--by ra lmc bec]
        [--seed 0] [--work FOLDER] [--out table.md]

ORIGINAL is the backdoored checkpoint with its card, REFERENCE a clean one for the same images, and each CLEANED.pt what
a method made of ORIGINAL. Settings are the defaults of ``rnp-jax reactivate``: 1,000 clean training images, of which 5
carry the trigger, or none as a control. The floor depends on the seed and on REFERENCE alone, so it is measured with
the first file of each seed. ``--work`` keeps the results and goes on with those that it finds there.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.compare import describe_machine
from rnp_jax.document import read_document
from rnp_jax.evaluation.metrics import Proportion
from rnp_jax.pipeline.reactivating import ReactivationOptions, reactivate_checkpoint
from rnp_jax.reactivation import Attempt, rule_attempt
from rnp_jax.reactivation.ra import RaConfig
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.report.reactivation import ReactivationResult
from rnp_jax.report.wording import UNKNOWN

HEAD = (
    *("method", "seed", "ACC", "ASR before", "after RA, 0 images", "after RA, 5 images", "clean floor", "ACC after"),
    *("finding", "barrier", "way to ASR 50 %", "BEC, top 10 %"),
)


def try_file(
    cleaned: str, original: str, reference: str | None, by: tuple[str, ...], seed: int, folder: Path
) -> ReactivationResult:
    """What came of the attempts, as an earlier run left it or computed now."""
    if not (folder / "report.html").exists():
        options = ReactivationOptions(
            cleaned, original=original, reference=reference, by=by, seed=seed, ra=RaConfig(images=(5,))
        )
        reactivate_checkpoint(options, str(folder))
    return read_document(folder / "result.json", ReactivationResult)


def make_row(method: str, result: ReactivationResult, floor: Proportion | None) -> tuple[str, ...]:
    """A line of the table, shares in %; ``floor`` is what RA makes of the clean reference."""
    attempts = {attempt.name: attempt for attempt in result.attempts}
    ra = attempts["ra"]
    lmc, bec = (attempts.get(name, Attempt(name=name)).figures for name in ("lmc", "bec"))
    control = next(each.asr for each in ra.controls if each.name.startswith("purified"))
    after = ra.after and ra.after.asr
    return (
        *(method, str(result.seed), show(result.before.acc), show(result.before.asr), show(control), show(after)),
        *(show(floor), show(ra.after and ra.after.acc), rule_attempt(after, floor)),
        show_number(lmc.get("barrier of the loss, purified")),
        show_number(lmc.get("way to an ASR of 50 %, purified")),
        show_number(bec.get("coefficient, top 10% of channels")),
    )


def show(share: Proportion | None) -> str:
    """A share in % with one decimal."""
    return UNKNOWN if share is None else f"{100 * share.value:.1f}"


def show_number(value: float | None) -> str:
    """Two decimals; a dash for what was not measured or not reached."""
    return "–" if value is None else f"{value:.2f}"


def make_page(results: Mapping[tuple[str, int], ReactivationResult], command: str) -> str:
    """The whole file."""
    floors = {seed: ra.floor.asr for (_, seed), result in results.items() if (ra := result.attempts[0]).floor}
    rows = [make_row(method, result, floors.get(seed)) for (method, seed), result in results.items()]
    return "\n\n".join(["# Re-activation", describe_machine(), f"`{command}`", markdown_table(HEAD, rows)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original")
    parser.add_argument("reference")
    parser.add_argument("cleaned", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--by", nargs="+", default=["ra", "lmc", "bec"])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work, results = given.work or Path(temporary), {}
        for method, _, path in (each.partition("=") for each in given.cleaned):
            for seed in given.seed:
                first = not any(known == seed for _, known in results)
                reference, folder = given.reference if first else None, work / f"{method}-{seed}"
                by = tuple(name for name in given.by if reference or name != "bec")
                results[method, seed] = try_file(path, given.original, reference, by, seed, folder)
        page = make_page(results, "python -m benchmarks.reactivation " + " ".join(sys.argv[1:]))
    sys.stdout.write(page)
    if given.out is not None:
        given.out.write_text(page, "utf-8")


if __name__ == "__main__":
    main()

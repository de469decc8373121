"""Write: the cleaned checkpoint or the new network, the masks, the report, and on the screen what came of it."""

from pathlib import Path

import numpy as np

from rnp_jax import masks
from rnp_jax.atomic import write_atomic
from rnp_jax.card import CARD_SUFFIX, TRIGGER_SUFFIX, beside, write_card
from rnp_jax.checkpoints import save_model, save_variables
from rnp_jax.config import to_plain
from rnp_jax.errors import DataError
from rnp_jax.evaluation.measure import measure_variants
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.extractors import Extractor, open_extractor
from rnp_jax.models import Network
from rnp_jax.pipeline.cards import describe_model
from rnp_jax.pipeline.case import Case
from rnp_jax.pipeline.images import draw_evenly
from rnp_jax.pipeline.measuring import Outcome
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.regular_file import MIB, read_regular
from rnp_jax.report.page import write_report
from rnp_jax.report.samples import MAX_SAMPLES, Samples
from rnp_jax.report.schema import Result, Verdict
from rnp_jax.store import save_tree
from rnp_jax.types import Variables

LAST = "report.html"
"""The file written last, whose presence says that a run is finished."""

EXTRACTOR = "extractor.pt"
"""The network whose features a newly trained head reads."""


def name_cleaned(out: Path, request: Request) -> Path:
    """The cleaned checkpoint's path in the folder ``out``.

    Raises:
      DataError: the run would replace a file that it reads.
    """
    anew, source = request.method.anew, Path(request.checkpoint)
    suffix = ".safetensors" if source.suffix == ".json" else source.suffix or ".pt"  # an index becomes one file
    cleaned = out / ("cleaned.pt" if anew else f"cleaned{suffix}")
    written = [path.resolve() for path in ([cleaned, out / EXTRACTOR] if anew else [cleaned])]
    for read in filter(None, [request.checkpoint, request.options.untrusted.start if anew else None]):
        if Path(read).resolve() in written:
            raise DataError(f"{read} would be overwritten by this run; choose another folder with --out")
    return cleaned


def write_network(cleaned: Path, case: Case, outcome: Outcome, request: Request) -> tuple[str, ...]:
    """Writes the cleaned checkpoint in its source's layout; a new network with a card, its extractor beside it.

    Returns:
      Where in the source file objects were that are not written.
    """
    defended, model = outcome.defended, outcome.model
    if defended.network is None:
        return save_model(cleaned, case.model, defended.variables, overwrite=True)
    extractor = None
    if defended.extractor is not None:
        network, variables = defended.extractor
        extractor = _write_extractor(cleaned.with_name(EXTRACTOR), network, variables, case, request)
    save_variables(cleaned, model.network, model.variables, overwrite=True)
    _write_card(cleaned, model.network, extractor, case, request, outcome.after.metrics)
    return ()


def _write_extractor(path: Path, network: Network, variables: Variables, case: Case, request: Request) -> Extractor:
    triggered, target = (None, None) if case.trigger is None else (case.trigger.test, case.trigger.goal.one_target)
    (measured,) = measure_variants(
        network,
        variables,
        [masks.filters(variables["masks"])],
        case.test.batch,
        triggered,
        target,
        request.options.compute.batch_size,
    )
    save_variables(path, network, variables, overwrite=True)
    _write_card(path, network, None, case, request, measured.metrics)
    return open_extractor(path)


def _write_card(
    path: Path, network: Network, extractor: Extractor | None, case: Case, request: Request, metrics: Metrics
) -> None:
    """The card, and the trigger that ASR was measured with, so that another evaluation can repeat it."""
    options, source = request.options, case.model
    carded = source.card is not None and options.trigger.attack == "card"
    card = describe_model(
        path,
        network,
        data=str(options.images.data or (source.card and source.card.data)),
        train_images=len(case.data.labels),
        attack=source.card.attack if carded else None,  # pyright: ignore[reportOptionalMemberAccess]
        extractor=extractor,
        training={"defense": request.method.name, **to_plain(options.untrusted), **to_plain(request.settings)},
        augmentation=to_plain(options.augmentation),
        seed=options.seed,
        metrics=metrics,
    )
    stored = Path(options.trigger.artefact or beside(source.checkpoint.path, TRIGGER_SUFFIX))
    if card.attack is not None and stored.is_file():
        write_atomic(beside(path, TRIGGER_SUFFIX), read_regular(stored, 1024 * MIB))
    write_card(beside(path, CARD_SUFFIX), card)


def write_masks(out: Path, outcome: Outcome, method: str) -> None:
    """``masks`` (orbax): what the choice of filters rests on, and the filters that are left; RNP's text for masks.

    A defense that only tunes weights writes neither.
    """
    defended = outcome.defended
    if not defended.prunes:
        return
    name = "recovered" if defended.kind == "mask" else "scores"
    tree = {name: dict(defended.values), "pruned": masks.filters(defended.variables["masks"])}
    save_tree(out / "masks", tree, {"placement": outcome.model.network.placement, "method": method}, overwrite=True)
    if defended.kind == "mask":
        masks.write_mask_values(out / "mask_values.txt", defended.values)


def write_page(out: Path, result: Result, case: Case, outcome: Outcome, cleaned: Path, log: RunLog) -> None:
    """Writes the report, and says what came of it."""
    plain = {name: np.asarray(value) for name, value in outcome.defended.values.items()}
    page = write_report(out, result, plain, draw_samples(case, outcome))
    log.show({"before": outcome.before.metrics, "after": outcome.after.metrics})
    verdict = result.verdict
    log.conclude(
        f"{verdict.headline}\n{_tell_checkpoint(verdict, cleaned)}\nreport              {page}",
        verdict=verdict.model_dump(),
        checkpoint=cleaned,
        report=page,
        result=cleaned.with_name("result.json"),
    )


def _tell_checkpoint(verdict: Verdict, written: Path) -> str:
    """Where the checkpoint is, called cleaned only where the result supports it."""
    if verdict.supported:
        return f"cleaned checkpoint  {written}"
    return f"new checkpoint      {written}  (the result does not support that a backdoor is removed)"


def draw_samples(case: Case, outcome: Outcome) -> Samples | None:
    """A few test images without and with the trigger, and what is predicted for them; None where it is not known."""
    if case.trigger is None:
        return None
    test, triggered = case.test, case.trigger.test
    shown = draw_evenly(triggered.labels, MAX_SAMPLES)
    names = np.asarray(test.class_names)
    return Samples(
        test.images[triggered.indices[shown]],
        triggered.images[shown],
        [str(name) for name in names[triggered.labels[shown]]],
        [str(name) for name in names[outcome.before.triggered[shown]]],
        [str(name) for name in names[outcome.after.triggered[shown]]],
    )

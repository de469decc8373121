"""What a sweep does to one item: the same as ``rnp-jax defend`` on that checkpoint, or ``rnp-jax evaluate``.

What several items share, images and triggers, is read once.
"""

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rnp_jax.card import TRIGGER_SUFFIX, beside
from rnp_jax.compilation import drop_programs
from rnp_jax.defenses import Defended, find_method
from rnp_jax.errors import ChangedError, CheckpointError, UnusableDataError
from rnp_jax.evaluation.measure import Measured
from rnp_jax.evaluation.predict import default_batch_size
from rnp_jax.pipeline.case import Case, Images, open_case
from rnp_jax.pipeline.copies import warn_of_replaced
from rnp_jax.pipeline.defending import defend_case, write_outcome
from rnp_jax.pipeline.doubts import find_doubt
from rnp_jax.pipeline.evidence import describe_evidence, search_before_and_after
from rnp_jax.pipeline.few_images import warn_of_classes, warn_of_few, warn_of_few_measured
from rnp_jax.pipeline.images import fit_images, open_data, open_images
from rnp_jax.pipeline.measuring import Outcome
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.parties import KnownOptions, Scene, draw_scene
from rnp_jax.pipeline.request import Request, check_filters, check_request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.sets import can_measure_together, measure_together, measure_within_memory
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.training_set import name_attack
from rnp_jax.pipeline.versions import device_name
from rnp_jax.pipeline.writing import LAST, name_cleaned, write_network
from rnp_jax.report.schema import Evidence, Stage
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.contents import Contents, digest_small
from rnp_jax.sweep.items import Item
from rnp_jax.sweep.options import SweptOptions, Write, item_request
from rnp_jax.sweep.reactivation import Recovered, reactivate_item
from rnp_jax.sweep.recent import Recent
from rnp_jax.sweep.shift import COVARIATE, measure_shift
from rnp_jax.sweep.worker import failed_row

ITEMS = "items"
"""The folder, in the sweep's, of the items' own folders."""

_KEPT = 4  # sets of images and triggers, and figures of checkpoints, that are kept for the items to come


class Loaded(NamedTuple):
    """An item that is read: what is asked, what it is asked of, and the seconds that reading took by stage."""

    request: Request
    case: Case
    timing: Mapping[str, float]


class SweepJob:
    """Reads and runs items with the options of a sweep.

    Args:
      options: of all items.
      out: the sweep's folder.
      write: what is kept of each item.
      explain: also measure what explains the outcomes, on each checkpoint as it is.
    """

    def __init__(self, options: SweptOptions, out: Path, write: Write = "row", explain: bool = False):
        self._options, self._out, self._write_what, self._explain = options, out, write, explain
        self._images, self._cases, self._before, self._scenes = (
            Recent(_KEPT),
            Recent(_KEPT),
            Recent(_KEPT),
            Recent(_KEPT),
        )
        self._contents = Contents()

    def hand_size(self, item: Item) -> int:
        """One a device where checkpoints are only measured; a defense decides things between its programs."""
        return jax.local_device_count() if _only_measures(item) else 1

    def load(self, item: Item) -> Loaded:
        """The model and what it is judged on.

        Raises:
          RnpError: an unusable checkpoint, or one that does not fit the images.
          AbsentError: data that is not there, or that changed since the plan, as the checkpoint may have.
        """
        request, log = item_request(self._options, item), RunLog(quiet=True)
        check_request(request)
        if not os.path.exists(item.path):
            raise ChangedError(item.path, "is no longer there; run the same command again")
        options = request.options
        model = open_model(item.path, options.source, options.compute, options.images)
        if model.checkpoint.sha256 != item.sha256:
            raise ChangedError(item.path, "changed after the sweep was planned; run the same command again")
        rate = _poison_rate(model)
        if rate is not None and not 0 <= rate <= 1:
            raise CheckpointError(item.path, f"its card has a poison rate of {rate}, expected a share from 0 to 1")
        check_filters(model, request)
        key = _case_depends_on(model, request)
        case = self._cases.get(key, lambda: self._open(model, item, request, log))
        model, _ = fit_images(model, case.test)
        return Loaded(request, replace(case, model=model, **_own_network(case, model)), log.timing)

    def _open(self, model: Suspect, item: Item, request: Request, log: RunLog) -> Case:
        options, carded = request.options, None if model.card is None else model.card.data
        if item.data is not None and self._contents.digest(request, carded) != item.data:
            raise UnusableDataError(
                f"the data of {item.path} changed after the sweep was planned; run the same command again"
            )

        def images() -> Images:
            key = _images_depend_on(model, request)
            return self._images.get(key, lambda: open_images(model, options.images, options.defense))

        return open_case(model, request, log, images)

    def run_hand(self, items: Sequence[Item], loaded: Sequence[Loaded], attempt: int) -> list[SweepRow]:
        """The rows of items of one method; checkpoints that are only measured are so at once, if they can.

        Raises:
          RnpError: as ``run``.
        """
        drop_programs()
        cases = [(each.case.model, each.case.sets) for each in loaded]
        apart = len(items) == 1 or self._explain or not _only_measures(items[0])
        if apart or not can_measure_together(cases):
            return [self.run(item, each, attempt) for item, each in zip(items, loaded, strict=True)]
        log, options = RunLog(quiet=True), self._options
        with log.stage("measure"):
            size = options.compute.batch_size or default_batch_size()
            found, size = measure_together(cases, size)
        share = {name: seconds / len(items) for name, seconds in log.timing.items()}
        return [
            self._measured_row(item, each, measured, size, share, attempt)
            for item, each, measured in zip(items, loaded, found, strict=True)
        ]

    def run(self, item: Item, loaded: Loaded, attempt: int) -> SweepRow:
        """The row of one item.

        Raises:
          RnpError: the method cannot do its work.
        """
        request, case = loaded.request, loaded.case
        log = RunLog(quiet=True)
        if request.method.needs == "trigger" and case.trigger is None:
            return failed_row(item, "skipped", f"{request.method.title} needs the trigger, which is not known", attempt)
        if _only_measures(item):
            size = request.options.compute.batch_size or default_batch_size()
            with log.stage("measure"):
                before, size = measure_within_memory(case.sets, case.model, case.model.variables, size)
            return self._measured_row(item, loaded, before, size, log.timing, attempt)
        log.timing.update(_caching(loaded))
        known = _figures_depend_on(item, loaded)
        outcome = defend_case(case, request, log, self._before.peek(known))
        self._before.get(known, lambda: outcome.before)
        written, evidence = self._write(item, case, outcome, request, log)
        recovered = self._reactivate(case, outcome, request, log)
        row = self._describe(item, loaded, attempt)
        defended, before, after = outcome.defended, outcome.before.metrics, outcome.after.metrics
        notes = (*warn_of_replaced(case), *warn_of_few(case, request), *defended.warnings, *recovered.notes)
        return row.model_copy(
            update={
                **after.shares,
                **{f"{name}_before": before.shares[name] for name in ("acc", "asr", "ra")},
                "der": after.der,
                **(_count(defended) if defended.prunes else {}),
                **({} if evidence is None else _tell_evidence(evidence)),
                **recovered.fields,
                "batch_size": outcome.batch_size,
                **_tell_opened(case, outcome.before, *notes),
                "timing": as_stages(log.timing),
                "report": written,
            }
        )

    def _reactivate(self, case: Case, outcome: Outcome, request: Request, log: RunLog) -> Recovered:
        options, trigger = request.options, case.trigger

        def draw() -> Scene:
            return self._scenes.get(_case_depends_on(case.model, request), make)

        def make() -> Scene:
            train = open_data(case.model, options.images, "train")
            return draw_scene(case.model, train, KnownOptions(), options.trigger, case.test, trigger)  # pyright: ignore[reportArgumentType]

        name = self._options.reactivate
        return reactivate_item(name, outcome, options.seed, log, None if trigger is None else draw)

    def _measured_row(
        self, item: Item, loaded: Loaded, measured: Measured, size: int, seconds: Mapping[str, float], attempt: int
    ) -> SweepRow:
        self._before.get(_figures_depend_on(item, loaded), lambda: measured)
        row = self._describe(item, loaded, attempt)
        case = loaded.case
        told = {"covariates": {COVARIATE: measure_shift(case.model, case.sets)}} if self._explain else {}
        timing, few = as_stages({**_caching(loaded), **seconds}), warn_of_few_measured(len(case.test))
        figures = {**measured.metrics.shares, "batch_size": size, "timing": timing}
        return row.model_copy(update={**figures, **_tell_opened(case, measured, *few), **told})

    def _write(
        self, item: Item, case: Case, outcome: Outcome, request: Request, log: RunLog
    ) -> tuple[str | None, Evidence | None]:
        """What the sweep keeps of an item: the report's path in the sweep's folder; and the evidence."""
        folder = Path(ITEMS) / item.key[:16]
        cleaned = name_cleaned(self._out / folder, request)
        if self._write_what != "row":
            cleaned.parent.mkdir(parents=True, exist_ok=True)
        if self._write_what == "report":
            return str(folder / LAST), write_outcome(case, outcome, request, cleaned, log).evidence
        if self._write_what == "cleaned":
            write_network(cleaned, case, outcome, request)
        finding = search_before_and_after(case, outcome, request, log)
        return None, describe_evidence(finding, case.test.class_names)

    def _describe(self, item: Item, loaded: Loaded, attempt: int) -> SweepRow:
        case, card = loaded.case, loaded.case.model.card
        return SweepRow(
            key=item.key,
            checkpoint=item.path,
            sha256=item.sha256,
            method=item.method,
            status="ok",
            attempt=attempt,
            architecture=case.model.network.architecture.name,
            classes=case.model.network.architecture.num_classes,
            attack=name_attack(case.model, case.trigger),
            poison_rate=_poison_rate(case.model),
            seed=loaded.request.options.seed if card is None else card.seed,
            mode="network" if case.model.extractor is None else "head",
            precision=case.model.network.arithmetic,
            device=device_name(),
        )


def _caching(loaded: Loaded) -> dict[str, float]:
    """The seconds that features took, in the row of the item for which they were computed."""
    return {name: seconds for name, seconds in loaded.timing.items() if name == "cache features"}


def as_stages(seconds: Mapping[str, float]) -> tuple[Stage, ...]:
    """Seconds by stage as a document has them."""
    return tuple(Stage(stage=name, seconds=spent) for name, spent in seconds.items())


def _tell_opened(case: Case, measured: Measured, *more: str) -> dict[str, Any]:
    """Why the network may not be computed as it was trained, how it was opened, and whatever else there is to say."""
    doubt = find_doubt(case.model, measured)
    notes = (*case.warnings, *warn_of_classes(case.test), *case.model.assumptions, *more)
    if doubt is None:
        return {"note": " ".join(notes)}
    kind = "at chance" if doubt.at_chance else "under the stated accuracy"
    return {"doubt": kind, "note": " ".join((doubt.sentence, *notes))}


def _poison_rate(model: Suspect) -> float | None:
    return None if model.card is None or model.card.attack is None else model.card.attack.rate


def _tell_evidence(evidence: Evidence) -> dict[str, Any]:
    """What a row says of evidence without the trigger."""
    return {
        "evidence": evidence.level,
        "visible_before": evidence.visible,
        "smallest_after": evidence.smallest_after,
        "ordinary_after": evidence.ordinary_after,
    }


def _count(defended: Defended) -> dict[str, int]:
    return {"pruned": defended.choice.pruned, "units": sum(len(value) for value in defended.values.values())}


def _only_measures(item: Item) -> bool:
    return find_method(item.method).changes == "nothing"


def _own_network(case: Case, model: Suspect) -> dict[str, Any]:
    """What a method works on, where that is the model itself."""
    return {} if case.anew else {"network": model.network, "variables": model.variables}


def _images_depend_on(model: Suspect, request: Request) -> Hashable:
    card, architecture = model.card, model.network.architecture
    shape = architecture.image_shape if model.extractor is None else None
    return (
        repr((request.options.images, request.options.defense)),
        None if card is None else card.data,
        None if card is None else card.architecture.image_shape,
        shape,
        architecture.num_classes,
    )


def _case_depends_on(model: Suspect, request: Request) -> Hashable:
    attack = None if model.card is None else model.card.attack
    artefact = beside(model.checkpoint.path, TRIGGER_SUFFIX)
    method, untrusted = request.method, request.options.untrusted
    return (
        _images_depend_on(model, request),
        repr(request.options.trigger),
        None if attack is None else attack.model_dump_json(include={"name", "constants", "target", "mapping"}),
        None if attack is None else digest_small(artefact),
        None if model.extractor is None else model.extractor.provenance.get("sha256", id(model.extractor)),
        (model.checkpoint.sha256, repr(untrusted), method.anew) if method.needs == "untrusted" else None,
    )


def _figures_depend_on(item: Item, loaded: Loaded) -> Hashable:
    request = loaded.request
    return item.sha256, _case_depends_on(loaded.case.model, request), loaded.case.model.network.arithmetic

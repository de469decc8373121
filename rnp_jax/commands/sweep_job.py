"""What a sweep does to one item: the same as ``rnp-jax defend`` on that checkpoint, or ``rnp-jax evaluate``.

What several items share, images and triggers, is read once.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import jax

from rnp_jax.card import TRIGGER_SUFFIX, beside
from rnp_jax.checkpoints import save_model
from rnp_jax.commands.comparing import as_stages
from rnp_jax.commands.defend import Case, DefendOptions, Judged, check_filters, conclude, judge
from rnp_jax.commands.inputs import Suspect, open_images, open_model, open_trigger
from rnp_jax.commands.judging import can_measure_together, measure_together, measure_within_memory, read_sets
from rnp_jax.commands.result import as_proportion
from rnp_jax.commands.run_log import RunLog
from rnp_jax.commands.sweep_options import SweepOptions, item_options
from rnp_jax.commands.training_set import name_attack
from rnp_jax.commands.versions import device_name
from rnp_jax.defenses import Pruned
from rnp_jax.errors import CheckpointError
from rnp_jax.evaluation.measure import Measured
from rnp_jax.evaluation.metrics import defense_effectiveness
from rnp_jax.evaluation.predict import default_batch_size
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.items import Item

ITEMS = "items"
"""The folder, in the sweep's, of the items' own folders."""

Value = TypeVar("Value")

_KEPT = 4  # sets of images and triggers, and figures of checkpoints, that are kept for the items to come


class SweepJob:
    """Reads and runs items with the options of a sweep, whose folder is ``out``."""

    def __init__(self, options: SweepOptions, out: Path):
        self._options, self._out = options, out
        self._images, self._cases, self._before = _Recent(), _Recent(), _Recent()

    def hand_size(self, item: Item) -> int:
        """One a device where checkpoints are only measured; a defense decides things between its programs."""
        return jax.local_device_count() if item.method == "none" else 1

    def load(self, item: Item) -> Case:
        """The model and what it is judged on.

        Raises:
          RnpError: an unusable checkpoint, or one that does not fit the images; a file that changed since the plan.
        """
        options = item_options(self._options, item)
        model = open_model(item.path, options.source, options.compute)
        if model.checkpoint.sha256 != item.sha256:
            raise CheckpointError(item.path, "changed after the sweep was planned; run the same command again")
        if item.method != "none":
            check_filters(model, options)
        case = self._cases.get(_case_depends_on(model, options), lambda: self._open(model, options))
        return replace(case, model=model)

    def _open(self, model: Suspect, options: DefendOptions) -> Case:
        data, holdout, test = self._images.get(
            _images_depend_on(model, options), lambda: open_images(model, options.images, options.defense)
        )
        trigger = open_trigger(model, options.trigger, test)
        data, holdout, sets = read_sets(model, data, holdout, test, trigger)
        return Case(model, data, holdout, test, trigger, sets)

    def run_hand(self, items: Sequence[Item], loaded: Sequence[Case], attempt: int) -> list[SweepRow]:
        """The rows of items of one method; checkpoints that are only measured are so at once, if they can.

        Raises:
          RnpError: as ``run``.
        """
        cases = [(case.model, case.sets) for case in loaded]
        if len(items) == 1 or items[0].method != "none" or not can_measure_together(cases):
            return [self.run(item, case, attempt) for item, case in zip(items, loaded, strict=True)]
        log, options = RunLog(quiet=True), self._options
        with log.stage("measure"):
            size = options.compute.batch_size or default_batch_size()
            found, size = measure_together(cases, size)
        share = {name: seconds / len(items) for name, seconds in log.timing.items()}
        return [
            self._measured_row(item, case, measured, size, share, attempt)
            for item, case, measured in zip(items, loaded, found, strict=True)
        ]

    def run(self, item: Item, case: Case, attempt: int) -> SweepRow:
        """The row of one item.

        Raises:
          RnpError: the defense cannot do its work.
        """
        options, log = item_options(self._options, item), RunLog(quiet=True)
        if item.method == "none":
            size = options.compute.batch_size or default_batch_size()
            with log.stage("measure"):
                before, size = measure_within_memory(case.sets, case.model, case.model.variables, size)
            return self._measured_row(item, case, before, size, log.timing, attempt)
        known = _figures_depend_on(item, case, options)
        judged = judge(case, options, log, self._before.peek(known))
        self._before.get(known, lambda: judged.before)
        written = self._write(item, case, judged, options, log)
        row = self._describe(item, case, options, attempt)
        before, after = judged.before.metrics, judged.after.metrics
        pruned = {} if judged.defended.kind == "weights" else _count(judged.defended)
        return row.model_copy(
            update={
                **_figures(judged.after),
                **{f"{name}_before": as_proportion(getattr(before, name)) for name in ("acc", "asr", "ra")},
                "der": defense_effectiveness(before, after),
                **pruned,
                "batch_size": judged.batch_size,
                "note": " ".join(judged.defended.warnings),
                "timing": as_stages(log.timing),
                "report": written,
            }
        )

    def _measured_row(
        self, item: Item, case: Case, measured: Measured, size: int, seconds: Mapping[str, float], attempt: int
    ) -> SweepRow:
        options = item_options(self._options, item)
        self._before.get(_figures_depend_on(item, case, options), lambda: measured)
        row = self._describe(item, case, options, attempt)
        return row.model_copy(update={**_figures(measured), "batch_size": size, "timing": as_stages(seconds)})

    def _write(self, item: Item, case: Case, judged: Judged, options: DefendOptions, log: RunLog) -> str | None:
        """What the sweep keeps of an item; the report's path in the sweep's folder."""
        folder = Path(ITEMS) / item.key[:16]
        cleaned = self._out / folder / f"cleaned{Path(item.path).suffix or '.pt'}"
        if self._options.write == "row":
            return None
        cleaned.parent.mkdir(parents=True, exist_ok=True)
        if self._options.write == "cleaned":
            save_model(cleaned, case.model, judged.defended.variables, overwrite=True)
            return None
        conclude(case, cleaned.parent, cleaned, judged, options, log)
        return str(folder / "report.html")

    def _describe(self, item: Item, case: Case, options: DefendOptions, attempt: int) -> SweepRow:
        card = case.model.card
        return SweepRow(
            key=item.key,
            checkpoint=item.path,
            sha256=item.sha256,
            method=item.method,
            status="ok",
            attempt=attempt,
            architecture=case.model.network.architecture.name,
            attack=name_attack(case.model, case.trigger),
            poison_rate=None if card is None or card.attack is None else card.attack.rate,
            seed=options.seed if card is None else card.seed,
            mode="network" if case.model.extractor is None else "head",
            precision=case.model.network.precision,
            device=device_name(),
        )


def _figures(measured: Measured) -> dict[str, Any]:
    names = ("acc", "acc_without_target", "asr", "ra")
    return {name: as_proportion(getattr(measured.metrics, name)) for name in names}


def _count(defended: Pruned) -> dict[str, int]:
    return {"pruned": defended.choice.count, "units": sum(len(value) for value in defended.values.values())}


def _images_depend_on(model: Suspect, options: DefendOptions) -> Hashable:
    card, architecture = model.card, model.network.architecture
    shape = architecture.image_shape if model.extractor is None else None
    return (
        repr((options.images, options.defense)),
        None if card is None else card.data,
        None if card is None else card.architecture.image_shape,
        shape,
        architecture.num_classes,
    )


def _case_depends_on(model: Suspect, options: DefendOptions) -> Hashable:
    attack = None if model.card is None else model.card.attack
    artefact = beside(model.checkpoint.path, TRIGGER_SUFFIX)
    return (
        _images_depend_on(model, options),
        repr(options.trigger),
        None if attack is None else attack.model_dump_json(include={"name", "constants", "target", "mapping"}),
        hashlib.sha256(artefact.read_bytes()).digest() if attack is not None and artefact.is_file() else None,
        None if model.extractor is None else model.extractor.provenance.get("sha256", id(model.extractor)),
    )


def _figures_depend_on(item: Item, case: Case, options: DefendOptions) -> Hashable:
    return item.sha256, _case_depends_on(case.model, options), options.compute.precision


class _Recent:
    """The last few values, by what they depend on."""

    def __init__(self):
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def peek(self, key: Hashable) -> Any:
        return self._values.get(key)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > _KEPT:
            self._values.popitem(last=False)
        return self._values[key]

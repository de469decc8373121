"""``rnp-jax evaluate``: ACC, and ASR and RA where the trigger is known."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from rnp_jax.atomic import write_atomic
from rnp_jax.attacks import describe
from rnp_jax.config import FILE, FLAT, ComputeOptions, DataOptions, SourceOptions, TriggerOptions, to_plain
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.pipeline.copies import tell_copies
from rnp_jax.pipeline.doubts import find_doubt, warn_of_known
from rnp_jax.pipeline.few_images import tell_opened, warn_of_classes, warn_of_few_measured
from rnp_jax.pipeline.images import fit_images, open_data
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.rivals import warn_of_rivals
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.sets import evaluation_sets
from rnp_jax.pipeline.training_set import name_attack
from rnp_jax.pipeline.trigger import open_trigger
from rnp_jax.pipeline.versions import device_name, package_versions
from rnp_jax.report.wording import name_trigger


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a checkpoint: ACC (all classes), ACC without the target class, ASR and RA, with 95 % Wilson intervals.

    Attributes:
      checkpoint: PyTorch file to measure.
      source: how the file is read, and its normalisation.
      images: test images; of a set without a test part, all images.
      trigger: the attack, if it is known.
      compute: precision and batches.
      out: JSON file to write the figures to.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    trigger: Annotated[TriggerOptions, FLAT] = field(default_factory=TriggerOptions)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)
    out: Annotated[str | None, FILE] = None


def run(options: EvaluateOptions) -> Metrics:
    """Measures, prints and, if asked, writes.

    Raises:
      RnpError: an unusable checkpoint, data set or option.
    """
    model = open_model(options.checkpoint, options.source, options.compute, options.images)
    test = open_data(model, options.images, "test", undivided=True)
    log = RunLog()
    if test.source_images is not None:
        part = "all" if len(test) == test.source_images else f"{len(test):,} of the"
        log.say(f"measuring on {part} {test.source_images:,} images, which have no test part of their own")
    for note in tell_copies(model.copies, model.state_dict, replaced=False):
        log.say(f"  note: {note}")
    model, _ = fit_images(model, test)
    tell_opened(model, test, log)
    warnings = warn_of_rivals(model, options.source, test)
    trigger = open_trigger(model, options.trigger, test)
    if trigger is not None:
        goal = trigger.goal
        log.say(f"trigger: {name_trigger(name_attack(model, trigger), goal.mapping, goal.one_target)}")
        warnings = (*warnings, *trigger.cautions)
    sets = evaluation_sets(model, test, trigger)
    (measured,) = sets.measure(model, model.variables, batch_size=options.compute.batch_size)
    log.show({model.checkpoint.path.name: measured.metrics}, wanted=True)
    if (doubt := find_doubt(model, measured)) is not None:
        warnings = (doubt.sentence, *warnings)
    warnings = (*warnings, *warn_of_known(model, measured), *warn_of_few_measured(len(test)))
    for warning in warnings:
        log.warn(warning)
    if options.out is not None:
        document = {
            "checkpoint": {"path": str(model.checkpoint.path), "sha256": model.checkpoint.sha256},
            "data": test.name,
            "attack": None if trigger is None else describe(trigger.attack) | dataclasses.asdict(trigger.goal),
            "metrics": {name: value and value.model_dump() for name, value in measured.metrics.shares.items()},
            "warnings": [*warnings, *warn_of_classes(test)],
            "assumptions": list(model.assumptions),
            "options": to_plain(options),
            "device": device_name(),
            "versions": package_versions(),
        }
        write_atomic(options.out, (json.dumps(document, indent=2) + "\n").encode())
    log.tell("result", text="measured", verdict=None, paths={} if options.out is None else {"figures": options.out})
    return measured.metrics

"""What a document says of its inputs: the command, the file, the images, the trigger and the extractor."""

import os
import shlex
import sys
from datetime import UTC, datetime
from typing import Any

from rnp_jax import masks
from rnp_jax.attacks import describe
from rnp_jax.checkpoints import Model
from rnp_jax.data import Dataset
from rnp_jax.data.splits import name_source
from rnp_jax.defenses import Defended
from rnp_jax.extractors import Extractor
from rnp_jax.models import count_parameters
from rnp_jax.pipeline.copies import describe_copies
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.training_set import name_attack
from rnp_jax.pipeline.trigger import Trigger
from rnp_jax.pipeline.versions import device_name, package_versions
from rnp_jax.report import schema


def describe_command(model: Suspect, trigger: Trigger | None, seed: int) -> dict[str, Any]:
    """What the document of every command says of the command itself: fields of ``schema.Run``."""
    return {
        "created": datetime.now(UTC),
        "versions": schema.Versions(**package_versions()),
        "device": device_name(),
        "precision": model.network.arithmetic,
        "seed": seed,
        "command": command_line(),
        "attack": None if trigger is None else describe_trigger(model, trigger),
    }


def describe_data(model: Suspect, test: Dataset, clean: int, held: int, tested: int) -> schema.DataInfo:
    """The images that were used, by number, and their normalisation."""
    return schema.DataInfo(
        name=name_source(test),
        defense_images=clean,
        holdout_images=held,
        test_images=tested,
        mean=model.network.mean,
        std=model.network.std,
    )


def command_line() -> str | None:
    """The command that runs; None for a call from Python."""
    return shlex.join(["rnp-jax", *sys.argv[1:]]) if sys.argv[0].endswith("rnp-jax") else None


def describe_checkpoint(
    model: Model, dropped: tuple[str, ...] = (), trained: Defended | None = None, written: schema.Written = "kept"
) -> schema.CheckpointInfo:
    """The file.

    Args:
      model: the network that was read from it.
      dropped: what of the file was not written again.
      trained: the new network that a defense trained in its place, whose filters are counted.
      written: what took the place of copies of the network.
    """
    filters = masks.filters(model.variables["masks"]) if trained is None else trained.values
    left_out = (f"not written to the new file: {', '.join(dropped)}",) if dropped else ()
    return schema.CheckpointInfo(
        path=os.fspath(model.checkpoint.path),
        sha256=model.checkpoint.sha256,
        container=model.checkpoint.container,
        state_dict_key="/".join(map(str, model.state_dict.location)) or None,
        architecture=model.network.architecture.name,
        width=model.network.architecture.width or None,
        num_classes=model.network.architecture.num_classes,
        parameters=count_parameters(model.variables),
        filters=sum(len(value) for value in filters.values()),
        anomalies=(*model.checkpoint.anomalies, *model.assumptions, *left_out),
        prefix=model.state_dict.prefix,
        copies=describe_copies(model, written),
    )


def describe_trigger(model: Suspect, trigger: Trigger) -> schema.AttackInfo:
    """The attack that was tested."""
    described = describe(trigger.attack)
    return schema.AttackInfo(
        name=name_attack(model, trigger),
        target=trigger.goal.one_target,
        mapping=trigger.goal.mapping,
        triggered_images=len(trigger.test.labels),
        constants=described["constants"],
    )


def describe_features(extractor: Extractor) -> schema.FeatureInfo:
    """The extractor of a head's features."""
    return schema.FeatureInfo(
        extractor=extractor.name,
        dim=extractor.dim,
        sha256=extractor.provenance.get("sha256"),  # pyright: ignore[reportArgumentType]
        provenance=", ".join(f"{key} {value}" for key, value in extractor.provenance.items() if key != "sha256"),
        caution=extractor.caution or "",
    )

"""``rnp-jax defend --method hid``: a clean classifier, extractor and head, from the untrusted training set."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from rnp_jax import masks
from rnp_jax.checkpoints import load_model
from rnp_jax.commands.finish import report, write_masks
from rnp_jax.commands.inputs import Suspect, load_images, open_data, open_trigger
from rnp_jax.commands.judging import evaluation_sets
from rnp_jax.commands.purified import CLEANED, as_pruned, describe_purified, write_extractor, write_head
from rnp_jax.commands.run_log import RunLog
from rnp_jax.commands.training_set import remake
from rnp_jax.config import write_yaml
from rnp_jax.data import Dataset, check_overlap, validate
from rnp_jax.defenses import HidConfig, hid
from rnp_jax.defenses.hid import Purified
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.report.schema import Result
from rnp_jax.training.extended import head_on
from rnp_jax.training.views import Views
from rnp_jax.types import Batch, Variables

if TYPE_CHECKING:
    from rnp_jax.commands.defend import DefendOptions


@dataclass(frozen=True)
class HidOptions:
    """Hölder Iterative Defence: what it trains on, and what it trains.

    Attributes:
      poisoned: the untrusted training set: the training part of a data set, folder or .npz file; by default it is made
        again from the checkpoint's card.
      extractor: a checkpoint to start from, in place of SimCLR; by default a fresh network like the defended one.
      width: channels of a fresh network's first stage; by default those of the defended one.
      head: hidden units of the MLP on its features, a number a layer.
      config: of the steps.
      views: of SimCLR.
    """

    poisoned: str | None = None
    extractor: str | None = None
    width: int | None = None
    head: tuple[int, ...] = (256, 256)
    config: HidConfig = field(default_factory=HidConfig)
    views: Views = field(default_factory=Views)

    def __post_init__(self):
        if not self.head:
            raise ConfigError(
                "--hid.head: give one hidden layer or more, such as 256 256: its units are what is pruned"
            )
        if self.width is not None and self.extractor is not None:
            raise ConfigError(f"--hid.extractor leaves --hid.width {self.width} unread: the extractor has its own")
        if self.config.prune.threshold.rule == "budget":
            raise ConfigError(
                "--hid.config.prune.threshold.rule budget needs clean held-out images, and hid has none: choose "
                "another rule, such as mixture"
            )


def purify(options: "DefendOptions", model: Suspect, out: Path, log: RunLog) -> Result:
    """Trains a new network on the untrusted set, and writes it and its figures beside those of the checkpoint.

    Raises:
      RnpError: a checkpoint, data set or option that cannot be used; nothing is written then.
    """
    with log.stage("load images"):
        network, pretrained = _open_network(options, model)
        data, poisoned = _open_training_set(options, model, network)
        test = open_data(model, options.images, "test")
        _check(options, model, network, pretrained, data, test)
        trigger = open_trigger(model, options.trigger, test)
        before_sets = evaluation_sets(model, test, trigger)
    head = head_on(network, model.network.architecture.num_classes, options.hid.head)
    write_yaml(out / "config.yaml", options)  # the first file: what came before left no folder behind
    log.write_to(out / "run.log")

    log.say(f"{network.architecture.name}: hid on {len(data.labels)} untrusted images and no clean ones")
    with log.epochs() as bars:
        done = hid(
            network,
            head,
            data,
            jax.random.key(options.seed),
            options.hid.config,
            views=options.hid.views,
            augment=options.augmentation,
            pretrained=pretrained,
            poisoned=poisoned,
            progress=bars,
        )
    _tell(done, log)
    pruned, batch_size = as_pruned(done), options.compute.batch_size
    with log.stage("write checkpoint"):
        extractor = write_extractor(out, options, model, network, done, data, test, trigger)
    log.say("measuring")
    with log.stage("measure"):
        cleaned = replace(model, network=head, variables=done.head, extractor=extractor)
        (before,) = before_sets.measure(model, model.variables, batch_size=batch_size)
        (after,) = evaluation_sets(cleaned, test, trigger).measure(cleaned, done.head, batch_size=batch_size)
    with log.stage("write checkpoint"):
        write_head(out, options, cleaned, len(data.labels), after.metrics)
        write_masks(out, pruned, head.placement, options.method)
    result = describe_purified(options, model, done, data, test, trigger, before, after, log.timing)
    report(out, result, pruned.values, test, trigger, before, after, out / CLEANED, log)
    return result


def _open_network(options: "DefendOptions", model: Suspect) -> tuple[Network, Variables | None]:
    """The extractor to train, and its variables where it is trained already."""
    own, compute, num_classes = options.hid, options.compute, model.network.architecture.num_classes
    if own.extractor is not None:
        if Path(own.extractor).is_dir():
            raise ConfigError(f"--hid.extractor {own.extractor}: hid trains it further: give a PyTorch checkpoint file")
        found = load_model(own.extractor, placement=compute.placement, precision=compute.precision)
        return _with_classes(found.network, masks.bake(found.variables, found.network.placement), num_classes)
    like = model.network
    if model.extractor is not None:
        source = model.extractor.provenance
        if source["kind"] != "checkpoint":
            raise ConfigError(
                f"{model.checkpoint.path} is a head on {model.extractor.name}, and hid cannot train such a network: "
                "give a PyTorch checkpoint with --hid.extractor"
            )
        like = load_model(str(source["path"]), placement=compute.placement, precision=compute.precision).network
    architecture = like.architecture
    if own.width is not None and not architecture.width:
        raise ConfigError(f"--hid.width {own.width}: {architecture.name} has no width")
    width = architecture.width if own.width is None else own.width
    return replace(like, architecture=replace(architecture, width=width)), None


def _with_classes(network: Network, variables: Variables, num_classes: int) -> tuple[Network, Variables]:
    """The network with a last layer for so many classes: its own, or one that is drawn anew and not used."""
    architecture = network.architecture
    if architecture.num_classes == num_classes:
        return network, variables
    layers = (*architecture.layers[:-1], (architecture.layers[-1][0], num_classes)) if architecture.layers else ()
    resized = replace(network, architecture=replace(architecture, num_classes=num_classes, layers=layers))
    fresh, (last,) = resized.init(jax.random.key(0)), network.segments[-1].layers
    return resized, {
        name: {**tree, last: fresh[name][last]} if last in tree else tree for name, tree in variables.items()
    }


def _open_training_set(options: "DefendOptions", model: Suspect, network: Network) -> tuple[Batch, np.ndarray | None]:
    """The untrusted set, and which of its images are poisoned where that is known."""
    if options.hid.poisoned is None:
        made = remake(model.card, model.checkpoint.path, open_data(model, options.images, "train"))
        return made.data, made.poisoned
    height, width, _ = network.architecture.image_shape
    return load_images(replace(options.images, data=options.hid.poisoned), "train", (height, width)).batch, None


def _check(
    options: "DefendOptions",
    model: Suspect,
    network: Network,
    pretrained: Variables | None,
    data: Batch,
    test: Dataset,
) -> None:
    """Says now what the steps would say after minutes."""
    num_classes, image_shape = model.network.architecture.num_classes, network.architecture.image_shape
    validate(data, num_classes=num_classes, image_shape=image_shape, name=options.hid.poisoned or "training set")
    validate(test, num_classes=num_classes, image_shape=image_shape, name=test.name)
    check_overlap(data, test)
    steps = {"head": options.hid.config.head, **({"simclr": options.hid.config.simclr} if pretrained is None else {})}
    for name, step in steps.items():
        if step.batch_size > len(data.labels):
            raise ConfigError(
                f"--hid.config.{name}.batch-size {step.batch_size} exceeds the {len(data.labels)} training images: "
                "choose a smaller one"
            )


def _tell(done: Purified, log: RunLog) -> None:
    """What the steps took and did."""
    for timing in (done.timing, *(each.timing for each in done.rounds)):
        for stage, seconds in timing.items():
            log.timing[stage] = log.timing.get(stage, 0.0) + seconds
    for warning in done.warnings:
        log.say(f"  warning: {warning}")
    for number, each in enumerate(done.rounds, 1):
        clean = "" if each.precision is None else f", {each.precision:.1%} of them clean in truth"
        log.say(f"round {number}: {each.count} units pruned so far, {len(each.kept)} images kept{clean}")

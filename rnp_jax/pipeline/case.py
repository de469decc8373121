"""Open: a model, what a method learns from, and what both are judged on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool

from rnp_jax import masks
from rnp_jax.checkpoints import load_model
from rnp_jax.data import Dataset, check_overlap, holdout_split, validate
from rnp_jax.defenses import Defended
from rnp_jax.errors import ConfigError
from rnp_jax.extractors.checkpoint import from_network
from rnp_jax.models import Network
from rnp_jax.pipeline.images import fit_images, load_images, open_data, open_images, tell_parts
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.sets import EvaluationSets, evaluation_sets, read_sets
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.training_set import remake
from rnp_jax.pipeline.trigger import Trigger, open_trigger
from rnp_jax.types import Batch, Variables

Images: TypeAlias = tuple[Batch, Batch | None, Dataset]
"""The clean images a defender has, those of them held out (None without), and the test images."""


@dataclass(frozen=True, eq=False)
class Case:
    """A model, what a method is given, and what both are judged on, as the networks read them.

    Attributes:
      model: the suspicious model.
      network: what the method works on: the model's own network, or the one that it trains.
      variables: its weights; None for fresh ones.
      data: the images that the method learns from: clean ones, or an untrusted training set.
      holdout: clean images to choose by.
      test: the test images.
      trigger: the attack to measure, where it is known.
      sets: the test images without and with the trigger, as the model reads them.
      poisoned: which images of an untrusted set are poisoned, where that is known; for evaluation only.
      untrusted: whether the images that the method learns from are an untrusted training set.
      anew: whether the method trains a new network on them.
      cautions: what speaks against the way in which the model was opened.
    """

    model: Suspect
    network: Network
    variables: Variables | None
    data: Batch
    holdout: Batch | None
    test: Dataset
    trigger: Trigger | None
    sets: EvaluationSets
    poisoned: Bool[np.ndarray, "N"] | None = None
    untrusted: bool = False
    anew: bool = False
    cautions: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the way in which the model was opened, and against the trigger."""
        return self.cautions if self.trigger is None else (*self.cautions, *self.trigger.cautions)

    @property
    def clean_images(self) -> tuple[int, int]:
        """How many clean images the method has, and how many of them are held out."""
        if self.untrusted:
            return 0, 0
        held = 0 if self.holdout is None else len(self.holdout.labels)
        return len(self.data.labels) + held, held


def open_case(model: Suspect, request: Request, log: RunLog, images: Callable[[], Images] | None = None) -> Case:
    """The images and the trigger that the options or the model's card name.

    Args:
      model: the suspicious model.
      request: the method, and what it is given.
      log: told what takes its time.
      images: gives the clean images, where they are read already.

    Raises:
      ConfigError, DataError: nothing names them, or what is named does not fit the model.
    """
    if request.method.needs == "untrusted":
        return _open_untrusted(model, request, log)
    options = request.options
    with log.stage("load images"):
        data, holdout, test = open_images(model, options.images, options.defense) if images is None else images()
        model, test = fit_images(model, test)
        trigger = open_trigger(model, options.trigger, test)
    if (parts := tell_parts(data, holdout, test)) is not None:
        log.say(parts)
    if model.extractor is not None:
        log.say(f"features of {model.extractor.name}")
        if model.extractor.caution is not None:
            log.say(f"  note: {model.extractor.caution}")
    with log.stage("cache features" if model.extractor is not None else "load images"):
        data, holdout, sets = read_sets(model, data, holdout, test, trigger)
    return Case(model, model.network, model.variables, data, holdout, test, trigger, sets)


def make_case(model: Suspect, request: Request, images: Dataset, test: Dataset | None = None) -> Case:
    """A case of images in memory: clean ones, or the untrusted set of a method that needs one.

    Raises:
      ConfigError: an untrusted set without test images, or nothing is held out to test by.
      DataError: images that do not fit the model.
    """
    options = request.options
    model, images = fit_images(model, images)
    if request.method.needs == "untrusted":
        if test is None:
            raise ConfigError(f"method {request.method.name} trains on an untrusted set: give test images as test")
        model, test = fit_images(model, test)
        network, start = _open_start(model, request)
        return _judge_untrusted(model, request, network, start, images.batch, test)
    data, holdout = images.batch, None
    if options.defense.holdout > 0:
        data, holdout = holdout_split(data, options.defense.holdout, options.defense.seed)
    if test is None:
        if holdout is None:
            raise ConfigError("no images are held out to measure on: give test images as test")
        test = replace(images, images=np.asarray(holdout.images), labels=np.asarray(holdout.labels), source_images=None)
    else:
        model, test = fit_images(model, test)
        check_overlap(data, test)
    trigger = open_trigger(model, options.trigger, test)
    data, holdout, sets = read_sets(model, data, holdout, test, trigger)
    return Case(model, model.network, model.variables, data, holdout, test, trigger, sets)


def defended_model(case: Case, defended: Defended) -> Suspect:
    """The model after a defense: the same with other weights, or the new network and the features that it reads."""
    if defended.network is None:
        return replace(case.model, variables=defended.variables)
    extractor = None
    if defended.extractor is not None:
        network, variables = defended.extractor
        extractor = from_network("extractor", network, masks.bake(variables, network.placement), {"kind": "trained"})
    return replace(case.model, network=defended.network, variables=defended.variables, extractor=extractor)


def _open_untrusted(model: Suspect, request: Request, log: RunLog) -> Case:
    options = request.options
    with log.stage("load images"):
        test = open_data(model, options.images, "test")
        model, _ = fit_images(model, test)
        network, start = _open_start(model, request)
        data, poisoned = _open_training_set(model, request, network)
        num_classes, image_shape = model.network.architecture.num_classes, network.architecture.image_shape
        name = options.untrusted.data or "training set"
        validate(data, num_classes=num_classes, image_shape=image_shape, name=name)
        validate(test, num_classes=num_classes, image_shape=image_shape, name=test.name)
        check_overlap(data, test)
        return _judge_untrusted(model, request, network, start, data, test, poisoned)


def _judge_untrusted(
    model: Suspect,
    request: Request,
    network: Network,
    start: Variables | None,
    data: Batch,
    test: Dataset,
    poisoned: np.ndarray | None = None,
) -> Case:
    """The case of a method that learns from an untrusted set."""
    trigger = open_trigger(model, request.options.trigger, test)
    sets, anew = evaluation_sets(model, test, trigger), request.method.anew
    return Case(model, network, start, data, None, test, trigger, sets, poisoned, untrusted=True, anew=anew)


def _open_start(model: Suspect, request: Request) -> tuple[Network, Variables | None]:
    """The network to train, and its weights where it does not start fresh."""
    own, compute = request.options.untrusted, request.options.compute
    if not request.method.anew:
        return _open_own(model, request)
    num_classes = model.network.architecture.num_classes
    if own.start is not None:
        if Path(own.start).is_dir():
            raise ConfigError(f"--untrusted.start {own.start}: not a file to train further: give a PyTorch checkpoint")
        found = load_model(own.start, placement=compute.placement, **compute.arithmetic._asdict())
        return _with_classes(found.network, masks.bake(found.variables, found.network.placement), num_classes)
    like = model.network
    if model.extractor is not None:
        source = model.extractor.provenance
        if source["kind"] != "checkpoint":
            raise ConfigError(
                f"{model.checkpoint.path} is a head on {model.extractor.name}, and --method {request.method.name} "
                "cannot train such a network: give a PyTorch checkpoint with --untrusted.start"
            )
        like = load_model(str(source["path"]), placement=compute.placement, **compute.arithmetic._asdict()).network
    architecture = like.architecture
    if own.width is not None and not architecture.width:
        raise ConfigError(f"--untrusted.width {own.width}: {architecture.name} has no width")
    width = architecture.width if own.width is None else own.width
    return replace(like, architecture=replace(architecture, width=width)), None


def _open_own(model: Suspect, request: Request) -> tuple[Network, Variables]:
    """The model's own network, for a method that changes it by the untrusted set."""
    own, name = request.options.untrusted, request.method.name
    if own.start is not None or own.width is not None:
        raise ConfigError(
            f"--untrusted.start and --untrusted.width: not read by --method {name}, which trains the checkpoint's own "
            "network further; remove them"
        )
    if model.extractor is not None:
        raise ConfigError(
            f"{model.checkpoint.path} is a head on {model.extractor.name}, and --method {name} learns from images: "
            "give a network that reads them"
        )
    return model.network, model.variables


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


def _open_training_set(model: Suspect, request: Request, network: Network) -> tuple[Batch, np.ndarray | None]:
    """The untrusted set, and which of its images are poisoned where that is known."""
    images, named = request.options.images, request.options.untrusted.data
    split: Literal["train"] = "train"
    if named is None:
        made = remake(model.card, model.checkpoint.path, open_data(model, images, split))
        return made.data, made.poisoned
    height, width, _ = network.architecture.image_shape
    return load_images(replace(images, data=named), split, (height, width)).batch, None

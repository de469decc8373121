"""``rnp-jax simclr``: a feature extractor trained without labels, with a linear probe on it as a classifier."""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from rnp_jax.attacks import Goal
from rnp_jax.commands.attack_list import name_static
from rnp_jax.commands.new_model import NewModel, check_free, hold_place, make_network, measure_model, write_model
from rnp_jax.commands.saved_states import SavedStates, open_states
from rnp_jax.config import FILE, FLAT, NAME, NORMALIZATION, ComputeOptions, Constants, DataOptions, check_seed, to_plain
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.models import Network
from rnp_jax.models.resnet import DESIGNS as RESNETS
from rnp_jax.pipeline.images import load_images
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.training_set import describe_attack, open_attack
from rnp_jax.training.backdoor import PoisonConfig, TrainingSet, poison_once
from rnp_jax.training.extended import fit_probe
from rnp_jax.training.simclr import SimclrConfig, pretrain, start
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.training.views import Views
from rnp_jax.types import Variables


@dataclass(frozen=True)
class SimclrOptions:
    """Train a feature extractor with SimCLR, which reads no labels, and write it as a PyTorch checkpoint with its card.

    Its last layer is a linear probe that is trained on the frozen features with the labels, so the file is also a
    classifier.

    Attributes:
      out: checkpoint to write; the card (.card.json) and, with an attack, the trigger (.trigger.npz) are written beside
        it.
      attack: attack that poisons the images as 'attack' does; none keeps them clean.
      model: architecture.
      width: channels of the first stage.
      target: label that the attacker wants.
      mapping: label mapping: all_to_one, or all_to_all (class y becomes y + 1).
      constants: constants of the attack that replace its published ones, as NAME VALUE pairs.
      normalization: normalisation: a name (cifar10_rnp, digits, ...) or 'm,m,m/s,s,s'.
      images: training and test images.
      poison: poison rate, and how it is counted.
      simclr: settings of SimCLR, which trains the extractor.
      views: augmentation that makes the two views of an image.
      probe: training of the linear probe.
      compute: precision.
      seed: random seed for the initial weights, the poisoned images, the views and the batches.
      resume: continue from the state that an interrupted run saved.
    """

    out: Annotated[str, FILE]
    attack: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(help=f"attack that poisons the images as 'attack' does: {name_static()} to keep them clean."),
    ] = "none"
    model: Annotated[str, NAME] = "resnet18"
    width: int = 64
    target: int = 0
    mapping: Literal["all_to_one", "all_to_all"] = "all_to_one"
    constants: Constants = field(default_factory=dict)
    normalization: Annotated[str, NORMALIZATION] = "cifar10_rnp"
    images: Annotated[DataOptions, FLAT] = field(default_factory=lambda: DataOptions(data="cifar10"))
    poison: PoisonConfig = field(default_factory=PoisonConfig)
    simclr: SimclrConfig = field(default_factory=SimclrConfig)
    views: Views = field(default_factory=Views)
    probe: TrainConfig = field(default_factory=TrainConfig)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)
    seed: int = 0
    resume: bool = False

    def __post_init__(self):
        check_seed("seed", self.seed)


def run(options: SimclrOptions) -> Metrics:
    """Trains, measures, writes; returns the probe's figures.

    Raises:
      ConfigError, DataError: options that do not fit together, or a checkpoint that exists.
    """
    out = Path(options.out)
    check_free(out, "simclr")
    if options.model not in RESNETS:
        raise ConfigError(f"--model {options.model}: this command trains {', '.join(RESNETS)}")
    attack = open_attack(options.attack, options.constants)
    train_set, test = (load_images(options.images, split) for split in ("train", "test"))
    goal = Goal(num_classes=train_set.num_classes, target=options.target, mapping=options.mapping)
    network = make_network(options.model, options.width, options.normalization, train_set, options.compute)
    if len(train_set) < options.probe.batch_size:
        raise ConfigError(
            f"--probe.batch-size {options.probe.batch_size} exceeds the {len(train_set)} training images: choose a "
            "smaller one"
        )
    untrusted = poison_once(attack, goal, train_set.batch, options.seed, options.poison)
    log = RunLog()
    with hold_place(out, "simclr"):
        states = open_states(options.out, options)
        variables = _train(options, network, untrusted, states, log)
        model = NewModel(network, variables, attack, goal, untrusted.params)
        metrics = measure_model(model, test, options.compute.batch_size)
        write_model(
            model,
            out,
            metrics,
            attack=None if attack is None else describe_attack(attack, goal, options.poison, untrusted.plan),
            epochs=options.simclr.epochs,
            data=str(options.images.data),
            train_images=len(untrusted.data.labels),
            training={"simclr": to_plain(options.simclr), "probe": to_plain(options.probe)},
            augmentation=to_plain(options.views),
            seed=options.seed,
        )
        states.remove()
    log.show({"linear probe": metrics})
    log.conclude(f"{out}", checkpoint=out)
    return metrics


def _train(
    options: SimclrOptions, network: Network, untrusted: TrainingSet, states: SavedStates, log: RunLog
) -> Variables:
    """The extractor, and the probe as its last layer."""
    key = jax.random.key(options.seed)
    init_key, train_key = jax.random.split(key)
    variables, images = network.init(init_key), untrusted.data.images
    like = partial(start, network, variables, train_key, options.simclr, len(images))
    with states.going_on(options.resume, like, options.simclr.epochs, log) as (state, bars):
        started = time.perf_counter()
        trained, _ = pretrain(
            network,
            variables,
            images,
            train_key,
            options.simclr,
            views=options.views,
            progress=bars,
            state=state,
            save=states.save,
        )
    log.say(f"trained in {time.perf_counter() - started:.0f} s; training the linear probe")
    return fit_probe(network, trained, untrusted.data, jax.random.fold_in(key, 0), options.probe)[0]

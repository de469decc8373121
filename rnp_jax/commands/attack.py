"""``rnp-jax attack``: train a backdoored (or clean) model and write it with its trigger and card."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import tyro

from rnp_jax.adaptive import AdaptiveOptions, choose_adaptation
from rnp_jax.attacks import Attack, Goal
from rnp_jax.commands.new_model import NewModel, check_free, hold_place, make_network, measure_model, write_model
from rnp_jax.commands.saved_states import SavedStates, open_states
from rnp_jax.config import (
    FILE,
    FLAT,
    NAME,
    NORMALIZATION,
    PATH,
    ComputeOptions,
    Constants,
    DataOptions,
    check_seed,
    to_plain,
)
from rnp_jax.data import Augmentation, Dataset
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.acceptance import find_weakness
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.extractors import Extractor, open_extractor
from rnp_jax.models import Network, mlp_head
from rnp_jax.models.registry import DESIGNS, suggest
from rnp_jax.pipeline.images import load_images
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.training_set import describe_attack, open_attack
from rnp_jax.training.backdoor import Backdoored, PoisonConfig, start_state, train_backdoored
from rnp_jax.training.supervised import TrainConfig

Read: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Features [N, D] of images [N, H, W, C]."""


@dataclass(frozen=True)
class AttackOptions:
    """Train a backdoored model and write it as a PyTorch checkpoint, with its trigger artefact and card beside it.

    Attributes:
      attack: attack, such as badnets (--list shows all); none trains a clean model.
      out: checkpoint to write; the trigger (.trigger.npz) and the card (.card.json) are written beside it.
      model: architecture.
      width: channels of the first stage; by default as published (a ResNet's 64).
      extractor: frozen extractor, to train an MLP on its features instead of a whole network: a checkpoint, or a folder
        with a CLIP or ViT model.
      head: hidden units of that MLP, one number per layer.
      target: label that the attacker wants.
      mapping: label mapping: all_to_one, or all_to_all (class y becomes y + 1).
      constants: constants of the attack that replace its published ones, as NAME VALUE pairs.
      normalization: normalisation: a name (cifar10_rnp, digits, ...) or 'm,m,m/s,s,s'.
      images: training and test images.
      poison: poison rate, and how it is counted.
      train: epochs, batch size, optimiser and schedule.
      adaptive: how an attacker trains who knows the defenses; by default plainly.
      augmentation: augmentation of the training batches, after the trigger.
      compute: precision.
      seed: random seed for the initial weights, the poisoned images and the batches.
      resume: continue from the state that an interrupted run saved.
    """

    attack: Annotated[str, tyro.conf.Positional]
    out: Annotated[str, FILE]
    model: Annotated[str, NAME] = "resnet18"
    width: int | None = None
    extractor: Annotated[str | None, PATH] = None
    head: tuple[int, ...] = (256, 256)
    target: int = 0
    mapping: Literal["all_to_one", "all_to_all"] = "all_to_one"
    constants: Constants = field(default_factory=dict)
    normalization: Annotated[str, NORMALIZATION] = "cifar10_rnp"
    images: Annotated[DataOptions, FLAT] = field(default_factory=lambda: DataOptions(data="cifar10"))
    poison: PoisonConfig = field(default_factory=PoisonConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    adaptive: AdaptiveOptions = field(default_factory=AdaptiveOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)
    seed: int = 0
    resume: bool = False

    def __post_init__(self):
        check_seed("seed", self.seed)


def run(options: AttackOptions) -> None:
    """Trains, measures, writes.

    Raises:
      ConfigError, DataError: options that do not fit together, or a checkpoint that exists.
    """
    out = Path(options.out)
    check_free(out, "attack")
    if options.model not in DESIGNS:
        raise ConfigError(f"--model {options.model}: {suggest(options.model)}")
    _check_read(options)
    open_attack(options.attack, options.constants)  # a wrong name is told before anything is read
    choose_adaptation(options.adaptive)
    log = RunLog()
    train_set, test = (load_images(options.images, split) for split in ("train", "test"))
    extractor = None if options.extractor is None else open_extractor(options.extractor)
    metrics = make_victim(options, train_set, test, extractor, extractor, log)
    log.show({"": metrics})
    log.conclude(f"{out}", checkpoint=out)


def _check_read(options: AttackOptions) -> None:
    """Refuses options that nothing would read."""
    default = AttackOptions(options.attack, options.out)
    others = ("head",) if options.extractor is None else ("model", "width", "normalization", "augmentation")
    unread = [f"--{name}" for name in others if getattr(options, name) != getattr(default, name)]
    if unread:
        without = "without --extractor" if options.extractor is None else "with --extractor"
        raise ConfigError(f"{', '.join(unread)}: not read {without}; remove it, or change --extractor")


def make_victim(
    options: AttackOptions,
    train_set: Dataset,
    test: Dataset,
    extractor: Extractor | None,
    read: Read | None,
    log: RunLog,
) -> Metrics:
    """Trains and measures a model, and writes its files; ``read`` gives the features of training images.

    Notes the seconds of ``cache`` and ``train``.

    Raises:
      DataError: the checkpoint exists, or another run is writing it.
    """
    with hold_place(Path(options.out), "attack"):
        attack = open_attack(options.attack, options.constants)
        if attack is not None and not attack.takes_rate and options.poison != PoisonConfig():
            raise ConfigError(
                f"--poison: not read by {options.attack}, which poisons no share of the images; remove it"
            )
        victim = _victim(options, extractor, train_set)
        goal = Goal(num_classes=train_set.num_classes, target=options.target, mapping=options.mapping)
        states = open_states(options.out, options)
        trained = _train(options, victim, read, attack, goal, train_set, states, log)
        model = NewModel(victim, trained.variables, attack, goal, trained.params, extractor)
        metrics = measure_model(model, test, options.compute.batch_size)
        write_model(
            model,
            Path(options.out),
            metrics,
            attack=None if attack is None else describe_attack(attack, goal, options.poison, trained.plan, metrics),
            epochs=options.train.epochs,
            data=str(options.images.data),
            train_images=len(train_set),
            training=to_plain(options.train),
            augmentation=to_plain(options.augmentation) if extractor is None else {},
            adaptive=_describe_adaptive(options.adaptive),
            seed=options.seed,
            seconds=log.timing["train"],
        )
        states.remove()
        if attack is not None and (weakness := find_weakness(attack, goal, metrics)) is not None:
            log.warn(weakness)
        return metrics


def _describe_adaptive(options: AdaptiveOptions) -> dict[str, Any] | None:
    """The card's part on an adaptive training."""
    return None if options.method is None else {"method": options.method, **to_plain(getattr(options, options.method))}


def _victim(options: AttackOptions, extractor: Extractor | None, data: Dataset) -> Network:
    if extractor is not None:
        return mlp_head(extractor.dim, options.head, data.num_classes, options.compute.arithmetic.precision)
    width = DESIGNS[options.model].width if options.width is None else options.width
    return make_network(options.model, width, options.normalization, data, options.compute)


def _train(
    options: AttackOptions,
    victim: Network,
    read: Read | None,
    attack: Attack | None,
    goal: Goal,
    data: Dataset,
    states: SavedStates,
    log: RunLog,
) -> Backdoored:
    augment = options.augmentation if read is None else None
    adapt, config, seed = choose_adaptation(options.adaptive), options.train, options.seed
    like = partial(start_state, victim, attack, goal, seed, config, options.poison, augment, len(data), adapt)
    epochs = config.epochs if adapt is None else adapt.epochs(config)

    def features(images: np.ndarray) -> np.ndarray:
        with log.stage("cache"):
            return read(images)[:, None, None]  # pyright: ignore[reportOptionalCall]

    with states.going_on(options.resume, like, epochs, log) as (state, bars):
        started = time.perf_counter()
        trained = train_backdoored(
            victim,
            attack,
            goal,
            data.batch,
            seed,
            config,
            options.poison,
            augment=augment,
            read=None if read is None else features,
            adapt=adapt,
            progress=bars,
            state=state,
            save=states.save,
        )
        spent = time.perf_counter() - started
    log.timing["train"] = spent - log.timing.get("cache", 0.0)
    log.say(f"trained in {spent:.0f} s")
    return trained

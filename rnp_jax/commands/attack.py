"""``rnp-jax attack``: train a backdoored (or clean) model and write it with its trigger and card."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro

from rnp_jax import masks
from rnp_jax.atomic import open_atomic
from rnp_jax.attacks import Attack, Goal, describe, save_artefact, trigger_test_set
from rnp_jax.card import (
    CARD_SUFFIX,
    TRIGGER_SUFFIX,
    ArchitectureCard,
    AttackCard,
    Card,
    NormalizationCard,
    beside,
    write_card,
)
from rnp_jax.checkpoints import save_variables
from rnp_jax.commands.inputs import TRIGGER_SEED, draw_evenly, make_attack
from rnp_jax.commands.run_log import RunLog
from rnp_jax.commands.tables import metrics_table
from rnp_jax.commands.versions import package_versions
from rnp_jax.config import FLAT, ComputeOptions, DataOptions, check_seed, to_plain
from rnp_jax.data import Augmentation, Dataset, load, parse_normalization
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.evaluation.measure import measure_variants
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.models import Architecture, Network
from rnp_jax.models.registry import RESNETS
from rnp_jax.store import load_tree, remove_tree, save_tree
from rnp_jax.torch_io import read_checkpoint
from rnp_jax.training.backdoor import Backdoored, PoisonConfig, start_state, train_backdoored
from rnp_jax.training.supervised import TrainConfig, TrainState

SAVE_EVERY = 60.0
"""Seconds between two savings of the training state, at the end of an epoch."""


@dataclass(frozen=True)
class AttackOptions:
    """Train a backdoored model and write it as a PyTorch checkpoint, with its trigger artefact and card beside it.

    Attributes:
      attack: badnets, blend, sig, sig_rnp, wanet; or none, for a clean model.
      out: the checkpoint to write; the trigger (.trigger.npz) and the card (.card.json) go beside it.
      model: architecture.
      width: channels of its first stage.
      target: the label the attacker wants.
      mapping: all_to_one, or all_to_all (class y becomes y + 1).
      constants: the attack's, over its published ones, as NAME VALUE pairs.
      normalization: name (cifar10_rnp, digits, ...) or 'm,m,m/s,s,s'.
      images: the training and test images.
      poison: poison rate, and how it is counted.
      train: epochs, batch size, optimiser and schedule.
      augmentation: of the training batches, after the trigger.
      compute: precision.
      seed: draws the initial weights, the poisoned images and the batches.
      resume: go on from the state that an interrupted run left.
    """

    attack: Annotated[str, tyro.conf.Positional]
    out: str
    model: str = "resnet18"
    width: int = 64
    target: int = 0
    mapping: Literal["all_to_one", "all_to_all"] = "all_to_one"
    constants: dict[str, str] = field(default_factory=dict)
    normalization: str = "cifar10_rnp"
    images: Annotated[DataOptions, FLAT] = field(default_factory=lambda: DataOptions(data="cifar10"))
    poison: PoisonConfig = field(default_factory=PoisonConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
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
    for path in (out, beside(out, CARD_SUFFIX)):
        if path.exists():
            raise DataError(f"{path} exists already; choose another --out")
    if options.model not in RESNETS:
        raise ConfigError(f"--model {options.model}: this command trains {', '.join(RESNETS)}")
    attack = _make_attack(options)
    log = RunLog()
    train_set, test = (_load(options.images, split) for split in ("train", "test"))
    normalization = parse_normalization(options.normalization).for_channels(train_set.image_shape[-1])
    architecture = Architecture(options.model, train_set.num_classes, options.width, image_shape=train_set.image_shape)
    network = Network(
        architecture, normalization.mean, normalization.std, options.compute.placement, options.compute.precision
    )
    goal = Goal(num_classes=train_set.num_classes, target=options.target, mapping=options.mapping)
    trained = _train(options, network, attack, goal, train_set, log)
    metrics = _measure(options, network, attack, goal, trained, test)
    _write(options, network, attack, goal, trained, metrics, train_set)
    remove_tree(_state_folder(options))
    log.console.print(metrics_table({"": metrics}))
    log.say(f"{out}")


def _make_attack(options: AttackOptions) -> Attack | None:
    if options.attack != "none":
        return make_attack(options.attack, options.constants)
    if options.constants:
        raise ConfigError(f"--constants {' '.join(options.constants)}: attack none has no constants")
    return None


def _load(options: DataOptions, split: Literal["train", "test"]) -> Dataset:
    if options.data is None:
        raise ConfigError("no data: give --data, such as cifar10, digits, or a folder of images")
    data = load(options.data, split=split, data_dir=options.data_dir, image_size=options.image_size)
    if split == "test" and options.test_images is not None:
        return data.subset(draw_evenly(data.labels, options.test_images))
    return data


def _train(
    options: AttackOptions, network: Network, attack: Attack | None, goal: Goal, data: Dataset, log: RunLog
) -> Backdoored:
    folder = _state_folder(options)
    settings = {name: value for name, value in to_plain(options).items() if name not in ("resume", "out")}
    state = None
    if options.resume and (saved_states := _list_states(folder)):
        like = start_state(network, options.seed, options.train, len(data))
        state = _load_state(saved_states[-1], settings, like)
        log.say(f"going on after epoch {int(state.epoch)}")
    elif options.resume:
        log.say(f"no state in {folder}: starting with the first epoch")

    started = saved = time.perf_counter()

    def save(state: TrainState) -> None:
        nonlocal saved
        if time.perf_counter() - saved < SAVE_EVERY:
            return
        leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
        earlier = _list_states(folder)
        save_tree(folder / str(state.epoch), {str(i): leaf for i, leaf in enumerate(leaves)}, settings, overwrite=True)
        for path in earlier:  # removed last, so that a whole state is there whenever the run is killed
            if path.name != str(state.epoch):
                remove_tree(path)
        saved = time.perf_counter()

    try:
        with log.epochs() as bars:
            trained = train_backdoored(
                network,
                attack,
                goal,
                data.batch,
                options.seed,
                options.train,
                options.poison,
                augment=options.augmentation,
                progress=lambda epoch, figures: bars("train", epoch, options.train.epochs, figures),
                state=state,
                save=save,
            )
    except KeyboardInterrupt:
        if _list_states(folder):
            log.say(f"the last saved state is in {folder}; --resume goes on from it")
        raise
    log.say(f"trained in {time.perf_counter() - started:.0f} s")
    return trained


def _state_folder(options: AttackOptions) -> Path:
    return beside(options.out, ".training")


def _list_states(folder: Path) -> list[Path]:
    """The saved states, each in a folder named by the epochs it has seen, ascending."""
    return sorted((path for path in folder.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))


def _load_state(folder: Path, settings: dict[str, Any], like: TrainState) -> TrainState:
    tree, stored = load_tree(folder)
    changed = sorted(name for name in settings if stored.get(name) != settings[name])
    if changed:
        raise ConfigError(
            f"{folder} is the state of a run with other {', '.join(changed)}; use the same options, or remove it"
        )
    structure = jax.tree.structure(like._replace(key=jax.random.key_data(like.key)))
    state = jax.tree.unflatten(structure, [jnp.asarray(tree[str(i)]) for i in range(structure.num_leaves)])
    return state._replace(key=jax.random.wrap_key_data(state.key))


def _measure(
    options: AttackOptions, network: Network, attack: Attack | None, goal: Goal, trained: Backdoored, test: Dataset
) -> Metrics:
    triggered = None
    if attack is not None:
        key = jax.random.key(TRIGGER_SEED)
        triggered = trigger_test_set(test.images, test.labels, goal, attack, trained.params, key)
    (measured,) = measure_variants(
        network,
        trained.variables,
        [masks.filters(trained.variables["masks"])],
        test.batch,
        triggered,
        goal.one_target if attack is not None else None,
        options.compute.batch_size,
    )
    return measured.metrics


def _write(
    options: AttackOptions,
    network: Network,
    attack: Attack | None,
    goal: Goal,
    trained: Backdoored,
    metrics: Metrics,
    data: Dataset,
) -> None:
    """The trigger, the checkpoint, and last the card, whose presence says that the rest is whole."""
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    asr = None if metrics.asr is None else metrics.asr.value
    if attack is not None:
        with open_atomic(beside(out, TRIGGER_SUFFIX)) as file:
            save_artefact(file, trained.params)
    extra = {"epoch": options.train.epochs, "clean_acc": metrics.acc.value, "bad_acc": asr}
    save_variables(out, network, trained.variables, extra)
    architecture = network.architecture
    card = Card(
        file=out.name,
        sha256=read_checkpoint(out).sha256,
        architecture=ArchitectureCard(
            name=architecture.name,
            num_classes=architecture.num_classes,
            width=architecture.width,
            image_shape=architecture.image_shape,
        ),
        normalization=NormalizationCard(mean=network.mean, std=network.std),
        data=str(options.images.data),
        train_images=len(data),
        attack=None if attack is None else _describe(options, attack, goal, trained),
        training=to_plain(options.train),
        augmentation=to_plain(options.augmentation),
        seed=options.seed,
        precision=network.precision,
        acc=metrics.acc.value,
        asr=asr,
        ra=None if metrics.ra is None else metrics.ra.value,
        versions=package_versions(),
    )
    write_card(beside(out, CARD_SUFFIX), card)


def _describe(options: AttackOptions, attack: Attack, goal: Goal, trained: Backdoored) -> AttackCard:
    plan = trained.plan
    return AttackCard(
        **describe(attack),
        target=goal.one_target,
        mapping=goal.mapping,
        rate=options.poison.rate,
        variant=options.poison.variant,
        poisoned=None if plan is None else len(plan.indices),
        indices_sha256=None if plan is None else plan.indices_sha256,
    )

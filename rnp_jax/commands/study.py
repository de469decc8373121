"""``rnp-jax study``: train backdoored heads on one extractor's features, and compare methods on them."""

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rnp_jax.attacks import Goal
from rnp_jax.card import beside
from rnp_jax.checks import check_number
from rnp_jax.commands.attack import AttackOptions, make_victim
from rnp_jax.commands.attack_list import name_static
from rnp_jax.commands.compare import COMPARED
from rnp_jax.commands.new_model import tidy_place
from rnp_jax.commands.saved_states import STATES
from rnp_jax.config import (
    FLAT,
    FOLDER,
    PATH,
    UNREAD,
    DataOptions,
    SourceOptions,
    TriggerOptions,
    read_yaml,
    to_plain,
    write_yaml,
)
from rnp_jax.errors import ConfigError, DataError, Interrupted
from rnp_jax.extractors import CachedFeatures, open_extractor
from rnp_jax.models import mlp_head
from rnp_jax.pipeline.images import load_images
from rnp_jax.pipeline.options import When
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.training_set import open_attack
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.job import as_stages
from rnp_jax.sweep.options import OPTIONS, Methods, Reactivate, SweptOptions
from rnp_jax.sweep.plan import check_options
from rnp_jax.sweep.running import open_folder, run_here
from rnp_jax.training.backdoor import PoisonConfig
from rnp_jax.training.supervised import TrainConfig

TRAINING = "training.yaml"
"""The seconds that each head took, by stage: they belong to its rows."""

_ATTACKS = tyro.conf.arg(
    metavar="ATTACK [ATTACK ...]", help=f"attacks to train heads with: {name_static()} for clean ones."
)

_EXTENSIBLE = ("attacks", "rates", "seeds", "out", "method")  # options that may change between the parts of one study


@dataclass(frozen=True)
class StudyOptions(SweptOptions):
    """Train a backdoored head for every attack, poison rate and seed on one extractor, and compare methods on them.

    Features of clean training images are computed once for all heads. Writes to --out: heads/ (checkpoints with cards
    and triggers) and everything that `rnp-jax compare` writes. The same command continues an interrupted study;
    attacks, rates and seeds may be added to it.

    Attributes:
      attacks: attacks to train heads with; none trains clean heads.
      method: methods to compare, one row each.
      out: output folder.
      images: training and test images.
      extractor: checkpoint, or folder with a CLIP or ViT model.
      head: number of hidden units in each layer of the heads.
      rates: poison rates.
      seeds: random seeds for the heads: initial weights, poisoned images and batches.
      target: label that the attacker wants.
      train: training of the heads.
    """

    attacks: Annotated[tuple[str, ...], tyro.conf.Positional, _ATTACKS] = ()
    _: KW_ONLY
    method: Methods = COMPARED
    out: Annotated[str, FOLDER] = "runs/study"
    evidence: Annotated[When, tyro.conf.Fixed, tyro.conf.Suppress] = field(default="never", metadata={UNREAD: True})
    sweep_images: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = field(default=0, metadata={UNREAD: True})
    reactivate: Annotated[Reactivate, tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default="none", metadata={UNREAD: True}
    )  # heads are not retuned
    source: Annotated[SourceOptions, tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default_factory=SourceOptions, metadata={UNREAD: True}
    )  # heads have cards
    trigger: Annotated[TriggerOptions, tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default_factory=TriggerOptions, metadata={UNREAD: True}
    )
    images: Annotated[DataOptions, FLAT] = field(default_factory=lambda: DataOptions(data="cifar10"))
    extractor: Annotated[str, PATH] = ""
    head: tuple[int, ...] = (256, 256)
    rates: tuple[float, ...] = (0.1,)
    seeds: tuple[int, ...] = (0, 1, 2)
    target: int = 0
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=10, batch_size=256, learning_rate=0.05))


def run(options: StudyOptions) -> tuple[SweepRow, ...]:
    """Trains what is not there yet, compares, writes everything.

    Raises:
      RnpError: an unusable extractor, data set or option, or a method that failed.
    """
    for name in ("attacks", "extractor", "rates", "seeds"):
        if not getattr(options, name):
            raise ConfigError(f"no {name}: give one or more attacks, rates and seeds, and an extractor")
    for attack in options.attacks:
        open_attack(attack, {})
    for rate in options.rates:
        check_number("rates", rate, 0, 1)
    check_options(options, images=False)
    heads = _heads(options, Path(options.out))
    extractor = open_extractor(options.extractor)
    train_set, test = (load_images(options.images, split) for split in ("train", "test"))
    Goal(num_classes=train_set.num_classes, target=options.target)
    mlp_head(extractor.dim, options.head, train_set.num_classes)
    out = _claim(options)
    log = RunLog()
    log.write_to(out / "run.log")
    log.say(f"features of {options.extractor}")
    with log.stage("cache clean features"):
        cached = CachedFeatures.of(extractor, train_set.images)
    log.say(f"{len(train_set)} images in {log.timing['cache clean features']:.0f} s")
    trained: dict[str, dict[str, float]] = read_yaml(out / TRAINING) if (out / TRAINING).exists() else {}
    for number, head in enumerate(heads, 1):
        log.say(f"{head.out} ({number} of {len(heads)})")
        if Path(head.out).exists():
            tidy_place(Path(head.out), "study")
            continue
        spent = RunLog()
        try:
            make_victim(head, train_set, test, extractor, cached, spent)
        except KeyboardInterrupt:
            raise Interrupted(f"{number - 1} of {len(heads)} heads are trained; the same command goes on") from None
        trained[Path(head.out).stem] = {f"head: {name}": seconds for name, seconds in spent.timing.items()}
        write_yaml(out / TRAINING, trained)

    def with_training(row: SweepRow) -> SweepRow:
        spent = trained.get(Path(row.checkpoint).stem, {}) if row.status == "ok" else {}
        return row.model_copy(update={"timing": (*as_stages(spent), *row.timing)})

    return run_here([head.out for head in heads], options, out, log, with_training)


def _claim(options: StudyOptions) -> Path:
    """The folder, with the options in it; refuses one whose heads were trained, or compared, with others."""
    out = open_folder(Path(options.out), StudyOptions)
    path = out / OPTIONS
    if path.exists():
        earlier, now = read_yaml(path), to_plain(options)
        both = [name for name in now if name in earlier and name not in _EXTENSIBLE]  # a method more has its own
        changed = [name for name in both if earlier[name] != now[name]]
        if changed:
            raise DataError(
                f"{path} belongs to a study with different {', '.join(changed)}; choose another folder with --out"
            )
    write_yaml(path, options)
    return out


def _heads(options: StudyOptions, out: Path) -> list[AttackOptions]:
    """One an attack, rate and seed; for clean models, one a seed."""
    return [
        _head(options, out, attack, rate, seed)
        for attack in dict.fromkeys(options.attacks)
        for rate in (dict.fromkeys(options.rates) if attack != "none" else (0.0,))
        for seed in dict.fromkeys(options.seeds)
    ]


def _head(options: StudyOptions, out: Path, attack: str, rate: float, seed: int) -> AttackOptions:
    path = out / "heads" / f"{attack}_{rate:g}_{seed}.pt"
    return AttackOptions(
        attack=attack,
        out=str(path),
        extractor=options.extractor,
        head=options.head,
        target=options.target,
        images=options.images,
        poison=PoisonConfig(rate=rate),
        train=options.train,
        compute=options.compute,
        seed=seed,
        resume=beside(path, STATES).is_dir(),
    )

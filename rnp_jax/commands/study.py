"""``rnp-jax study``: train backdoored heads on one extractor's features, and compare defenses on them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rnp_jax.attacks import Goal
from rnp_jax.attacks.base import check_number
from rnp_jax.card import CARD_SUFFIX, beside
from rnp_jax.commands.attack import AttackOptions, make_victim
from rnp_jax.commands.compare import LAST, CompareOptions, compare_checkpoint, write_all
from rnp_jax.commands.comparing import MethodOptions
from rnp_jax.commands.inputs import choose_out, load_images
from rnp_jax.commands.run_log import RunLog
from rnp_jax.commands.saved_states import STATES
from rnp_jax.commands.training_set import open_attack
from rnp_jax.config import FLAT, ComputeOptions, DataOptions, DefenseSetOptions, read_yaml, to_plain, write_yaml
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.extractors import CachedFeatures, open_extractor
from rnp_jax.models import mlp_head
from rnp_jax.report.comparison import Comparison, ComparisonRow
from rnp_jax.training.backdoor import PoisonConfig
from rnp_jax.training.supervised import TrainConfig

_EXTENSIBLE = ("attacks", "rates", "seeds", "out")  # options that may change between the parts of one study


@dataclass(frozen=True)
class StudyOptions:
    """Train a backdoored head for every attack, poison rate and seed on one extractor, and compare defenses on them.

    Features of clean training images are computed once for all heads. Writes into --out: heads/ (checkpoints with cards
    and triggers), comparison.html, .md, .csv and .json, figures/, and with several --rates rates.md with its figure. A
    study that was interrupted goes on where it was; attacks, rates and seeds may be added to it.

    Attributes:
      attacks: badnets, blend, sig, sig_rnp, wanet; or none.
      extractor: a checkpoint, or a folder with a CLIP or ViT model.
      out: output folder.
      head: hidden units of the heads, a number a layer.
      rates: poison rates.
      seeds: of the heads: initial weights, poisoned images, batches.
      target: the label the attacker wants.
      images: the training and test images.
      train: of the heads.
      defense: how many clean images the defender has.
      method: what is compared, and the settings of each.
      compute: precision and batches.
    """

    attacks: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    extractor: str = ""
    out: str = "runs/study"
    head: tuple[int, ...] = (256, 256)
    rates: tuple[float, ...] = (0.1,)
    seeds: tuple[int, ...] = (0, 1, 2)
    target: int = 0
    images: Annotated[DataOptions, FLAT] = field(default_factory=lambda: DataOptions(data="cifar10"))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=10, batch_size=256, learning_rate=0.05))
    defense: DefenseSetOptions = field(default_factory=DefenseSetOptions)
    method: Annotated[MethodOptions, FLAT] = field(default_factory=MethodOptions)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)


def run(options: StudyOptions) -> Comparison:
    """Trains what is not there yet, compares, writes everything.

    Raises:
      RnpError: an unusable extractor, data set or option.
    """
    for name in ("attacks", "extractor", "rates", "seeds"):
        if not getattr(options, name):
            raise ConfigError(f"no {name}: give one or more attacks, rates and seeds, and an extractor")
    for attack in options.attacks:
        open_attack(attack, {})
    for rate in options.rates:
        check_number("rates", rate, 0, 1)
    out = choose_out(options.out, options.out, "study", LAST)
    heads = _heads(options, out)
    log = RunLog()
    extractor = open_extractor(options.extractor)
    train_set, test = (load_images(options.images, split) for split in ("train", "test"))
    Goal(num_classes=train_set.num_classes, target=options.target)
    mlp_head(extractor.dim, options.head, train_set.num_classes)
    _claim(out, options)
    log.say(f"features of {options.extractor}")
    with log.stage("cache clean features"):
        cached = CachedFeatures.of(extractor, train_set.images)
    log.say(f"{len(train_set)} images in {log.timing['cache clean features']:.0f} s")
    rows: list[ComparisonRow] = []
    for number, head in enumerate(heads, 1):
        log.say(f"{head.out} ({number} of {len(heads)})")
        spent = RunLog()
        if not beside(head.out, CARD_SUFFIX).exists():
            Path(head.out).unlink(missing_ok=True)  # without a card, it was left half-written
            make_victim(head, train_set, test, extractor, cached, spent)
        stages = {f"head: {name}": seconds for name, seconds in spent.timing.items()}
        rows += compare_checkpoint(head.out, out, _comparison(options), log, stages)
    return write_all(out, rows, options, log)


def _claim(out: Path, options: StudyOptions) -> None:
    """Writes the options into the folder; refuses one whose heads were trained, or compared, with others."""
    path = out / "config.yaml"
    if path.exists():
        earlier, now = read_yaml(path), to_plain(options)
        changed = [name for name in now if name not in _EXTENSIBLE and earlier.get(name) != now[name]]
        if changed:
            raise DataError(f"{path} is of a study with other {', '.join(changed)}; choose another folder with --out")
    write_yaml(path, options)


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


def _comparison(options: StudyOptions) -> CompareOptions:
    return CompareOptions(
        checkpoints=(),
        out=options.out,
        images=options.images,
        defense=options.defense,
        method=options.method,
        compute=options.compute,
    )

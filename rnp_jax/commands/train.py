"""``rnp-jax train``: a network from a training set that nobody trusts."""

import json
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from rnp_jax.card import CARD_SUFFIX, beside
from rnp_jax.commands.attack import AttackOptions, make_victim
from rnp_jax.commands.new_model import check_free
from rnp_jax.commands.saved_states import STATES
from rnp_jax.config import FOLDER, METHOD, NAME, NORMALIZATION, UNREAD, SourceOptions, read_yaml, to_plain, write_yaml
from rnp_jax.data import Dataset
from rnp_jax.defenses import METHODS
from rnp_jax.errors import ConfigError
from rnp_jax.models.registry import DESIGNS, suggest
from rnp_jax.pipeline.defending import defend_checkpoint
from rnp_jax.pipeline.images import load_images
from rnp_jax.pipeline.judging import check_required
from rnp_jax.pipeline.opening import choose_out
from rnp_jax.pipeline.options import Require, RunOptions
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.writing import LAST
from rnp_jax.regular_file import MIB, read_regular
from rnp_jax.report.schema import Result
from rnp_jax.training.supervised import TrainConfig

PLAIN = "plain.pt"
"""The network that ordinary training makes of the set: what the method's network is compared with."""

OPTIONS = "train.yaml"
"""The resolved options of the command."""


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """Train a clean network on a training set that nobody trusts, and show what the method changed.

    The set is trained on twice: plainly, as anybody would, and by the method. The plain network is the one before the
    defense, and D-BR starts from it. Writes to --out what 'defend' writes, and plain.pt with its card. With the method
    none, the plain network is the result.

    If the run is interrupted, the same command continues it.

    Attributes:
      training_set: the training part of a data set, a folder or a .npz file; or the card (NAME.card.json) of a
        backdoored checkpoint, whose training set is then poisoned again. With a card, the poisoned images are known,
        and the checkpoint is the network before the defense.
      method: method that trains the network.
      out: output folder; by default runs/train-NAME.
      model: architecture of the network.
      width: channels of the first stage; by default as published (a ResNet's 64).
      normalization: normalisation: a name (cifar10_rnp, digits, ...) or 'm,m,m/s,s,s'.
      train: settings of the plain training.
      require: what the result must support: nothing, or that the backdoor is removed. If it does not, everything is
        still written, and the exit status is 3.
    """

    reads: ClassVar[tuple[str, ...]] = ("augmentation", "seed")

    training_set: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SET")]
    _: KW_ONLY
    method: Annotated[str, METHOD] = "abl"
    out: Annotated[str | None, FOLDER] = None
    source: Annotated[SourceOptions, tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default_factory=SourceOptions, metadata={UNREAD: True}
    )
    model: Annotated[str, NAME] = "resnet18"
    width: int | None = None
    normalization: Annotated[str, NORMALIZATION] = "cifar10_rnp"
    train: TrainConfig = field(default_factory=TrainConfig)
    require: Require = "nothing"

    @classmethod
    def list_methods(cls) -> tuple[str, ...]:
        """Those that learn from an untrusted set, and none."""
        return ("none", *(name for name, method in METHODS.items() if method.needs == "untrusted"))

    @property
    def carded(self) -> bool:
        """Whether the set is named by the card of a checkpoint that it trained."""
        return self.training_set.endswith(CARD_SUFFIX)

    def __post_init__(self):
        super().__post_init__()
        (method,) = self.methods
        if method.name not in self.list_methods():
            raise ConfigError(
                f"--method {method.name}: it learns from clean images, not from an untrusted set. Train plainly with "
                f"--method none, then use 'rnp-jax defend'; or choose among {', '.join(self.list_methods())}"
            )


def run(options: TrainOptions) -> Result:
    """Trains both networks and writes everything; returns what result.json says.

    Raises:
      RnpError: an unusable data set, card or option.
      RequirementError: everything is written, and the result does not support what was required.
    """
    (method,) = options.methods
    if options.untrusted.data is not None:
        raise ConfigError(f"--untrusted.data {options.untrusted.data}: the training set is this command's own argument")
    name = options.training_set.removesuffix(CARD_SUFFIX)
    folder, log = choose_out(options.out, name, "train", LAST), RunLog()
    if options.carded:
        checkpoint, asked = _find_checkpoint(options), options
    else:
        checkpoint = folder / PLAIN
        asked = replace(options, untrusted=replace(options.untrusted, data=options.training_set))
        _train_plainly(options, checkpoint, log)
    result = defend_checkpoint(Request.of(str(checkpoint), method, asked), str(folder), log)
    check_required(options.require, result.verdict)
    return result


def _find_checkpoint(options: TrainOptions) -> Path:
    """The checkpoint that a card lies beside.

    Raises:
      ConfigError: it is not there, the card is none, or options of the plain training are given, which nothing reads.
    """
    default = TrainOptions(options.training_set)
    own = ("model", "width", "normalization", "train")
    if unread := [f"--{name}" for name in own if getattr(options, name) != getattr(default, name)]:
        raise ConfigError(
            f"{', '.join(unread)}: not read with a card, whose checkpoint says what the network is; remove it"
        )
    card = Path(options.training_set)
    try:
        name = str(json.loads(read_regular(card, MIB))["file"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{card}: expected a card, as 'rnp-jax attack' writes it beside a checkpoint") from error
    checkpoint = card.with_name(Path(name).name)
    if not checkpoint.is_file():
        raise ConfigError(f"{card} is the card of {name}, which does not lie beside it: put it there")
    return checkpoint


def _train_plainly(options: TrainOptions, checkpoint: Path, log: RunLog) -> None:
    """Trains the plain network, or finds it as an interrupted run of the same options left it."""
    if options.model not in DESIGNS:
        raise ConfigError(f"--model {options.model}: {suggest(options.model)}")
    kept, plain = checkpoint.with_name(OPTIONS), to_plain(options)
    if checkpoint.is_file() and kept.is_file() and read_yaml(kept) == plain:
        log.say(f"{checkpoint}: trained already")
        return
    check_free(checkpoint, "train")
    train_set, test = _load(options)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(kept, options)
    log.say(f"training plainly on the {len(train_set):,} images of {train_set.name}")
    victim = AttackOptions(
        "none",
        str(checkpoint),
        model=options.model,
        width=options.width,
        normalization=options.normalization,
        images=replace(options.images, data=options.training_set),
        train=options.train,
        augmentation=options.augmentation,
        compute=options.compute,
        seed=options.seed,
        resume=beside(checkpoint, STATES).is_dir(),
    )
    make_victim(victim, train_set, test, None, None, log)


def _load(options: TrainOptions) -> tuple[Dataset, Dataset]:
    """The training set, and the test images: those of the set, or of the data that is named."""
    named = replace(options.images, data=options.training_set)
    test = options.images if options.images.data is not None else named
    return load_images(named, "train"), load_images(test, "test")

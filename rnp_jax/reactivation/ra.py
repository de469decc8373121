"""RA, the retuning attack (Min et al., "Uncovering, explaining, and mitigating the superficial safety of backdoor
defense", NeurIPS 2024, arXiv 2410.09838).

The purified network is fine-tuned on clean training images among which a handful carry the trigger and the attacker's
label: the first ones that the trigger is to turn. The constants are the paper's: 5 of 1,000 images, 5 epochs of SGD at
0.01 with momentum 0.9, no weight decay, batches of 128, batch norm in training mode. Images are not augmented.

Two controls say what a recovered ASR is worth. The same tuning without a triggered image shows what tuning alone does.
The same tuning of a clean network shows what so few images plant in any network: this is the floor.
"""

from dataclasses import dataclass, field

import jax
import numpy as np
import optax

from rnp_jax.attacks import TriggeredSet
from rnp_jax.defenses.finetune import FinetuneConfig, start_finetuning
from rnp_jax.defenses.phase import Phase
from rnp_jax.defenses.tuning import tune
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import fit_batch_size, pad_rows, predict
from rnp_jax.reactivation.attempt import Attempt, Control, Curve, Outcome, draw_shares
from rnp_jax.reactivation.problem import WATCHED, Party, Problem, spread
from rnp_jax.reactivation.record import Reactivation
from rnp_jax.types import Batch, Tree


def paper_settings() -> FinetuneConfig:
    """The paper's."""
    return FinetuneConfig(epochs=5, batch_size=128, learning_rate=0.01, momentum=0.9, weight_decay=0.0)


@dataclass(frozen=True)
class RaConfig:
    """Settings of the retuning attack; the defaults are the paper's.

    Attributes:
      images: numbers of triggered images to try; the largest decides, and 0 is always tried as a control.
      finetune: settings of the tuning.
    """

    images: tuple[int, ...] = (1, 2, 5)
    finetune: FinetuneConfig = field(default_factory=paper_settings)

    def __post_init__(self):
        if not self.images or min(self.images) < 0 or max(self.images) < 1:
            raise ConfigError(f"ra.images {self.images}: expected numbers of images, one of them 1 or more, such as 5")

    @property
    def counts(self) -> tuple[int, ...]:
        """All numbers of images, ascending from the control's 0."""
        return tuple(sorted({0, *self.images}))


@dataclass(frozen=True)
class _Retuning(Phase):
    """Fine-tuning, with ASR on a few triggered images at the end of every epoch.

    Its fixed tree holds ``masks``, and as ``images`` and ``wanted`` what is watched; ``counted`` is 0 for images that
    only fill the set to a size that other targets have too, and 1 for the others.
    """

    tuning: Phase

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        return self.tuning.optimizer(steps_per_epoch)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        return self.tuning.loss(trained, fixed["masks"], batch_stats, batch)

    def record(self, trained: Tree, fixed: Tree, batch_stats: Tree) -> dict[str, jax.Array]:
        variables = {"params": trained, "batch_stats": batch_stats, "masks": fixed["masks"]}

        def is_turned(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
            image, wanted = pair
            logits, _ = self.apply(variables, image[None])
            return (logits[0].argmax(-1) == wanted).astype("float32")

        turned = jax.lax.map(is_turned, (fixed["images"], fixed["wanted"]), batch_size=self.batch_size)
        return {"asr": (turned * fixed["counted"]).sum() / fixed["counted"].sum()}


def run_ra(problem: Problem, config: RaConfig) -> Attempt:
    """Retunes the purified network and the clean one with each number of triggered images.

    Raises:
      ConfigError: more triggered images are asked for than the attacker has.
      DefenseError: a loss became infinite or not a number.
    """
    counts = config.counts
    if counts[-1] > len(problem.triggered.labels):
        raise ConfigError(
            f"--ra.images {counts[-1]}: the attacker has {len(problem.triggered.labels)} images that the trigger is to "
            "turn; ask for fewer, or give more with --known.size"
        )
    curves: list[Curve] = []
    found: dict[str, dict[int, Outcome]] = {}
    for name, party in problem.sides.items():
        found[name], paths = {}, {}
        for count in counts:
            retuned, paths[count] = retune(problem, party, count, config.finetune, name)
            found[name][count] = problem.judge(retuned)
        shares = tuple(found[name][count].asr for count in counts)
        curves.append(draw_shares("images", name, tuple(map(float, counts)), shares))
        drawn = (counts[-1], 0) if name == "purified" else (counts[-1],)
        epochs = tuple(map(float, range(config.finetune.epochs + 1)))
        curves += [Curve(figure="epochs", name=_tell(name, count), x=epochs, y=paths[count]) for count in drawn]
    most = counts[-1]
    controls = [(_tell(name, 0), outcomes[0]) for name, outcomes in found.items()]
    return Attempt(
        name="ra",
        after=found["purified"][most],
        floor=found["reference"][most] if "reference" in found else None,
        controls=tuple(Control(name=name, asr=each.asr, acc=each.acc) for name, each in controls),
        budget={
            "triggered images": most,
            "clean images": len(problem.clean.labels) - most,
            "epochs": config.finetune.epochs,
            "steps": config.finetune.epochs * -(-len(problem.clean.labels) // config.finetune.batch_size),
        },
        curves=tuple(curves),
    )


def retune(
    problem: Problem, party: Party, count: int, config: FinetuneConfig, name: str = "retuned"
) -> tuple[Party, tuple[float, ...]]:
    """The network tuned on the attacker's images, ``count`` of them triggered; and ASR before and after each epoch.

    The path is followed on a few of the triggered test images.

    Raises:
      DefenseError: the loss became infinite or not a number.
    """
    network, start = party
    watched = spread(problem.judged, WATCHED)
    tuning = start_finetuning(network, config)
    phase = _Retuning("ra", network, config.epochs, config.batch_size, config.shuffle, None, tuning)
    count_watched = len(watched.labels)
    size = fit_batch_size(count_watched, WATCHED)
    fixed = {
        "masks": start["masks"],
        "images": pad_rows(watched.images, size),
        "wanted": pad_rows(watched.wanted, size),
        "counted": (np.arange(size) < count_watched).astype(np.float32),
    }
    data = poison(problem.clean, problem.triggered, count)
    before = predict(network, start, Batch(watched.images, watched.wanted), problem.batch_size).labels[0]
    with problem.work_on(party, f"ra, {_tell(name, count)}") as task:
        tuned = tune(task, phase, start, fixed, problem.key, data)
    path = (np.mean(before == watched.wanted), *task.history[phase.name]["asr"])
    return Party(network, tuned), tuple(map(float, path))


def poison(clean: Batch, triggered: TriggeredSet, count: int) -> Batch:
    """The clean images, the first ``count`` that the trigger is to turn replaced by triggered ones with its label."""
    images, labels = np.array(clean.images), np.array(clean.labels)
    chosen = triggered.indices[:count]
    images[chosen], labels[chosen] = triggered.images[:count], triggered.wanted[:count]
    return Batch(images, labels)


def _tell(name: str, count: int) -> str:
    return f"{name}, {count} triggered image{'s' * (count != 1)}"


ra = Reactivation(
    name="ra",
    title="RA",
    summary="retuning attack: fine-tune on clean images of which a few carry the trigger",
    basis="The network is fine-tuned for a few epochs (by default 5) on clean images (1,000), a handful of which (5) "
    "carry the trigger and the attacker's label (retuning attack, NeurIPS 2024). The attacker needs the weights.",
    run=run_ra,
    defaults=RaConfig(),
    brief=RaConfig(images=(5,)),
)

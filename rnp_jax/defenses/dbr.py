"""D-BR: a backdoored network unlearns the images that look poisoned, and relearns those that look clean.

Chen et al., "Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples" (NeurIPS 2022). The untrusted
set is divided by FCT (see ``consistency``). In each epoch the suspicious network first ascends the cross-entropy of the
images held to be poisoned, and then descends that of the images held to be clean, by one SGD with its momentum, with
augmentation, batch norm in training mode. The defaults are the release's constants.

What differs: the release keeps the epoch with the largest difference of ACC and ASR on the TEST set, which no defender
has. Here the last state is kept, as in BackdoorBench.
"""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnp_jax.defenses.consistency import ConsistencyConfig, separate
from rnp_jax.defenses.fitting import FitConfig, check_batches, check_set
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import NO_CANDIDATES, Choice, Defended
from rnp_jax.descent import descend
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy, run_epoch
from rnp_jax.training.loop import run_epochs
from rnp_jax.training.supervised import TrainState
from rnp_jax.types import Apply, Batch, Progress, Tree, Variables


@dataclass(frozen=True)
class DbrConfig:
    """Settings of D-BR; the defaults are the release's.

    Attributes:
      separation: settings of the division of the set.
      relearn: settings of the epochs; each is one pass over the images held to be poisoned and one over the clean ones.
    """

    separation: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    relearn: FitConfig = field(default_factory=lambda: FitConfig(epochs=20, learning_rate=1e-4))


def relearn(
    apply: Apply,
    variables: Variables,
    poisoned: Batch,
    clean: Batch,
    key: jax.Array,
    config: FitConfig,
    *,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> tuple[Variables, dict[str, np.ndarray]]:
    """Ascends on ``poisoned`` and descends on ``clean`` (uint8 [N, H, W, C], int32 [N]), in turn, an epoch each.

    Returns:
      The variables, and loss and accuracy [E] on the clean images; with ``poisoned_`` before the name, on the others.
    """
    sets = [Batch(*jax.device_put(tuple(each))) for each in (poisoned, clean)]

    def start() -> TrainState:
        opt_state, epoch = _begin(config, variables["params"])
        return TrainState(variables["params"], variables["batch_stats"], opt_state, epoch, key)

    reached, history = run_epochs(
        "relearn",
        config.epochs,
        start,
        lambda state: _relearn_epoch(apply, config, augment, state, variables["masks"], *sets),
        progress=progress,
        figures=("loss", "accuracy"),
    )
    return {**variables, "params": reached.params, "batch_stats": reached.batch_stats}, history


@jit_settings()
def _begin(config: FitConfig, params: Tree) -> tuple[optax.OptState, jax.Array]:
    return config.make_optimizer(1).init(params), jnp.int32(0)  # whatever its schedule, it starts alike


@jit_settings(3)
def _relearn_epoch(
    apply: Apply,
    config: FitConfig,
    augment: Augment | None,
    state: TrainState,
    masks: Tree,
    poisoned: Batch,
    clean: Batch,
) -> tuple[TrainState, dict[str, jax.Array]]:
    size = config.batch_size
    steps = sum(-(-len(each.labels) // size) for each in (poisoned, clean))
    tx = config.make_optimizer(steps)

    def step(sign: float, carry, batch: Batch, key: jax.Array):
        params, batch_stats, opt_state = carry
        images = batch.images if augment is None else augment(key, batch.images)

        def loss_of(params: Tree):
            logits, moved = apply({"params": params, "batch_stats": batch_stats, "masks": masks}, images, train=True)
            return sign * cross_entropy(logits, batch.labels).mean(), (moved, batch_metrics(logits, batch.labels))

        gradient, (moved, metrics) = jax.grad(loss_of, has_aux=True)(params)
        params, opt_state = descend(tx, gradient, opt_state, params)
        return (params, moved, opt_state), metrics

    ascent_key, descent_key = jax.random.split(jax.random.fold_in(state.key, state.epoch))
    carry = (state.params, state.batch_stats, state.opt_state)
    carry, up = run_epoch(partial(step, -1.0), carry, poisoned, ascent_key, batch_size=size)
    carry, down = run_epoch(partial(step, 1.0), carry, clean, descent_key, batch_size=size)
    figures = {**down, **{f"poisoned_{name}": value for name, value in up.items()}}
    return TrainState(*carry, state.epoch + 1, state.key), figures


def run_dbr(task: Task, config: DbrConfig) -> Defended:
    """Divides the untrusted set, and makes the suspicious network unlearn one part and relearn another.

    Raises:
      ConfigError: shares that leave fewer than two images clean or poisoned, or batches of one image.
      DataError: labels that do not fit the network.
      DefenseError: a loss became infinite or not a number.
    """
    data = Batch(*map(np.asarray, task.data))
    check_set(data, task.network.architecture.num_classes)
    separation_key, relearn_key = jax.random.split(task.key)
    found = separate(task, config.separation, separation_key, "dbr.separation")
    for chosen, words in ((found.poisoned, "poisoned"), (found.clean, "clean")):
        check_batches(len(chosen), f"images held to be {words}", {"dbr.relearn": config.relearn})
    poisoned, clean = (Batch(data.images[each], data.labels[each]) for each in (found.poisoned, found.clean))
    variables, history = task.do(
        "relearn",
        relearn,
        task.network,
        task.variables,
        poisoned,
        clean,
        relearn_key,
        config.relearn,
        augment=task.augment,
        progress=task.progress,
    )
    task.note("relearn", history)
    rule = (
        f"No filter is pruned: all weights unlearned {len(found.poisoned)} images and relearned {len(found.clean)}, as "
        "many as the settings say."
    )
    return Defended(
        variables,
        {},
        "weights",
        NO_CANDIDATES,
        Choice(rule=rule, pruned=0),
        kept=(found.clean,),
        isolated=found.poisoned,
        suspicion=found.scores,
    )


dbr = Method(
    name="dbr",
    title="D-BR",
    summary="D-BR: unlearn the untrusted images whose features change most under rotation, relearn the steadiest",
    basis="All weights unlearn the untrusted images whose features change most under rotation, and relearn those whose "
    "features change least (D-BR, NeurIPS 2022).",
    run=run_dbr,
    defaults=DbrConfig(),
    needs="untrusted",
    keeps_network=True,
    changes="weights",
    augments=True,
    colour="#00838f",
    marker=(7, 1, 180),
)

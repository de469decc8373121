"""The main programs of the package, traced for small abstract arguments and not compiled."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from rnp_jax import masks
from rnp_jax.attacks import cl, fc, lf, narcissus, trojan
from rnp_jax.attacks.adversarial import Ball
from rnp_jax.attacks.awp import Awp
from rnp_jax.attacks.base import Attack
from rnp_jax.attacks.dfst import Dfst
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.input_aware import InputAware
from rnp_jax.attacks.lira import Lira
from rnp_jax.data import Augmentation
from rnp_jax.defenses import phase, site_inputs
from rnp_jax.defenses.dbd import DbdConfig, _semi_epoch
from rnp_jax.defenses.finetune import FinetuneConfig, start_finetuning
from rnp_jax.defenses.fmp import _score
from rnp_jax.defenses.mcr import Ends, McrConfig, start_path
from rnp_jax.defenses.recover import RecoverConfig, _Recovering
from rnp_jax.defenses.unit import Given, UnitConfig, begin_steps, run_steps, start_bounds
from rnp_jax.defenses.unlearn import UnlearnConfig, start_unlearning
from rnp_jax.detection import batches, cognitive, labels, strip
from rnp_jax.evaluation import predict
from rnp_jax.inversion import mask_search, short_search, warps
from rnp_jax.models import Architecture, Network, Precision
from rnp_jax.training import awp, dfst, input_aware, lira, mixmatch, simclr, supervised
from rnp_jax.training.joint import Joint, Setting
from rnp_jax.training.views import Views
from rnp_jax.types import Batch

N, B = 10, 4  # images, images a batch
ARCHITECTURE = Architecture("wanet_mnist", 3, 2, image_shape=(28, 28, 1))
KEY = jax.eval_shape(jax.random.key, 0)


class Numbers(NamedTuple):
    """Floats that settings take."""

    rate: float = 0.1
    share: float = 0.5
    std: float = 0.3


def network_of(precision: Precision, numbers: Numbers) -> Network:
    return Network(ARCHITECTURE, (0.4,), (numbers.std,), precision=precision)


def like(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


SET = Batch(like(N, *ARCHITECTURE.image_shape, dtype=jnp.uint8), like(N, dtype=jnp.int32))
COUNT = like(dtype=jnp.int32)


def variables_of(network: Network) -> Any:
    return jax.eval_shape(network.init, KEY)


def trace_training(network: Network, numbers: Numbers) -> jax.stages.Traced:
    config = supervised.TrainConfig(2, B, numbers.rate, numbers.share, numbers.rate / 100)
    variables = variables_of(network)
    state = jax.eval_shape(lambda v, key: supervised.start(v, key, config, N), variables, KEY)
    augment = Augmentation(2)
    return supervised.train_epoch.trace(network, config, None, augment, None, state, variables["masks"], SET)


def trace_phase(made: phase.Phase, trained: Any, fixed: Any, stats: Any) -> jax.stages.Traced:
    state = jax.eval_shape(partial(phase._start, made), trained, fixed, stats)
    return phase._run_until.trace(made, state, fixed, SET, KEY, COUNT)


def trace_unlearning(network: Network, numbers: Numbers) -> jax.stages.Traced:
    variables = variables_of(network)
    config = UnlearnConfig(2, B, learning_rate=numbers.rate, stop_accuracy=numbers.share)
    made = start_unlearning(network, config, Augmentation(2))
    return trace_phase(made, variables["params"], variables["masks"], variables["batch_stats"])


def trace_recovery(network: Network, numbers: Numbers) -> jax.stages.Traced:
    variables = variables_of(network)
    config = RecoverConfig(2, B, learning_rate=numbers.rate, alpha=numbers.share)
    made = _Recovering("recover", network, 2, B, True, None, config)
    fixed = {"params": variables["params"], "masks": variables["masks"]}
    return trace_phase(made, masks.filters(variables["masks"]), fixed, variables["batch_stats"])


def trace_tuning(network: Network, numbers: Numbers) -> jax.stages.Traced:
    variables = variables_of(network)
    config = FinetuneConfig(epochs=2, batch_size=B, learning_rate=numbers.rate)
    made = start_finetuning(network, config, None)
    return trace_phase(made, variables["params"], variables["masks"], variables["batch_stats"])


def trace_evaluation(network: Network, numbers: Numbers) -> jax.stages.Traced:
    """The first segment, which has a convolution and normalises."""
    del numbers
    network = network.evaluator
    own = network.segments[0].select(variables_of(network))
    return predict._run_segment.trace(predict._SegmentRun(network, 0), own, SET.images)


def trace_logits(network: Network, numbers: Numbers) -> jax.stages.Traced:
    del numbers
    return batches._logits.trace(network.evaluator, variables_of(network), SET.images)


def trace_strip(network: Network, numbers: Numbers) -> jax.stages.Traced:
    del numbers
    return strip._mean_entropy.trace(network.evaluator, variables_of(network), SET.images, SET.images, like())


def trace_distillation(network: Network, numbers: Numbers) -> jax.stages.Traced:
    config = cognitive.CognitiveConfig(2, numbers.rate, numbers.share)
    return cognitive._distil.trace(network.fixed, config, variables_of(network), SET.images, SET.labels, KEY)


def trace_label_search(network: Network, numbers: Numbers) -> jax.stages.Traced:
    config = replace(labels.gentle_unlearning(), batch_size=B, learning_rate=numbers.rate)
    made = start_unlearning(network, config)
    return labels._watch.trace(made, variables_of(network), SET, KEY, like())


def trace_trigger_search(network: Network, numbers: Numbers) -> jax.stages.Traced:
    config = mask_search.TriggerConfig(2, 2, B, numbers.rate, success=numbers.share)
    wanted = like(3, dtype=jnp.int32)
    run = jax.eval_shape(partial(mask_search.start_search, config, ARCHITECTURE.image_shape), KEY, wanted)
    variables = variables_of(network)
    return mask_search.run_until.trace(network.fixed, config, True, variables, SET.images, KEY, run, wanted, COUNT)


def trace_short_search(network: Network, numbers: Numbers) -> jax.stages.Traced:
    del numbers
    rates = short_search._Rates(like(), (like(), like()), like(), like(), COUNT, COUNT, like(), like())
    side = ARCHITECTURE.image_shape
    start = short_search.Stamps(like(3, *side[:2]), like(3, *side))
    wanted = like(3, N, dtype=jnp.int32)
    variables = variables_of(network)
    return short_search._search.trace(network.fixed, 2, B, variables, SET.images, KEY, rates, COUNT, wanted, start)


def trace_warps(network: Network, numbers: Numbers) -> jax.stages.Traced:
    del numbers
    rates = like(), like()
    return warps._search.trace(network.fixed, 4, B, variables_of(network), SET.images, KEY, COUNT, rates, COUNT)


def trace_simclr(network: Network, numbers: Numbers) -> jax.stages.Traced:
    config = simclr.SimclrConfig(2, B, numbers.share, numbers.rate, projection=3)
    views, variables = Views(scale=(numbers.std, 1.0)), variables_of(network)
    state = jax.eval_shape(lambda v, key: simclr.start(network, v, key, config, N), variables, KEY)
    return simclr._pretrain_epoch.trace(network, config, views, simclr.contrast_views, state, variables["masks"], SET)


def trace_mixmatch(network: Network, numbers: Numbers) -> jax.stages.Traced:
    config, variables = mixmatch.MixMatchConfig(2, B, numbers.rate, lambda_u=numbers.share), variables_of(network)
    state = jax.eval_shape(lambda v, key: mixmatch.start(v, key, config, N, N), variables, KEY)
    return mixmatch.mixmatch_epoch.trace(network, config, None, state, variables["masks"], SET, SET.images)


def trace_bounds(network: Network, numbers: Numbers) -> jax.stages.Traced:
    config, variables = UnitConfig(steps=2, batch_size=B, learning_rate=numbers.rate), variables_of(network)
    start = jax.eval_shape(partial(start_bounds, network, B), variables, SET.images, like())
    state = jax.eval_shape(partial(begin_steps, config), start)
    given = Given(variables, SET, SET, COUNT)
    return run_steps.trace(network, config, state, given, COUNT)


def trace_filter_scores(network: Network, numbers: Numbers) -> jax.stages.Traced:
    del numbers
    start = like(*SET.images.shape)
    return _score.trace(network, ("conv1",), variables_of(network), SET, start, like(), COUNT)


def trace_sources(network: Network, numbers: Numbers) -> jax.stages.Traced:
    del numbers
    return site_inputs.read_sources.trace(network, ("linear9",), variables_of(network), SET.images)


def trace_path(network: Network, numbers: Numbers) -> jax.stages.Traced:
    config = McrConfig(epochs=2, batch_size=B, learning_rate=numbers.rate, weight_decay=numbers.share)
    made, variables = start_path(network, config, None), variables_of(network)
    fixed = {"masks": variables["masks"], "ends": Ends(variables["params"], variables["params"])}
    return trace_phase(made, variables["params"], fixed, variables["batch_stats"])


def trace_selection(network: Network, numbers: Numbers) -> jax.stages.Traced:
    mixing = mixmatch.MixMatchConfig(2, B, numbers.rate, lambda_u=numbers.share)
    config, variables = DbdConfig(mixmatch=mixing, keep=numbers.share), variables_of(network)
    state = jax.eval_shape(lambda v, key: mixmatch.start(v, key, mixing, 5, N - 5), variables, KEY)
    return _semi_epoch.trace(network, config, None, 5, state, variables["masks"], SET)


def setting_of(network: Network, numbers: Numbers, attack: Attack) -> Setting:
    config = supervised.TrainConfig(2, B, numbers.rate, numbers.share, numbers.rate / 100)
    return Setting(network, attack, Goal(num_classes=3), config, 0.5, Augmentation(2))


def started(joint: Joint, setting: Setting) -> Any:
    return jax.eval_shape(lambda key: joint.start(setting, key, N), KEY)


def trace_trigger_masks(network: Network, numbers: Numbers) -> jax.stages.Traced:
    attack = InputAware(width=2, mask_density=numbers.std, norm_weight=numbers.share, learning_rate=numbers.rate)
    setting = setting_of(network, numbers, attack)
    return input_aware._mask_epoch.trace(setting, started(input_aware.InputAwareTraining(), setting), SET)


def trace_trigger_patterns(network: Network, numbers: Numbers) -> jax.stages.Traced:
    attack = InputAware(width=2, diversity_weight=numbers.share, learning_rate=numbers.rate)
    setting = setting_of(network, numbers, attack)
    return input_aware._joint_epoch.trace(setting, started(input_aware.InputAwareTraining(), setting), SET)


def trace_noise_generator(network: Network, numbers: Numbers) -> jax.stages.Traced:
    attack = Lira(width=2, epsilon=numbers.std, alpha=numbers.share, learning_rate=numbers.rate)
    setting = setting_of(network, numbers, attack)
    return lira._generator_epoch.trace(setting, started(lira.LiraTraining(), setting), SET)


def trace_generated_noise(network: Network, numbers: Numbers) -> jax.stages.Traced:
    setting = setting_of(network, numbers, Lira(width=2, final_epsilon=numbers.std, alpha=numbers.share))
    return lira._victim_epoch.trace(setting, started(lira.LiraTraining(), setting), SET)


def trace_perturbed_weights(network: Network, numbers: Numbers) -> jax.stages.Traced:
    attack = Awp(epsilon=numbers.std, learning_rate=numbers.rate, distance_weight=numbers.share)
    setting = setting_of(network, numbers, attack)
    state = started(awp.AwpTraining(), setting)
    return awp._perturb.trace(setting, attack.init(ARCHITECTURE.image_shape), state, SET)


def trace_detoxification(network: Network, numbers: Numbers) -> jax.stages.Traced:
    attack = Dfst(alpha=numbers.share, window=3, learning_rate=numbers.rate, other_weight=numbers.std)
    setting = setting_of(network, numbers, attack)
    return dfst._detoxify.trace(setting, started(dfst.DfstTraining(), setting), SET, KEY)


def trace_detoxicants(network: Network, numbers: Numbers) -> jax.stages.Traced:
    setting = setting_of(network, numbers, Dfst(alpha=numbers.share, window=3))
    return dfst.fill.trace(setting, like(4, 1), SET, KEY)


def trace_collision(network: Network, numbers: Numbers) -> jax.stages.Traced:
    attack = fc.FeatureCollision(beta=numbers.rate, epsilon=20 * numbers.share, rate=10 * numbers.std, steps=2)
    return fc._collide.trace(network, attack, variables_of(network), SET.images, SET.images)


def trace_adversarial_images(network: Network, numbers: Numbers) -> jax.stages.Traced:
    ball = Ball(epsilon=20 * numbers.share, step=numbers.rate, steps=2)
    return cl._perturb.trace(network, ball, variables_of(network), COUNT, SET.images)


def trace_universal_perturbation(network: Network, numbers: Numbers) -> jax.stages.Traced:
    attack = narcissus.Narcissus(epsilon=20 * numbers.share, learning_rate=numbers.rate, batch_size=B)
    state = jax.eval_shape(partial(narcissus._start, attack), like(*ARCHITECTURE.image_shape), KEY)
    return narcissus._learn.trace(network, attack, variables_of(network), SET.images, COUNT, state, COUNT)


def trace_trojan(network: Network, numbers: Numbers) -> jax.stages.Traced:
    attack = trojan.Trojan(activation=10 * numbers.share, learning_rate=numbers.rate, iterations=2)
    mask, chosen = like(*ARCHITECTURE.image_shape[:2], 1, dtype=jnp.bool_), like(2, dtype=jnp.int32)
    return trojan._optimise.trace(network, attack, variables_of(network), mask, chosen, KEY)


def trace_low_frequency(network: Network, numbers: Numbers) -> jax.stages.Traced:
    images, attack = like(2, *ARCHITECTURE.image_shape), lf.LowFrequency(bound=numbers.rate, overshoot=numbers.std)
    return lf._go_through.trace(
        network, attack, variables_of(network), like(*ARCHITECTURE.image_shape), images, like(2, dtype=jnp.int32), KEY
    )


Trace = Callable[[Network, Numbers], jax.stages.Traced]

PROGRAMS: Mapping[str, Trace] = MappingProxyType(
    {name.removeprefix("trace_"): made for name, made in globals().copy().items() if name.startswith("trace_")}
)
PROGRAMS = MappingProxyType({name: made for name, made in PROGRAMS.items() if name != "phase"})


def walk(program: Jaxpr | ClosedJaxpr) -> Iterator[JaxprEqn]:
    """All equations of a program, those of programs within it too."""
    for equation in getattr(program, "jaxpr", program).eqns:
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if isinstance(part, Jaxpr | ClosedJaxpr):
                    yield from walk(part)


def products(traced: jax.stages.Traced) -> list[JaxprEqn]:
    """The convolutions and matrix products."""
    return [each for each in walk(traced.jaxpr) if each.primitive.name in ("dot_general", "conv_general_dilated")]

"""NPD: a linear map before one late layer filters out what adversarial images turn on (Zhu et al., NeurIPS 2023).

The Neural Polarizer is a 1×1 convolution P without bias, at first the identity, in front of one convolution W of the
frozen network. Both are one convolution, so that the result has the source's layers:

    W'[o, c, i, j] = Σ_d W[o, d, i, j] P[d, c]

For every batch, targeted adversarial images x' = clip(x + δ, 0, 1) are made by signed steps from δ = 0 towards the most
likely wrong class y*, ‖δ‖₂ ≤ ρ for each image. P then makes one step of SGD along the gradient of

    λ₁ CE(x, y) + λ₂ CE(x', argmax f(x)) − λ₃ log(1.0001 − p_y'(x')) − λ₄ log(1.0001 − p_y*(x'))

where y' is the most likely wrong class of x'. As the release does: the network is in evaluation mode; images are not
augmented; steps for a batch end once more than 60 % of it are of their classes y*; the cross-entropy that they lower is
cut at 80; the learning rate is constant; P decays towards zero with the weight decay; the last state is kept.

What differs from the release:

- It has a batch norm behind P, whose statistics a warm-up of five epochs finds. Here there is none, and no warm-up. Its
  scale is part of P anyway. Its shift is not a change of W where the convolution pads with zeros.
- It is written for one network and puts P before ``layer4.1.conv1``. Here W is the kernel of the last but one layer of
  filters, shortcuts left out, which is that one in a ResNet-18. Where it has groups, the nearest earlier one without
  serves. In a network without convolutions, W is a linear layer's matrix.
- The clean images are whatever the defender gives, where the release takes as many of every class. Features, which are
  not pixels, are not clipped.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from rnp_jax.defenses.kernels import filter_kernels, is_shortcut, with_leaves
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Phase, run_phase
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.sau import Logits
from rnp_jax.defenses.site_maps import find
from rnp_jax.defenses.tuning import begin, conclude
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.inversion.stamps import scale
from rnp_jax.models import Network
from rnp_jax.training.epoch import batch_metrics, cross_entropy
from rnp_jax.types import Apply, Batch, Tree, Variables

_CUT = 80.0  # cross-entropy beyond which an image no longer moves
_ABOVE_ONE = 1.0001  # so that the logarithm of what is left of a probability is finite


@dataclass(frozen=True)
class NpdConfig:
    """Settings of NPD; the defaults are the release's, for images of 32×32 pixels.

    Attributes:
      epochs: number of passes over the clean images.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: constant learning rate of SGD on the polarizer.
      momentum: momentum of SGD.
      weight_decay: weight decay of the polarizer, added to the gradient before momentum.
      radius: largest L2 norm ρ of an image's perturbation, for pixels in [0, 1].
      inner_steps: most steps of the perturbation for each batch.
      inner_step: size of these steps in each pixel.
      enough: share of a batch that is misled to its classes, above which the steps end.
      clean: weight λ₁ of the loss on clean images.
      kept: weight λ₂ of the loss of adversarial images, for the class of their clean image.
      wrong: weight λ₃ of the most likely wrong class of adversarial images.
      target: weight λ₄ of the class that they were made for.
      shuffle: shuffle the images every epoch; False keeps the given order.
    """

    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    radius: float = 3.0
    inner_steps: int = 2
    inner_step: float = 0.1
    enough: float = 0.6
    clean: float = 1.0
    kept: float = 0.4
    wrong: float = 0.4
    target: float = 0.4
    shuffle: bool = True

    def __post_init__(self):
        if min(self.epochs, self.batch_size, self.inner_steps) < 1 or not self.learning_rate > 0:
            raise ConfigError(f"{self}: expected epochs, batch_size and inner_steps >= 1 and learning_rate > 0")
        sizes = (self.weight_decay, self.radius, self.inner_step, self.clean, self.kept, self.wrong, self.target)
        if not all(size >= 0 for size in sizes) or not 0 <= self.enough <= 1:
            raise ConfigError(f"{self}: expected enough in [0, 1], and no decay, radius, step or weight below 0")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """λ₁ to λ₄."""
        return self.clean, self.kept, self.wrong, self.target


def run_npd(task: Task, config: NpdConfig) -> Defended:
    """Trains the polarizer and multiplies it into the layer behind it.

    Raises:
      DefenseError: the network has no layer of filters without groups, or the loss became infinite or not a number.
    """
    begun, network, variables = begin("original", task, RnpConfig()), task.network, task.variables
    layer = choose_layer(network, variables)
    kernel = find(variables["params"], layer)["kernel"]
    phase = start_polarizing(network, layer, config)
    trained, _, history, _ = task.do(
        "npd",
        run_phase,
        phase,
        {"plug": jnp.eye(kernel.shape[-2], dtype=kernel.dtype)},
        {name: variables[name] for name in ("params", "masks")},
        variables["batch_stats"],
        task.data,
        task.key,
        task.progress,
    )
    task.note("npd", history)
    rule = (
        f"No filter is pruned: a linear map of the {kernel.shape[-2]} channels that {layer} reads is trained, with "
        "settings fixed beforehand, and multiplied into that layer."
    )
    begun = replace(begun, choice=begun.choice.model_copy(update={"rule": rule}))
    return conclude(task, begun, plug_in(variables, layer, trained["plug"]))


def choose_layer(network: Network, variables: Variables) -> str:
    """The last but one layer of filters in order of evaluation, or the nearest earlier one without groups.

    These are the layers that filter masks act on themselves; where masks act on batch norm, the convolutions. Of a
    single one, it is that one.

    Raises:
      DefenseError: there is none.
    """
    own = {site.layer for site in network.sites if site.producers == (site.layer,)}
    filtered = own or set(filter_kernels(network, variables))
    order = [name for name in network.layers if name in filtered and not is_shortcut(name)]
    early = order[:-1] or order
    eligible = [name for name in early if getattr(network.layers[name], "groups", 1) == 1]
    if not eligible:
        raise DefenseError(
            f"{network.architecture.name} has no layer for NPD among {', '.join(early)}: expected one without groups, "
            "since a map of all channels is not part of a grouped convolution"
        )
    return eligible[-1]


def fold(kernel: Float[Array, "... D F"], plug: Float[Array, "D C"]) -> Float[Array, "... C F"]:
    """The kernel of the layer that applies ``plug`` to the channels at every position, and then ``kernel``."""
    return jnp.einsum("...df,dc->...cf", kernel, plug, precision=lax.Precision.HIGHEST)


def plug_in(variables: Variables, layer: str, plug: Float[Array, "D C"]) -> Variables:
    """The network with the map in front of a layer, as a part of it."""
    kernel = fold(find(variables["params"], layer)["kernel"], plug)
    return {**variables, "params": with_leaves(variables["params"], {layer: {"kernel": kernel}})}


def find_targeted(
    logits_of: Logits,
    images: Float[Array, "B H W C"],
    targets: Int[Array, "B"],
    config: NpdConfig,
    *,
    pixels: bool,
) -> Float[Array, "B H W C"]:
    """The perturbations δ that send images to their targets; ``pixels`` says that they are in [0, 1] and stay there."""

    def objective(delta: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = logits_of(perturb(images, delta, pixels=pixels))
        return cross_entropy(logits, targets).clip(max=_CUT).mean(), logits

    def step(number: jax.Array, delta: jax.Array) -> jax.Array:
        slope, logits = jax.grad(objective, has_aux=True)(delta)
        reached = (logits.argmax(-1) == targets).astype(jnp.float32).mean()
        moved = project(delta - config.inner_step * jnp.sign(slope), config.radius)
        return jnp.where((number > 0) & (reached > config.enough), delta, moved)

    return jax.lax.fori_loop(0, config.inner_steps, step, jnp.zeros_like(images))


def perturb(images: Float[Array, "B H W C"], delta: Float[Array, "B H W C"], *, pixels: bool) -> jax.Array:
    """x + δ, clipped to [0, 1] if these are pixels [B, H, W, C]."""
    return (images + delta).clip(0, 1) if pixels else images + delta


def project(delta: Float[Array, "B H W C"], radius: float) -> Float[Array, "B H W C"]:
    """Each image's perturbation, scaled to the L2 norm ``radius`` where it is longer."""
    norm = jnp.sqrt(jnp.square(delta).sum((1, 2, 3), keepdims=True))
    return delta * jnp.where(norm > radius, radius / jnp.where(norm > 0, norm, 1), 1)


def choose_targets(clean: Float[Array, "B K"], labels: Int[Array, "B"]) -> Int[Array, "B"]:
    """The most likely wrong class y* of each image."""
    own = labels[:, None] == jnp.arange(clean.shape[1])[None]
    return jnp.where(own, -jnp.inf, clean).argmax(-1)


def measure_losses(
    clean: Float[Array, "B K"], adversarial: Float[Array, "B K"], labels: Int[Array, "B"], targets: Int[Array, "B"]
) -> Float[Array, "4"]:
    """The four losses that λ₁ to λ₄ weigh, of the logits of clean images and of the adversarial ones."""
    left = -jnp.log(_ABOVE_ONE - jax.nn.softmax(adversarial))

    def of(classes: Int[Array, "B"]) -> jax.Array:
        return jnp.take_along_axis(left, classes[:, None], 1).mean()

    wrong = choose_targets(adversarial, labels)
    before = cross_entropy(adversarial, clean.argmax(-1)).mean()
    return jnp.stack([cross_entropy(clean, labels).mean(), before, of(wrong), of(targets)])


def start_polarizing(network: Apply, layer: str, config: NpdConfig) -> Phase:
    """The phase of NPD, for those who run its steps themselves. Equal ones share compiled programs.

    It trains ``plug`` [D, C]. Its fixed tree holds the network's ``params`` and ``masks``.
    """
    return _Polarizing("npd", network, config.epochs, config.batch_size, config.shuffle, None, layer, config)


@dataclass(frozen=True)
class _Polarizing(Phase):
    layer: str
    config: NpdConfig

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        del steps_per_epoch  # the rate is constant
        config = self.config
        sgd = optax.sgd(config.learning_rate, momentum=config.momentum)
        return optax.chain(optax.add_decayed_weights(config.weight_decay), sgd)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        variables = {**fixed, "batch_stats": batch_stats}
        images, labels, pixels = scale(batch.images), batch.labels, batch.images.dtype == jnp.uint8

        def network_with(plug: jax.Array) -> Logits:
            polarized = plug_in(variables, self.layer, plug)
            return lambda pixels: self.apply(polarized, pixels)[0]

        here = network_with(trained["plug"])
        clean = here(images)
        targets = choose_targets(jax.lax.stop_gradient(clean), labels)
        frozen = network_with(jax.lax.stop_gradient(trained["plug"]))
        delta = find_targeted(frozen, images, targets, self.config, pixels=pixels)
        losses = measure_losses(clean, here(perturb(images, delta, pixels=pixels)), labels, targets)
        loss = (jnp.asarray(self.config.weights, jnp.float32) * losses).sum()
        metrics = {**batch_metrics(clean, labels), "loss": labels.shape[0] * loss}
        return loss, (batch_stats, metrics)


npd = Method(
    name="npd",
    title="NPD",
    summary="Neural Polarizer: train one linear map before a late layer against targeted adversarial images",
    basis="A linear map before one late layer is trained so that the network answers clean images as before, and "
    "targeted adversarial images as their clean ones (Neural Polarizer, NeurIPS 2023).",
    run=run_npd,
    defaults=NpdConfig(),
    changes="weights",
    colour="#5d4037",
    marker=(5, 1, 0),
)
